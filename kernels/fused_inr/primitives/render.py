"""`render` as PyTorch ops: schemas, shapes and derivatives, defined once for all backends.

Unlike the other primitives, each backend has its own ops, because two backends serve tensors on the same device.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr import activation_storage, composed
from fused_inr.flattening import flatten, frames_shape, grid_of, unflatten
from fused_inr.inr import INR, Grid

Evaluate = Callable[[INR, Grid, torch.dtype, bool], tuple[Tensor, list[Tensor]]]
Differentiate = Callable[[INR, Grid, Tensor, torch.dtype, list[Tensor]], list[Tensor]]


def register(backend: str, evaluate: Evaluate, differentiate: Differentiate) -> Callable[..., Tensor]:
    """Register fused_inr::<backend>_render and fused_inr::<backend>_render_backward, and return `render` on them.

    Second derivatives come from a composition of PyTorch calls. Neither function is called if the frames are empty.

    Args:
        backend: name of the backend.
        evaluate: takes an INR, its base grid, the dtype of the matrix products and whether to store the layers'
            outputs; returns frames `[N, T, C, H, W]` float32 and the stored outputs, in a form private to the backend.
        differentiate: takes an INR, its base grid, the gradient of its frames, the dtype of the matrix products and the
            stored outputs (empty: recompute them); returns contiguous gradients of the INR's tensors, in the order of
            `flatten`.

    Returns:
        A function with the arguments of `reference.render`, differentiable in every tensor to any order.
    """

    @torch.library.custom_op(f"fused_inr::{backend}_render", mutates_args=())
    def frames(
        tensors: list[Tensor],
        structure: list[int],
        numbers: list[float],
        shape: list[int],
        window: list[float],
        dtype: torch.dtype,
    ) -> Tensor:
        """Return the frames of an INR that `flatten` has flattened; `dtype` is that of the matrix products."""
        if not math.prod(shape):
            return _frames_like(tensors, shape)
        inr = unflatten(tensors, structure, numbers)
        return evaluate(inr, grid_of(inr, shape, window), dtype, False)[0]

    @frames.register_fake
    def _(tensors: list[Tensor], structure: list[int], numbers: list[float], shape: list[int], *others: Any) -> Tensor:
        return _frames_like(tensors, shape)

    @torch.library.custom_op(f"fused_inr::{backend}_render_backward", mutates_args=())
    def frames_backward(
        gradient: Tensor,
        tensors: list[Tensor],
        structure: list[int],
        numbers: list[float],
        shape: list[int],
        window: list[float],
        dtype: torch.dtype,
        kept: list[Tensor],
    ) -> list[Tensor]:
        """Return the gradients of `tensors`; `kept` holds the outputs that the forward pass stored, if any."""
        if not math.prod(shape):
            return [tensor.zero_() for tensor in _gradients_like(tensors)]
        inr = unflatten(tensors, structure, numbers)
        return differentiate(inr, grid_of(inr, shape, window), gradient, dtype, kept)

    @frames_backward.register_fake
    def _(gradient: Tensor, tensors: list[Tensor], *others: Any) -> list[Tensor]:
        return _gradients_like(tensors)

    def gradients(
        gradient: Tensor, tensors: Sequence[Tensor], options: Sequence[Any], kept: Sequence[Tensor] = ()
    ) -> list[Tensor | None]:
        if torch.is_grad_enabled():  # the gradients may be differentiated, which only PyTorch calls support
            return composed.gradients(gradient, tensors, *options)
        return frames_backward(gradient, list(tensors), *options, list(kept))

    def backward(ctx: Any, gradient: Tensor) -> tuple:
        return gradients(gradient, ctx.saved_tensors, ctx.options), None, None, None, None, None

    frames.register_autograd(backward, setup_context=_save_for_backward)

    def render(inr: INR, grid: Grid, dtype: torch.dtype) -> Tensor:
        """Return frames `[N, T, C, H, W]` float32, differentiable in every tensor to any order.

        First derivatives come from the kernels, which recompute the layers' outputs or read the stored ones
        (`fi.store_activations`). Higher derivatives come from the lowered form in PyTorch calls.
        """
        tensors, structure, numbers = flatten(inr)
        shape = frames_shape(inr, grid)
        options = (structure, numbers, shape, [*grid.x, *grid.y], dtype)
        needs_gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        if needs_gradients and activation_storage.stored() and not torch.compiler.is_compiling() and 0 not in shape:
            return _StoringRender.apply(evaluate, gradients, options, *tensors)
        return frames(tensors, *options)

    return render


class _StoringRender(torch.autograd.Function):
    """`render` that stores the outputs of all layers, so that the backward pass need not recompute them."""

    @staticmethod
    def forward(
        ctx: Any, evaluate: Evaluate, gradients: Callable[..., list], options: Sequence[Any], *tensors: Tensor
    ) -> Tensor:
        structure, numbers, shape, window, dtype = options
        inr = unflatten(tensors, structure, numbers)
        frames, kept = evaluate(inr, grid_of(inr, shape, window), dtype, True)
        ctx.save_for_backward(*tensors, *kept)
        ctx.gradients, ctx.options, ctx.count = gradients, options, len(tensors)
        return frames

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        tensors, kept = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        return None, None, None, *ctx.gradients(gradient, tensors, ctx.options, kept)


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    tensors, *options = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = options


def _frames_like(tensors: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Allocate frames `[N, T, C, H, W]` float32 on the device of the tensors."""
    return tensors[0].new_empty(shape, dtype=torch.float32)


def _gradients_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Allocate a contiguous gradient for every tensor."""
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]
