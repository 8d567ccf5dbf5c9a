"""Minibatch standard deviation, with a kernel for its gradient; second derivatives are PyTorch calls."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr import composed, reference
from fused_inr.primitives import memory_format
from fused_inr.primitives.transforms import Op, batched

torch.library.define("fused_inr::minibatch_stddev", "(Tensor x, SymInt group, int channels) -> Tensor")
torch.library.define(
    "fused_inr::minibatch_stddev_backward", "(Tensor gradient, Tensor x, SymInt group, int channels) -> Tensor"
)


def minibatch_stddev(x: Tensor, group: int, channels: int) -> Tensor:
    """Append the planes; arguments as for `reference.minibatch_stddev`."""
    return _forward(x, group, channels)


def supports(x: Tensor, group: int, channels: int) -> tuple[bool, str]:
    """Return whether the kernels of all backends support a call, and if not, why."""
    return memory_format.supports(x)


@torch.library.register_fake("fused_inr::minibatch_stddev")
def _(x: Tensor, group: int, channels: int) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] + channels, *x.shape[2:])


@torch.library.register_fake("fused_inr::minibatch_stddev_backward")
def _(gradient: Tensor, x: Tensor, group: int, channels: int) -> Tensor:
    return torch.empty_like(x)


def _prepare(x: Tensor, group: int, channels: int) -> tuple:
    return x.contiguous(), group, channels


def _prepare_gradient(gradient: Tensor, x: Tensor, group: int, channels: int) -> tuple:
    return gradient.contiguous(), x.contiguous(), group, channels


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, *ctx.options = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, gradient: Tensor) -> tuple:
    return _gradient(gradient, *ctx.saved_tensors, *ctx.options), None, None


def _composed_gradient(gradient: Tensor, x: Tensor, group: int, channels: int) -> Tensor:
    """Return what the gradient op returns, as a composition of PyTorch calls."""
    return composed.vjp(lambda x: reference.minibatch_stddev(x, group, channels), [x], gradient, [True])[0]


def _save_gradient(ctx: Any, inputs: tuple, output: Tensor) -> None:
    gradient, x, *ctx.options = inputs
    ctx.save_for_backward(gradient, x)


def _backward_of_gradient(ctx: Any, grad_dx: Tensor) -> tuple:
    def gradient(gradient: Tensor, x: Tensor) -> Tensor:
        return _composed_gradient(gradient, x, *ctx.options)

    return *composed.vjp(gradient, ctx.saved_tensors, grad_dx, ctx.needs_input_grad[:2]), None, None


def _merged(op: Op, size: int, dims: tuple, tensors: Sequence[Tensor], group: int, channels: int) -> tuple[Tensor, int]:
    """Apply an op with an additional axis merged into the batch so that every group keeps its members.

    Group m of a batch of N = G M consists of the samples m, m + M, ...
    """
    stacked = [batched(tensor, dim, size) for tensor, dim in zip(tensors, dims, strict=False)]  # [B, N, C, H, W]
    parts = (group, stacked[0].shape[1] // group)
    merged = [tensor.unflatten(1, parts).movedim(0, 1).flatten(0, 2) for tensor in stacked]  # [G B M, C, H, W]
    output = op(*merged, group, channels)
    return output.unflatten(0, (group, size, parts[1])).movedim(1, 0).flatten(1, 2), 0  # [B, N, C', H, W]


def _batch(op: Op, size: int, dims: tuple, x: Tensor, group: int, channels: int) -> tuple[Tensor, int]:
    return _merged(op, size, dims, [x], group, channels)


def _batch_gradient(
    op: Op, size: int, dims: tuple, gradient: Tensor, x: Tensor, group: int, channels: int
) -> tuple[Tensor, int]:
    return _merged(op, size, dims, [gradient, x], group, channels)


_forward = Op(
    torch.ops.fused_inr.minibatch_stddev.default, _save, _backward, _batch, reference.minibatch_stddev, _prepare
)
_gradient = Op(
    torch.ops.fused_inr.minibatch_stddev_backward.default,
    _save_gradient,
    _backward_of_gradient,
    _batch_gradient,
    _composed_gradient,
    _prepare_gradient,
)
