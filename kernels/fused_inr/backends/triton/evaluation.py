"""An INR from its first layer to its frames: which kernels run, in which order, and how much memory they take."""

import weakref
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fused_inr.backends.triton import launch, read_outs
from fused_inr.backends.triton.forward import Forward, Run
from fused_inr.backends.triton.read_outs import Canvas
from fused_inr.inr import INR, Grid
from fused_inr.lowering import StagePlan, lower


class _Evaluation:
    """One call of `evaluate`."""

    def __init__(self, inr: INR, dtype: torch.dtype, run: Run) -> None:
        self.forward = Forward(inr, dtype, run)
        self.canvas = Canvas(None, 1, inr.device)
        self.kept: list[Tensor] = []

    def stage(self, plan: StagePlan, x: Tensor | None, planes: bool, keep: bool) -> Tensor:
        """What a stage puts out, x being what the one before did; `planes`: as frames, for nothing is read out."""
        tables, canvas = self.forward.tables(plan), None if planes else self.canvas
        for number in range(len(plan.layers)):
            told = {"planes": planes and number + 1 == len(plan.layers), "canvas": canvas}
            if keep:
                self.kept.append(self.forward.layer(plan, number, x, tables, canvas=canvas))
            if not keep or told["planes"]:
                x = self.forward.layer(plan, number, x, tables, **told)
            else:
                x = self.kept[-1]
        return x


def evaluate(
    inr: INR, grid: Grid, dtype: torch.dtype, *, keep: bool = False, run: Run = launch.run
) -> tuple[Tensor, list[Tensor]]:
    """Frames [N, T, C, H, W] float32, and the outputs [N, T, H, W, O] of all layers in `dtype` if they are to be kept.

    Args:
        inr: on a device, none of its tensors float64.
        grid: the base grid.
        dtype: of the products and of activations.
        run: what to do with launches; they may be collected instead where tensors are on "meta".
    """
    plans, found, x = lower(inr, grid), _Evaluation(inr, dtype, run), None
    shown = any(layer.to_rgb is not None for plan in plans for layer in plan.layers)
    for plan in plans:
        x = found.stage(plan, x, not shown and plan is plans[-1], keep)
    if not shown:
        return x, found.kept
    canvas, last = found.canvas, plans[-1]
    if canvas.scale < last.scale:  # the last stages read nothing out
        size = inr.batch, inr.times, last.grid.height, last.grid.width
        run([read_outs.added(canvas, None, None, size, last.scale)], inr.device)
    return canvas.pixels, found.kept


class _Counted(TorchDispatchMode):
    """Counts the bytes of tensors that live at the same time, of those made inside."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.peak = 0
        self._users: dict[int, int] = {}

    def _release(self, key: int, size: int) -> None:
        self._users[key] -= 1
        if not self._users[key]:
            del self._users[key]
            self.now -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        given = {leaf.untyped_storage()._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor):
                continue
            storage = tensor.untyped_storage()
            key, size = storage._cdata, storage.nbytes()
            if key not in self._users:
                if key in given:  # a view of what was made outside
                    continue
                self.now += size
                self.peak = max(self.peak, self.now)
            self._users[key] = self._users.get(key, 0) + 1
            weakref.finalize(tensor, self._release, key, size)
        return result


@torch.no_grad()
def memory(inr: INR, grid: Grid, dtype: torch.dtype) -> int:
    """Peak bytes of the tensors that `evaluate` makes, its result included: those that it makes on "meta"."""
    absent = inr.mapped(lambda tensor: tensor.to("meta"))
    with _Counted() as counted:
        evaluate(absent, grid, dtype, run=lambda launches, device: None)
    return counted.peak
