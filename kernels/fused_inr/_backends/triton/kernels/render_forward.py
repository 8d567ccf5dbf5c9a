"""The forward pass of an INR from first layer to frames: which kernels run, in what order, and the memory they take."""

import torch
from torch import Tensor

from fused_inr._backends.triton.kernels import configs, fused_stages, launch, to_rgb
from fused_inr._backends.triton.kernels.layers import Tables, rows_dense
from fused_inr._backends.triton.kernels.render_layers import Forward, Run
from fused_inr._backends.triton.kernels.to_rgb import Canvas
from fused_inr.inr import INR, Grid
from fused_inr.lowering import StagePlan, lower
from fused_inr.peak_memory import render_bytes


class _Evaluation:
    """One call of `evaluate`."""

    def __init__(self, inr: INR, dtype: torch.dtype, run: Run) -> None:
        self._dtype = dtype
        self._forward = Forward(inr, dtype, run)
        self.canvas = Canvas(None, 1, inr.device)

    def stage(self, plan: StagePlan, x: Tensor | None, store: bool, planes: bool) -> Tensor | None:
        """Return the output of a stage if `store`, as frames if `planes`; x is the output of the previous stage."""
        tables, number = self._forward.tables(plan), 0
        for count in fused_stages.cuts(plan.layers, self._dtype, self.canvas.device):
            last = number + count == len(plan.layers)
            if count > 1 and not (planes and last):
                x = self._together(plan, number, count, x, tables, store or not last)
                number += count
                continue
            for _ in range(count):
                last = number + 1 == len(plan.layers)
                options = {"store": store or not last, "planes": planes and last, "canvas": self.canvas}
                x = self._forward.layer(plan, number, x, tables, **options)
                number += 1
        return x

    def _together(
        self, plan: StagePlan, number: int, count: int, x: Tensor | None, tables: Tables | None, store: bool
    ) -> Tensor | None:
        """Run `count` layers from `number` on in one kernel and return the output of the last."""
        layers = plan.layers[number : number + count]
        weight, source = self._forward.read(plan, number, x, tables)
        weights = [weight, *(rows_dense(layer.weight, self._dtype) for layer in layers[1:])]
        return self._forward.launched(fused_stages.stage(layers, weights, source, store=store, canvas=self.canvas))

    def kept(self, plan: StagePlan, x: Tensor | None) -> list[Tensor]:
        """Return the outputs of all layers of a stage, each from a kernel of its own."""
        tables, outputs = self._forward.tables(plan), []
        for number in range(len(plan.layers)):
            x = self._forward.layer(plan, number, x, tables, canvas=self.canvas)
            outputs.append(x)
        return outputs


def evaluate(
    inr: INR, grid: Grid, dtype: torch.dtype, *, keep: bool = False, run: Run = launch.run
) -> tuple[Tensor, list[Tensor]]:
    """Return frames [N, T, C, H, W] float32 and, if `keep`, the outputs [N, T, H, W, O] of all layers in `dtype`.

    Stages whose activations fit on the chip run in kernels of several layers, unless their outputs are kept.

    Args:
        inr: an INR on a device, without float64 tensors.
        grid: the base grid.
        dtype: type of the products and of activations.
        keep: whether to return the outputs of all layers for a backward pass.
        run: called with the launches to run; a caller with tensors on "meta" may collect them instead.
    """
    plans, evaluation, kept, x = lower(inr, grid), _Evaluation(inr, dtype, run), [], None
    shown = any(layer.to_rgb is not None for plan in plans for layer in plan.layers)
    for plan in plans:
        last = plan is plans[-1]
        if keep:
            kept += evaluation.kept(plan, x)
        if not keep or (last and not shown):  # frames are float32, the last layer's kept output is not
            x = evaluation.stage(plan, x, store=not last or not shown, planes=last and not shown)
        else:
            x = kept[-1]
    if not shown:
        return x, kept
    canvas, size = evaluation.canvas, (inr.batch, inr.times, plans[-1].grid.height, plans[-1].grid.width)
    if canvas.scale < plans[-1].scale:  # the last stages have no read-out
        run([to_rgb.added(canvas, None, None, size, plans[-1].scale)], inr.device)
    return canvas.pixels, kept


def memory(inr: INR, grid: Grid, dtype: torch.dtype) -> int:
    """Return the peak bytes of the tensors of `evaluate`, including its result."""
    # Block sizes depend on the architecture and the kind of the products, and decide which partial sums are stored.
    return render_bytes(_evaluate_for, inr, grid, dtype, configs.architecture(inr.device), configs.kind_of(dtype))


def _evaluate_for(inr: INR, grid: Grid, dtype: torch.dtype, architecture: str, kind: str) -> object:
    """Evaluate an INR on "meta" with the table entries of `architecture`.

    `kind` is the current `configs.kind_of(dtype)`; it is an argument only to be part of the cache key.
    """
    with configs.compiling_for(architecture):
        return evaluate(inr, grid, dtype, run=lambda launches, device: None)
