"""`render` on the Triton kernels as ops that torch.compile can hold. Importing this does not import Triton."""

import importlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr import activations, composed
from fused_inr.flattening import flatten, frames_shape, grid_of, unflatten
from fused_inr.inr import INR, Grid

MOST_COLOURS = 64  # of a read-out: a program holds all of them of its pixels
_TYPES = (torch.float32, torch.bfloat16, torch.float16)


def _kernels(name: str) -> Any:
    """A module beside this one that imports Triton."""
    return importlib.import_module(f"fused_inr.backends.triton.{name}")


@torch.library.custom_op("fused_inr::triton_render", mutates_args=())
def triton_render(
    tensors: list[Tensor],
    structure: list[int],
    numbers: list[float],
    shape: list[int],
    window: list[float],
    dtype: torch.dtype,
) -> Tensor:
    """Frames of the INR that `flattening.flatten` took apart; `dtype` is the type of the products."""
    inr = unflatten(tensors, structure, numbers)
    if not math.prod(shape):
        return tensors[0].new_empty(shape, dtype=torch.float32)
    return _kernels("evaluation").evaluate(inr, grid_of(inr, shape, window), dtype)[0]


@triton_render.register_fake
def _(
    tensors: list[Tensor],
    structure: list[int],
    numbers: list[float],
    shape: list[int],
    window: list[float],
    dtype: torch.dtype,
) -> Tensor:
    return tensors[0].new_empty(shape, dtype=torch.float32)


@torch.library.custom_op("fused_inr::triton_render_backward", mutates_args=())
def triton_render_backward(
    gradient: Tensor,
    tensors: list[Tensor],
    structure: list[int],
    numbers: list[float],
    shape: list[int],
    window: list[float],
    dtype: torch.dtype,
    kept: list[Tensor],
) -> list[Tensor]:
    """Gradients of `tensors`; `kept` are the outputs of all layers, or none if they are to be computed again."""
    inr = unflatten(tensors, structure, numbers)
    backward = _kernels("render_backward").backward
    return backward(inr, grid_of(inr, shape, window), gradient, dtype, kept or None)


@triton_render_backward.register_fake
def _(
    gradient: Tensor,
    tensors: list[Tensor],
    structure: list[int],
    numbers: list[float],
    shape: list[int],
    window: list[float],
    dtype: torch.dtype,
    kept: list[Tensor],
) -> list[Tensor]:
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]


def _gradients(
    gradient: Tensor, tensors: Sequence[Tensor], options: Sequence[Any], kept: Sequence[Tensor] = ()
) -> list[Tensor | None]:
    if torch.is_grad_enabled():  # the gradient is to be differentiated again
        return composed.gradients(gradient, tensors, *options)
    return triton_render_backward(gradient, list(tensors), *options, list(kept))


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    tensors, *options = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = options


def _backward(ctx: Any, gradient: Tensor) -> tuple:
    return _gradients(gradient, ctx.saved_tensors, ctx.options), None, None, None, None, None


triton_render.register_autograd(_backward, setup_context=_save_for_backward)


class StoringRender(torch.autograd.Function):
    """`triton_render` that stores the outputs of all layers, so that the backward pass computes none of them again."""

    @staticmethod
    def forward(ctx: Any, options: Sequence[Any], *tensors: Tensor) -> Tensor:
        structure, numbers, shape, window, dtype = options
        inr = unflatten(tensors, structure, numbers)
        frames, kept = _kernels("evaluation").evaluate(inr, grid_of(inr, shape, window), dtype, keep=True)
        ctx.save_for_backward(*tensors, *kept)
        ctx.options, ctx.count = options, len(tensors)
        return frames

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        tensors, kept = ctx.saved_tensors[: ctx.count], ctx.saved_tensors[ctx.count :]
        return None, *_gradients(gradient, tensors, ctx.options, kept)


def supports(inr: INR, grid: Grid, dtype: torch.dtype) -> tuple[bool, str]:
    """Whether the kernels serve a call, and if not, why."""
    if inr.dtype != torch.float32 or dtype not in _TYPES:
        return False, f"it computes in float32, bfloat16 or float16, not in {torch.float64}"
    read_outs = any(layer.to_rgb is not None for stage in inr.stages for layer in stage.layers)
    if read_outs and inr.channels > MOST_COLOURS:
        return False, f"it reads out at most {MOST_COLOURS} colours, not {inr.channels}"
    return True, ""


def render(inr: INR, grid: Grid, dtype: torch.dtype) -> Tensor:
    """Frames [N, T, C, H, W] float32, differentiable in every tensor to any order.

    First gradients come from the kernels, which compute the outputs of layers again or find them stored
    (`fused_inr.activations`); gradients of these come from the lowered form in PyTorch calls.
    """
    tensors, *structure = flatten(inr)
    options = (*structure, frames_shape(inr, grid), [*grid.x, *grid.y], dtype)
    wanted = torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)
    if wanted and activations.stored() and not torch.compiler.is_compiling() and inr.batch and inr.times:
        return StoringRender.apply(options, *tensors)
    return triton_render(tensors, *options)


def memory(inr: INR, grid: Grid, dtype: torch.dtype) -> int:
    """Peak bytes of the tensors of a call without gradients, result included, before the allocator rounds them up."""
    return _kernels("evaluation").memory(inr, grid, dtype)
