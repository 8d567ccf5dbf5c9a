"""`render` as ops of a backend: schema, shapes and derivatives once for all backends.

Unlike the other primitives each backend has ops of its own, as two of them serve the same tensors.
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

    Second derivatives are those of a composition of PyTorch calls. Neither function is called where there are no
    frames.

    Args:
        evaluate: takes an INR, its base grid, the type of the products and whether to keep the outputs of the layers;
            gives frames [N, T, C, H, W] float32, and what was kept, in a form of the backend's own.
        differentiate: takes an INR, its base grid, the gradient of its frames, the type of the products and what was
            kept, nothing if the outputs of the layers are to be computed again; gives contiguous gradients of the
            INR's tensors, in the order of `flatten`.
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
        """Return the frames of an INR in the form of `flatten`; `dtype` is the type of the products."""
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
        """Return the gradients of `tensors`; `kept` holds the stored outputs of the forward pass, if any."""
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
        if torch.is_grad_enabled():  # to be differentiated again: PyTorch calls, whose gradients are known
            return composed.gradients(gradient, tensors, *options)
        return frames_backward(gradient, list(tensors), *options, list(kept))

    def backward(ctx: Any, gradient: Tensor) -> tuple:
        return gradients(gradient, ctx.saved_tensors, ctx.options), None, None, None, None, None

    frames.register_autograd(backward, setup_context=_save_for_backward)

    def render(inr: INR, grid: Grid, dtype: torch.dtype) -> Tensor:
        """Return frames [N, T, C, H, W] float32, differentiable in every tensor to any order.

        First gradients come from the kernels, which compute the outputs of layers again or find them stored
        (`fused_inr.activations`); gradients of these come from the lowered form in PyTorch calls.
        """
        tensors, *structure = flatten(inr)
        shape = frames_shape(inr, grid)
        options = (*structure, shape, [*grid.x, *grid.y], dtype)
        needs_gradients = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
        if needs_gradients and activation_storage.stored() and not torch.compiler.is_compiling() and math.prod(shape):
            return _StoringRender.apply(evaluate, gradients, options, *tensors)
        return frames(tensors, *options)

    return render


class _StoringRender(torch.autograd.Function):
    """The same, with the outputs of all layers stored, so that the backward pass computes none of them again."""

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
    """Allocate frames."""
    return tensors[0].new_empty(shape, dtype=torch.float32)


def _gradients_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Allocate gradients."""
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]
