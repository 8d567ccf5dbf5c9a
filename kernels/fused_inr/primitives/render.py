"""`render` as PyTorch ops: schemas, shapes and derivatives, defined once for all backends.

Unlike the other primitives, each backend has its own ops, because two backends serve tensors on the same device.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr import activation_storage, composed
from fused_inr.flattening import flatten, frames_shape, grid_of, roles, unflatten
from fused_inr.inr import INR, Grid
from fused_inr.primitives.transforms import Op, batched, folded, forward_mode, may_need_gradients, transforming

Evaluate = Callable[[INR, Grid, torch.dtype, bool], tuple[Tensor, list[Tensor]]]
Differentiate = Callable[[INR, Grid, Tensor, torch.dtype, list[Tensor]], list[Tensor]]


def register(
    backend: str, evaluate: Evaluate, differentiate: Differentiate, differentiable: Callable[[INR], bool] | None = None
) -> Callable[..., Tensor]:
    """Register fused_inr::<backend>_render and fused_inr::<backend>_render_backward, and return `render` on them.

    Second derivatives come from a composition of PyTorch calls. Neither function is called if the frames are empty.

    Args:
        backend: name of the backend.
        evaluate: takes an INR, its base grid, the dtype of the matrix products and whether to store the layers'
            outputs; returns frames `[N, T, C, H, W]` float32 and the stored outputs, in a form private to the backend.
        differentiate: takes an INR, its base grid, the gradient of its frames, the dtype of the matrix products and the
            stored outputs (empty: recompute them); returns contiguous gradients of the INR's tensors, in the order of
            `flatten`.
        differentiable: whether `differentiate` serves an INR; None if it serves all. The gradients of others come from
            the composition too, also in a graph that was traced without gradients and therefore holds the op.

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
    ) -> list[Tensor]:
        structure, numbers, shape, *_ = options
        if (
            differentiable is not None
            and math.prod(shape)
            and not differentiable(unflatten(tensors, structure, numbers))
        ):
            return _composed_backward(gradient, list(tensors), *options, [])
        return backward_op(gradient, list(tensors), *options, list(kept))

    def backward(ctx: Any, gradient: Tensor) -> tuple:
        return gradients(gradient, ctx.saved_tensors, ctx.options), None, None, None, None, None

    forward_op = Op(frames._opoverload, _save, backward, _batch, _composed)
    backward_op = Op(
        frames_backward._opoverload, _save_backward, _differentiate_backward, _batch_backward, _composed_backward
    )

    def render(inr: INR, grid: Grid, dtype: torch.dtype) -> Tensor:
        """Return frames `[N, T, C, H, W]` float32, differentiable in every tensor to any order.

        First derivatives come from the kernels, which recompute the layers' outputs or read the stored ones
        (`fi.store_activations`). Higher derivatives and those of forward mode come from the lowered form in PyTorch
        calls.
        """
        tensors, structure, numbers = flatten(inr)
        shape = frames_shape(inr, grid)
        options = (structure, numbers, shape, [*grid.x, *grid.y], dtype)
        needs_gradients = may_need_gradients(tensors)
        eager = not (torch.compiler.is_compiling() or transforming() or forward_mode())
        if needs_gradients and activation_storage.stored() and eager and 0 not in shape:
            return _StoringRender.apply(evaluate, gradients, options, *tensors)
        return forward_op(tensors, *options)

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


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    tensors, *options = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = options


