"""residual + clamp(act(x + bias) * gain), and the slope of that applied to a gradient.

The slope is an op of its own, linear in the gradient and self-adjoint:

    dx = (gradient + shift) * slope,    sums = dx summed over all axes but the bias's

Given gradients of (dx, sums), its own derivative with respect to (gradient, shift) is the same op with these in their
place. So activations that are piecewise linear stay on two kernels to any order of derivatives; the second derivative
of the others is a composition of PyTorch calls.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_inr import reference
from fused_inr.primitives import memory_format

PIECEWISE_LINEAR = ("linear", "relu", "lrelu")

torch.library.define(
    "fused_inr::bias_act",
    "(Tensor x, Tensor? bias, Tensor? residual, str act, float alpha, float gain, float? clamp, int dim) -> Tensor",
)
torch.library.define(
    "fused_inr::bias_act_slope",
    "(Tensor gradient, Tensor? shift, Tensor saved, Tensor? bias, bool from_output, bool with_sums, str act, "
    "float alpha, float gain, float? clamp, int dim) -> (Tensor, Tensor)",
)


class Options(NamedTuple):
    """The last arguments of both ops, as of `fi.bias_act`."""

    act: str
    alpha: float
    gain: float
    clamp: float | None
    dim: int


_forward = torch.ops.fused_inr.bias_act.default
_slope = torch.ops.fused_inr.bias_act_slope.default


def bias_act(
    x: Tensor,
    bias: Tensor | None,
    act: str,
    alpha: float,
    gain: float,
    clamp: float | None,
    dim: int,
    residual: Tensor | None = None,
) -> Tensor:
    """Apply bias and activation; arguments as of `reference.bias_act`. Kernels get dense tensors and a float32 bias."""
    if bias is None:
        dim = min(1, x.ndim - 1) if x.ndim else 0  # any axis will do
    # The bias runs along the channels of an image or along an axis of a contiguous tensor.
    x = memory_format.dense(x) if dim == 1 else x.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    residual = None if residual is None else memory_format.like(x, residual)
    return _forward(x, bias, residual, act, alpha, gain, clamp, dim)


def supports(x: Tensor, bias: Tensor | None, act: str, alpha: float, *others: Any) -> tuple[bool, str]:
    """Return whether the kernels of all backends support a call, and if not, why."""
    if alpha < 0:
        return False, "the output of a negative slope does not tell the sign of the input"
    return memory_format.supports(x)


@torch.library.register_fake("fused_inr::bias_act")
def _(x: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(x)


@torch.library.register_fake("fused_inr::bias_act_slope")
def _(
    gradient: Tensor,
    shift: Tensor | None,
    saved: Tensor,
    bias: Tensor | None,
    from_output: bool,
    with_sums: bool,
    *options: Any,
) -> tuple[Tensor, Tensor]:
    sums = saved.shape[Options(*options).dim] if with_sums else 0
    return torch.empty_like(saved), saved.new_empty(sums, dtype=torch.float32)


def _save_forward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, bias, residual, *options = inputs
    ctx.options = Options(*options)
    # The output determines the slope, and the next layer keeps it anyway; with a residual added it does not.
    ctx.from_output = residual is None and ctx.options.act in PIECEWISE_LINEAR
    ctx.save_for_backward(output if ctx.from_output else x, None if ctx.from_output else bias)


def _backward(ctx: Any, gradient: Tensor) -> tuple:
    saved, bias = ctx.saved_tensors
    with_x, with_bias, with_residual = ctx.needs_input_grad[:3]
    dx = sums = None
    if with_x or with_bias:
        dense = memory_format.like(saved, gradient)
        dx, sums = _slope(dense, None, saved, bias, ctx.from_output, with_bias, *ctx.options)
    return (dx if with_x else None, sums if with_bias else None, gradient if with_residual else None, *[None] * 5)


torch.library.register_autograd("fused_inr::bias_act", _backward, setup_context=_save_forward)


def _save_slope(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    gradient, shift, saved, bias, ctx.from_output, ctx.with_sums, *options = inputs
    ctx.options = Options(*options)
    curved = ctx.options.act not in PIECEWISE_LINEAR
    ctx.save_for_backward(gradient if curved else None, shift if curved else None, saved, bias)


def _slope_backward(ctx: Any, grad_dx: Tensor, grad_sums: Tensor) -> tuple:
    _, _, saved, bias = ctx.saved_tensors
    if ctx.options.act not in PIECEWISE_LINEAR:
        return _composed_slope_backward(ctx, grad_dx, grad_sums)
    with_gradient, with_shift = ctx.needs_input_grad[:2]
    if not (with_gradient or with_shift):
        return (None,) * 11
    level = grad_sums.contiguous() if ctx.with_sums else None  # autograd expands one number for a sum
    dense = memory_format.like(saved, grad_dx)
    gradient, sums = _slope(dense, level, saved, bias, ctx.from_output, with_shift, *ctx.options)
    return (gradient if with_gradient else None, sums if with_shift else None, *[None] * 9)


def _composed_slope_backward(ctx: Any, grad_dx: Tensor, grad_sums: Tensor) -> tuple:
    """Differentiate the slope of a curved activation in all four tensors with PyTorch calls, on aliases."""
    dim = ctx.options.dim
    create = torch.is_grad_enabled()
    with torch.enable_grad():
        aliases = [t if t is None else t.view_as(t) if create else t.detach() for t in ctx.saved_tensors]
        leaves = [t if t is None or t.requires_grad else t.requires_grad_() for t in aliases]
        gradient, shift, x, bias = leaves
        wide = x.float()
        wide_bias = wide.new_zeros(x.shape[dim] if x.ndim else 1).requires_grad_() if bias is None else bias
        y = reference.bias_act(wide, wide_bias, *ctx.options)
        upstream = gradient.float()
        if shift is not None:
            upstream = upstream + shift.reshape([-1 if axis == dim else 1 for axis in range(x.ndim)])
        dx, sums = torch.autograd.grad(y, [wide, wide_bias], upstream, create_graph=True)
        total = (dx * grad_dx.float()).sum()
        if ctx.with_sums:
            total = total + (sums * grad_sums).sum()
        inputs = [t for t in leaves if t is not None]
        gradients = iter(torch.autograd.grad(total, inputs, create_graph=create, allow_unused=True))
    grads = [None if t is None else next(gradients) for t in leaves]
    return (*grads, *[None] * 7)


torch.library.register_autograd("fused_inr::bias_act_slope", _slope_backward, setup_context=_save_slope)
