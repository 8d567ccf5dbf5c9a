"""Minibatch standard deviation, with a kernel for its gradient; second derivatives are PyTorch calls."""

from typing import Any

import torch
from torch import Tensor

from fused_inr import reference
from fused_inr.primitives import memory_format

torch.library.define("fused_inr::minibatch_stddev", "(Tensor x, SymInt group, int channels) -> Tensor")
torch.library.define(
    "fused_inr::minibatch_stddev_backward", "(Tensor gradient, Tensor x, SymInt group, int channels) -> Tensor"
)
_forward = torch.ops.fused_inr.minibatch_stddev.default
_gradient = torch.ops.fused_inr.minibatch_stddev_backward.default


def minibatch_stddev(x: Tensor, group: int, channels: int) -> Tensor:
    """Append the planes; arguments as for `reference.minibatch_stddev`. Kernels get contiguous tensors."""
    return _forward(x.contiguous(), group, channels)


def supports(x: Tensor, group: int, channels: int) -> tuple[bool, str]:
    """Return whether the kernels of all backends support a call, and if not, why."""
    return memory_format.supports(x)


@torch.library.register_fake("fused_inr::minibatch_stddev")
def _(x: Tensor, group: int, channels: int) -> Tensor:
    return x.new_empty(x.shape[0], x.shape[1] + channels, *x.shape[2:])


@torch.library.register_fake("fused_inr::minibatch_stddev_backward")
def _(gradient: Tensor, x: Tensor, group: int, channels: int) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, *ctx.options = inputs
    ctx.save_for_backward(x)


def _backward(ctx: Any, gradient: Tensor) -> tuple:
    (x,) = ctx.saved_tensors
    return _gradient(gradient.contiguous(), x, *ctx.options), None, None


torch.library.register_autograd("fused_inr::minibatch_stddev", _backward, setup_context=_save)


def _save_gradient(ctx: Any, inputs: tuple, output: Tensor) -> None:
    gradient, x, *ctx.options = inputs
    ctx.save_for_backward(gradient, x)


def _backward_of_gradient(ctx: Any, grad_dx: Tensor) -> tuple:
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        # Differentiate with respect to aliases, because one tensor may be computed from the other.
        gradient, x = [t.view_as(t) if create else t.detach() for t in ctx.saved_tensors]
        gradient, x = [t if t.requires_grad else t.requires_grad_() for t in (gradient, x)]
        y = reference.minibatch_stddev(x, *ctx.options)
        (dx,) = torch.autograd.grad(y, x, gradient, create_graph=True)
        gradients = torch.autograd.grad(dx, (gradient, x), grad_dx, create_graph=create)
    return *gradients, None, None


torch.library.register_autograd(
    "fused_inr::minibatch_stddev_backward", _backward_of_gradient, setup_context=_save_gradient
)
