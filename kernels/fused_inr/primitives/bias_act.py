"""Bias, activation, gain, clamp and residual as one op, and its derivative as another.

The forward op returns residual + clamp(act(x + bias) * gain). The slope op is linear in the gradient and self-adjoint:

    dx = (gradient + shift) * slope,    sums = dx summed over all axes except that of the bias

The derivative of the slope op with respect to (gradient, shift) is the slope op applied to the gradients of (dx, sums).
Piecewise-linear activations therefore need only these two kernels for derivatives of any order. For the other
activations the second derivative is a composition of PyTorch calls.
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
    """The last arguments of both ops, as for `fi.bias_act`."""

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
    """Apply bias and activation; arguments as for `reference.bias_act`.

    Kernels get dense tensors and a float32 bias.
    """
    if bias is None:
        dim = min(1, x.ndim - 1) if x.ndim else 0  # the axis is irrelevant without a bias
    # Kernels take a bias along the channels of a dense image or along any axis of a contiguous tensor.
    x = memory_format.dense(x) if dim == 1 else x.contiguous()
    bias = None if bias is None else bias.float().contiguous()
    residual = None if residual is None else memory_format.like(x, residual)
    return _forward(x, bias, residual, act, alpha, gain, clamp, dim)


def supports(x: Tensor, bias: Tensor | None, act: str, alpha: float, *others: Any) -> tuple[bool, str]:
    """Return whether the kernels of all backends support a call, and if not, why."""
    if alpha < 0:
        return False, "with a negative slope the output does not determine the sign of the input"
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
    # Without a residual the output determines the slope, and the next layer saves it anyway. A gain below 1/2 could
    # round a positive output to zero.
    ctx.from_output = residual is None and ctx.options.act in PIECEWISE_LINEAR and abs(ctx.options.gain) > 0.5
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
    grad_shift = grad_sums.contiguous() if ctx.with_sums else None  # the gradient of a sum is an expanded scalar
    dense = memory_format.like(saved, grad_dx)
    gradient, sums = _slope(dense, grad_shift, saved, bias, ctx.from_output, with_shift, *ctx.options)
    return (gradient if with_gradient else None, sums if with_shift else None, *[None] * 9)


def _composed_slope_backward(ctx: Any, grad_dx: Tensor, grad_sums: Tensor) -> tuple:
    """Differentiate the slope op of a curved activation in all four tensors, with PyTorch calls on aliases."""
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
