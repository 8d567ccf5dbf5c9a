"""Peak memory of tensor code, counted by running it on "meta" tensors, which have shapes but no data."""

import functools
import weakref
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fused_inr import reference
from fused_inr.flattening import flatten, unflatten
from fused_inr.inr import INR, Grid


def peak_bytes(function: Callable[[], Any]) -> int:
    """Return the peak number of bytes in tensors that a function allocates, its result included."""
    with _AllocationCounter() as counter:
        result = function()
    del result
    return counter.peak


def render_bytes(render: Callable[..., Any], inr: INR, grid: Grid, *settings: Hashable) -> int:
    """Return the peak bytes of `render(inr, grid, *settings)` without gradients.

    Counting takes as long as a small call, so counts are cached; they depend on sizes and strides, not on values.

    Args:
        render: a module-level function, because it is a cache key; equal settings must give equal counts.
        inr: on any device.
        grid: the base grid.
        settings: further arguments.
    """
    tensors, structure, numbers = flatten(inr)
    layout = tuple((tuple(tensor.shape), tensor.stride(), tensor.dtype) for tensor in tensors)
    return _counted(render, layout, tuple(structure), tuple(numbers), (grid.height, grid.width), settings)


@functools.lru_cache(maxsize=4096)
def _counted(
    render: Callable[..., Any],
    layout: tuple[tuple[tuple[int, ...], tuple[int, ...], torch.dtype], ...],
    structure: tuple[int, ...],
    numbers: tuple[float, ...],
    size: tuple[int, int],
    settings: tuple[Hashable, ...],
) -> int:
    tensors = [torch.empty_strided(shape, stride, dtype=dtype, device="meta") for shape, stride, dtype in layout]
    inr = unflatten(tensors, structure, numbers)
    with torch.no_grad():
        return peak_bytes(lambda: render(inr, Grid(*size), *settings))


def reference_render_memory(inr: INR, grid: Grid, dtype: torch.dtype | None = None) -> int:
    """Return the peak bytes of `reference.render` without gradients, excluding the workspace of matrix products."""
    return render_bytes(reference.render, inr, grid, dtype)


class _AllocationCounter(TorchDispatchMode):
    """Counts the bytes of the storages that operators allocate, from the first tensor on a storage to the last."""

    def __init__(self) -> None:
        super().__init__()
        self.peak = 0
        self._allocated = 0
        self._tensors: dict[int, int] = {}  # storage -> number of tensors on it

    def _release(self, storage: int, size: int) -> None:
        self._tensors[storage] -= 1
        if not self._tensors[storage]:
            del self._tensors[storage]
            self._allocated -= size

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        inputs = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        storages = {tensor.untyped_storage()._cdata for tensor in inputs}
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result):
            if not isinstance(tensor, Tensor):
                continue
            storage, size = tensor.untyped_storage()._cdata, tensor.untyped_storage().nbytes()
            if storage not in self._tensors:
                if storage in storages:  # a view of a tensor that the function did not allocate
                    continue
                self._allocated += size
            self._tensors[storage] = self._tensors.get(storage, 0) + 1
            weakref.finalize(tensor, self._release, storage, size)
            self.peak = max(self.peak, self._allocated + _temporary_bytes(function, args, tensor))
        return result


def _temporary_bytes(function: Any, args: Sequence[Any], output: Tensor) -> int:
    """Return the bytes that an operator allocates and frees within one call on a CPU, unseen on "meta"."""
    if function is torch.ops.aten._upsample_nearest_exact2d.default:
        return args[0].nbytes + output.nbytes  # both may be copied to another memory format and back
    if function not in (torch.ops.aten.add.Tensor, torch.ops.aten.mul.Tensor):
        return 0
    widened = sum(arg.numel() for arg in args if isinstance(arg, Tensor) and arg.dtype != output.dtype)
    numbers = sum(
        isinstance(arg, float) for arg in args
    )  # each becomes a float64 tensor, then one of the output's type
    return (widened + numbers) * output.itemsize + 8 * numbers
