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

from fused_inr import composed, reference
from fused_inr.primitives import memory_format
from fused_inr.primitives.transforms import Op, batched, folded

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
    """Apply bias and activation; arguments as for `reference.bias_act`."""
    if x.ndim == 0:
        return bias_act(x[None], bias, act, alpha, gain, clamp, 0, None if residual is None else residual[None])[0]
    if bias is None:
        dim = min(1, x.ndim - 1)  # the axis is irrelevant without a bias
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


def _prepare(x: Tensor, bias: Tensor | None, residual: Tensor | None, *options: Any) -> tuple:
    """Kernels take a float32 bias along the channels of a dense image or along any axis of a contiguous tensor."""
    x = _dense(x, Options(*options))
    bias = None if bias is None else bias.float().contiguous()
    return x, bias, None if residual is None else memory_format.like(x, residual), *options


def _prepare_slope(
    gradient: Tensor, shift: Tensor | None, saved: Tensor, bias: Tensor | None, from_output: bool, *others: Any
) -> tuple:
    saved = _dense(saved, Options(*others[1:]))
    shift = None if shift is None else shift.contiguous()  # the gradient of a sum is an expanded scalar
    bias = None if bias is None else bias.float().contiguous()
    return memory_format.like(saved, gradient), shift, saved, bias, from_output, *others


def _dense(x: Tensor, options: Options) -> Tensor:
    return memory_format.dense(x) if options.dim == 1 else x.contiguous()


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
        dx, sums = _slope(gradient, None, saved, bias, ctx.from_output, with_bias, *ctx.options)
    return (dx if with_x else None, sums if with_bias else None, gradient if with_residual else None, *[None] * 5)


def _save_slope(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor]) -> None:
    gradient, shift, saved, bias, ctx.from_output, ctx.with_sums, *options = inputs
    ctx.options = Options(*options)
    curved = ctx.options.act not in PIECEWISE_LINEAR
    ctx.save_for_backward(gradient if curved else None, shift if curved else None, saved, bias)


def _slope_backward(ctx: Any, grad_dx: Tensor, grad_sums: Tensor) -> tuple:
    needs = ctx.needs_input_grad[:4]
    grad_shift = grad_sums if ctx.with_sums else None
    if ctx.options.act in PIECEWISE_LINEAR:
        _, _, saved, bias = ctx.saved_tensors
        if not any(needs[:2]):
            return (None,) * 11
        gradient, sums = _slope(grad_dx, grad_shift, saved, bias, ctx.from_output, needs[1], *ctx.options)
        return (gradient if needs[0] else None, sums if needs[1] else None, *[None] * 9)

    def curved_slope(*tensors: Any) -> tuple[Tensor, Tensor]:
        return _composed_slope(*tensors, ctx.from_output, ctx.with_sums, *ctx.options)

    return (*composed.vjp(curved_slope, ctx.saved_tensors, (grad_dx, grad_sums), needs), *[None] * 7)


def _composed(x: Tensor, bias: Tensor | None, residual: Tensor | None, *options: Any) -> Tensor:
    """Return what the op returns, as a composition of PyTorch calls."""
    wide = None if residual is None else residual.float()
    return reference.bias_act(x.float(), bias, *options, residual=wide).to(x.dtype)


def _composed_slope(
    gradient: Tensor,
    shift: Tensor | None,
    saved: Tensor,
    bias: Tensor | None,
    from_output: bool,
    with_sums: bool,
    *others: Any,
) -> tuple[Tensor, Tensor]:
    """Return what the slope op returns, as a composition of PyTorch calls."""
    options = Options(*others)
    upstream = gradient.float()
    if shift is not None:
        upstream = upstream + shift.reshape([-1 if axis == options.dim else 1 for axis in range(saved.ndim)])
    if options.act in PIECEWISE_LINEAR:
        ones = torch.ones_like(saved)
        dx = upstream * _slope.without_tangents(ones, None, saved, bias, from_output, False, *options)[0].float()
    else:
        (dx,) = composed.vjp(lambda x: reference.bias_act(x, bias, *options), [saved.float()], upstream, [True])
    axes = [axis for axis in range(saved.ndim) if axis != options.dim]
    sums = (dx.sum(axes) if axes else dx) if with_sums else dx.new_empty(0)
    return dx.to(saved.dtype), sums


def _batch_axis(options: Options, *per_channel_dims: int | None) -> int:
    """Return the axis to merge an additional axis into: that of the channels if they differ along it, else the first.

    `per_channel_dims` are the positions of the additional axis in the tensors with one entry per channel.
    """
    return options.dim if any(dim is not None for dim in per_channel_dims) else 0


def _folded(tensor: Tensor | None, dim: int | None, size: int, axis: int) -> Tensor | None:
    return None if tensor is None else folded(tensor, dim, size, axis)


def _batch(
    op: Op, size: int, dims: tuple, x: Tensor, bias: Tensor | None, residual: Tensor | None, *others: Any
) -> tuple[Tensor, int]:
    options = Options(*others)
    axis = _batch_axis(options, dims[1])
    length = batched(x, dims[0], size).shape[1 + axis]
    x, residual = _folded(x, dims[0], size, axis), _folded(residual, dims[2], size, axis)
    if axis == options.dim:
        bias = _folded(bias, dims[1], size, 0)
    return op(x, bias, residual, *options).unflatten(axis, (size, length)), axis


def _batch_slope(
    op: Op,
    size: int,
    dims: tuple,
    gradient: Tensor,
    shift: Tensor | None,
    saved: Tensor,
    bias: Tensor | None,
    from_output: bool,
    with_sums: bool,
    *others: Any,
) -> tuple[tuple[Tensor, Tensor], tuple[int, int | None]]:
    options = Options(*others)
    axis = options.dim if with_sums else _batch_axis(options, dims[1], dims[3])
    length = batched(saved, dims[2], size).shape[1 + axis]
    gradient, saved = folded(gradient, dims[0], size, axis), folded(saved, dims[2], size, axis)
    if axis == options.dim:
        shift, bias = _folded(shift, dims[1], size, 0), _folded(bias, dims[3], size, 0)
    dx, sums = op(gradient, shift, saved, bias, from_output, with_sums, *options)
    sums = sums.unflatten(0, (size, length)) if with_sums else sums
    return (dx.unflatten(axis, (size, length)), sums), (axis, 0 if with_sums else None)


_forward = Op(torch.ops.fused_inr.bias_act.default, _save_forward, _backward, _batch, _composed, _prepare)
_slope = Op(
    torch.ops.fused_inr.bias_act_slope.default,
    _save_slope,
    _slope_backward,
    _batch_slope,
    _composed_slope,
    _prepare_slope,
)