def _save_backward(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    gradient, tensors, *ctx.options, kept = inputs
    ctx.save_for_backward(gradient, *tensors)
    ctx.num_kept = len(kept)


def _differentiate_backward(ctx: Any, cotangents: list[Tensor]) -> tuple:
    """Differentiate the gradients of the frames as a composition of PyTorch calls."""
    needed = [True] * len(cotangents)

    def gradients(gradient: Tensor, *tensors: Tensor) -> tuple[Tensor, ...]:
        return tuple(composed.gradients(gradient, tensors, *ctx.options, needs=needed))

    of_gradient, of_tensors = ctx.needs_input_grad[:2]
    results = composed.vjp(gradients, ctx.saved_tensors, tuple(cotangents), [of_gradient, *of_tensors])
    return results[0], results[1:], *[None] * 5, [None] * ctx.num_kept


def _composed(
    tensors: list[Tensor],
    structure: list[int],
    numbers: list[float],
    shape: list[int],
    window: list[float],
    *dtype: Any,
) -> Tensor:
    inr = unflatten(tensors, structure, numbers)
    return composed.render(inr, grid_of(inr, shape, window), *dtype)


def _composed_backward(gradient: Tensor, tensors: list[Tensor], *options: Any) -> list[Tensor]:
    *frames_options, _ = options  # the stored outputs have no tangents
    results = composed.gradients(gradient, tensors, *frames_options, needs=[True] * len(tensors))
    return [result for result in results if result is not None]


def _batch(
    op: Op, size: int, dims: tuple, tensors: list[Tensor], structure: list[int], numbers: list[float], *others: Any
) -> tuple[Tensor, int]:
    """Merge an additional axis into N. The bias of a read-out, which has no axis N, is added afterwards."""
    (n, *rest), *options = others
    kinds = list(zip(roles(structure), tensors, dims[0], strict=True))
    offsets = [tensor.movedim(dim, 0) for role, tensor, dim in kinds if role == "to_rgb_bias" and dim is not None]
    # If only biases of read-outs have the axis, one evaluation serves all of its entries.
    copies = 1 if all(dim is None or role == "to_rgb_bias" for role, _, dim in kinds) else size
    inputs = [_per_clip(role, tensor, dim, copies, n, keep_shared=True) for role, tensor, dim in kinds]
    frames = op(inputs, structure, numbers, [copies * n, *rest], *options).unflatten(0, (copies, n))
    for offset in offsets:
        frames = frames + offset[:, None, None, :, None, None].to(frames.dtype)
    return frames, 0


def _batch_backward(
    op: Op,
    size: int,
    dims: tuple,
    gradient: Tensor,
    tensors: list[Tensor],
    structure: list[int],
    numbers: list[float],
    shape: list[int],
    *options: Any,
) -> tuple[list[Tensor], list[int | None]]:
    """Merge an additional axis into N, with separate tensors for every clip, and sum over the clips that share one."""
    n = shape[0]
    gradient = folded(gradient, dims[0], size)  # [B N, T, C, H, W]
    kinds = list(zip(roles(structure), tensors, dims[1], strict=True))
    inputs = [_per_clip(role, tensor, dim, size, n, keep_shared=False) for role, tensor, dim in kinds]
    results = op(gradient, inputs, structure, numbers, [size * n, *shape[1:]], *options)
    for index, (role, tensor, dim) in enumerate(kinds):
        if role == "to_rgb_bias":
            results[index] = gradient.unflatten(0, (size, n)).sum((1, 2, 4, 5)).to(tensor.dtype)  # [B, C]
            continue
        per_clip = results[index].unflatten(0, (size, n))
        logical = tensor.ndim - (dim is not None)
        if role == "bias" and logical == 1:
            per_clip = per_clip.sum(1)
        elif batched(tensor, dim, size).shape[1] != n:
            per_clip = per_clip.sum(1, keepdim=True)
        results[index] = per_clip
    return results, [0] * len(results)


def _per_clip(role: str, tensor: Tensor, dim: int | None, size: int, n: int, keep_shared: bool) -> Tensor:
    """Merge the additional axis of a tensor into its axis N.

    Args:
        role: as in `roles`. The bias of a read-out has no axis N: with an additional axis, zeros are returned.
        tensor, dim: the tensor and the position of its additional axis, or None.
        size: length of the additional axis.
        n: number of clips.
        keep_shared: leave a tensor alone if all clips share it and it has no additional axis.
    """
    if role == "to_rgb_bias":
        return tensor if dim is None else tensor.new_zeros(tensor.movedim(dim, 0).shape[1:])
    bare = role == "bias" and tensor.ndim - (dim is not None) == 1
    if keep_shared and dim is None and (bare or tensor.shape[0] == 1):
        return tensor
    full = batched(tensor, dim, size)  # [B, N or 1, ...]
    if bare:
        full = full[:, None]
    return full.expand(size, n, *full.shape[2:]).flatten(0, 1)


def _frames_like(tensors: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Allocate frames `[N, T, C, H, W]` float32 on the device of the tensors."""
    return tensors[0].new_empty(shape, dtype=torch.float32)


def _gradients_like(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Allocate a contiguous gradient for every tensor."""
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]
