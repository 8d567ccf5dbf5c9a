"""Activations of networks and their slopes in float32, as Triton functions.

Values and slopes at zero, infinities and NaN are those of `reference.activation` and of its gradient. Measured in
Triton's interpreter for |z| < 8 and omega = 3 against float64: absolute errors of values and slopes below 4e-7, and for
sine and finer those of rounding their angles to float32. The error function comes from the vendor's library: it leaves
1 + erf(z) with an absolute error of 1e-7, as in PyTorch.
"""

import triton
import triton.language as tl

from fused_inr._backends.triton.kernels.activations import LRELU_SLOPE, activated, through
from fused_inr._backends.triton.kernels.sines import cosine, sine, sine_cosine


@triton.jit
def _finer_angle(z, omega):
    return omega * (tl.abs(z) + 1.0) * z


@triton.jit
def _finer_rate(z, omega):
    """Return the derivative of the angle."""
    return omega * (2.0 * tl.abs(z) + 1.0)


@triton.jit
def _normal_cdf(z):
    return 0.5 * (1.0 + tl.erf(z * 0.7071067811865476))


@triton.jit
def activation(z, omega, ACTIVATION: tl.constexpr):
    """Return the activation of z; `omega` is the frequency or scale of those that have one."""
    if ACTIVATION == "sine":
        y = sine(omega * z)
    elif ACTIVATION == "finer":
        y = sine(_finer_angle(z, omega))
    elif ACTIVATION == "gauss":
        u = omega * z
        y = tl.exp(-(u * u))
    elif ACTIVATION == "gelu":
        y = z * _normal_cdf(z)
    elif ACTIVATION == "silu":
        y = activated(z, 0.0, "swish")
    else:
        y = activated(z, LRELU_SLOPE, ACTIVATION)
    return y


@triton.jit
def slope(z, omega, ACTIVATION: tl.constexpr):
    """Return the derivative of the activation at z."""
    if ACTIVATION == "sine":
        s = omega * cosine(omega * z)
    elif ACTIVATION == "finer":
        s = cosine(_finer_angle(z, omega)) * _finer_rate(z, omega)
    elif ACTIVATION == "gauss":
        u = omega * z
        s = tl.exp(-(u * u)) * (-2.0 * u) * omega
    elif ACTIVATION == "gelu":
        s = _normal_cdf(z) + z * (0.3989422804014327 * tl.exp(-0.5 * z * z))
    elif ACTIVATION == "silu":
        s = through(z, tl.full(z.shape, 1.0, tl.float32), 0.0, "swish")
    else:
        s = through(z, tl.full(z.shape, 1.0, tl.float32), LRELU_SLOPE, ACTIVATION)
    return s


@triton.jit
def activation_and_slope(z, omega, ACTIVATION: tl.constexpr):
    """Return the activation and its derivative; the range of an angle is reduced once."""
    if ACTIVATION == "sine":
        y, c = sine_cosine(omega * z)
        s = omega * c
    elif ACTIVATION == "finer":
        y, c = sine_cosine(_finer_angle(z, omega))
        s = c * _finer_rate(z, omega)
    else:
        y, s = activation(z, omega, ACTIVATION), slope(z, omega, ACTIVATION)
    return y, s
