"""Bias, activation, gain and clamp in one op (StyleGAN2, CVPR 2020)."""

import math

from torch import Tensor

from fused_inr import checks
from fused_inr.ops.dispatch import call
from fused_inr.reference import LRELU_SLOPE

# The gains of StyleGAN2, which preserve the variance of a normally distributed input.
DEFAULT_GAINS = {
    "linear": 1.0,
    "relu": 2**0.5,
    "lrelu": 2**0.5,
    "tanh": 1.0,
    "sigmoid": 1.0,
    "elu": 1.0,
    "selu": 1.0,
    "softplus": 1.0,
    "swish": 2**0.5,
}


def bias_act(
    x: Tensor,
    bias: Tensor | None = None,
    act: str = "linear",
    alpha: float | None = None,
    gain: float | None = None,
    clamp: float | None = None,
    dim: int = 1,
    residual: Tensor | None = None,
) -> Tensor:
    """Return residual + clamp(act(x + bias) * gain), with the bias along one axis (StyleGAN2, CVPR 2020).

    Differentiable in x, bias and residual to any order.

    Args:
        x: floating-point tensor of any shape.
        bias: `[x.shape[dim]]` in any floating-point dtype, or None for no bias.
        act: "linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus" or "swish" (x * sigmoid(x)).
        alpha: slope of lrelu for negative inputs, default 0.2; the other activations do not take it.
        gain: factor applied after the activation; default sqrt(2) for relu, lrelu and swish, otherwise 1.
        clamp: limit >= 0 of the magnitude after the gain; None for no limit.
        dim: axis of the bias; may be negative.
        residual: the other branch of a residual block, added to the clamped result; has the shape and dtype of x. None
            for no residual.

    Returns:
        Tensor with the shape and dtype of x.

    Raises:
        ValueError: the activation is unknown, `alpha` is set without lrelu, `clamp` is negative, x is not floating
            point, or the bias or residual has the wrong shape, dtype or device.
    """
    checks.choice("bias_act", "act", act, DEFAULT_GAINS)
    if alpha is not None and act != "lrelu":
        raise ValueError(f"bias_act alpha is the slope of act='lrelu'; leave it out for act={act!r}.")
    if isinstance(clamp, float) and clamp == math.inf:
        clamp = None
    if clamp is not None:
        clamp = checks.number("bias_act", "clamp", clamp, 0)
    checks.floating("bias_act", "x", x)
    dim = checks.integer("bias_act", "dim", dim, -max(1, x.ndim))
    if bias is not None:
        checks.floating("bias_act", "bias", bias)
        if not -x.ndim <= dim < x.ndim:
            raise ValueError(f"bias_act dim must be an axis of x, which has {x.ndim}, not {dim}.")
        dim %= x.ndim
        if bias.ndim != 1 or bias.shape[0] != x.shape[dim]:
            raise ValueError(
                f"bias_act bias must have shape [{x.shape[dim]}], the size of axis {dim} of x, not {list(bias.shape)}."
            )
    if residual is not None:
        checks.floating("bias_act", "residual", residual)
    if residual is not None and (residual.shape != x.shape or residual.dtype != x.dtype):
        raise ValueError(
            f"bias_act residual must be {x.dtype} {list(x.shape)}, like x, not {residual.dtype} {list(residual.shape)}."
        )
    checks.on_one_device("bias_act", x=x, bias=bias, residual=residual)
    slope = LRELU_SLOPE if alpha is None else checks.number("bias_act", "alpha", alpha)
    gain = DEFAULT_GAINS[act] if gain is None else checks.number("bias_act", "gain", gain)
    return call("bias_act", x.device.type, (x, bias, act, slope, gain, clamp, dim, residual))
