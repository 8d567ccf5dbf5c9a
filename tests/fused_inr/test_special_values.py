"""Infinities, NaN, zeros, denormal numbers and huge angles: kernels agree with the reference."""

import math

import pytest
import torch

import fused_inr as fi
from fused_inr._backends.cpu import native
from fused_inr.reference import BIAS_ACTIVATIONS

SPECIAL = torch.tensor([math.nan, 0.0, -0.0, math.inf, -math.inf, 1e-45, -1e-45, 30.0, -30.0, 0.5, -0.5])
LIBRARY, STATE = native.load()
needs_kernels = pytest.mark.skipif(LIBRARY is None, reason=STATE)


def assert_alike(actual: torch.Tensor, expected: torch.Tensor) -> None:
    """Assert equal values, up to rounding, with NaN and infinities at the same places and zeros of the same sign."""
    # 1e-12: the reference's sigmoid loses the exponential where it is far below 1.
    torch.testing.assert_close(actual, expected, rtol=1e-5, atol=1e-12, equal_nan=True)
    zeros = expected == 0
    assert torch.equal(actual[zeros & (actual == 0)].signbit(), expected[zeros & (actual == 0)].signbit())


def values_and_gradient(backend: str, gradient: float, **options) -> tuple[torch.Tensor, torch.Tensor]:
    x = SPECIAL.clone().requires_grad_()
    with fi.backend(backend):
        y = fi.bias_act(x[None], **options)
        y.backward(torch.full_like(y, gradient))
    return y.detach(), x.grad


@needs_kernels
@pytest.mark.parametrize("act", BIAS_ACTIVATIONS)
@pytest.mark.parametrize("gain", [1.0, -2.0, 0.25])
@pytest.mark.parametrize("clamp", [None, 1.25])
def test_activations_and_their_gradients(act, gain, clamp):
    for bias in (None, torch.zeros(len(SPECIAL))):
        # Infinite gradients only where the slope is a choice: others meet slopes that round to 0 in one of both.
        for gradient in (1.0, math.inf) if act in ("linear", "relu", "lrelu", "elu") else (1.0,):
            options = {"act": act, "gain": gain, "clamp": clamp, "bias": bias}
            results = [values_and_gradient(backend, gradient, **options) for backend in ("cpu", "reference")]
            for actual, expected in zip(*results, strict=True):
                assert_alike(actual, expected)


HUGE = (1e4, 1e5, 2.5e7, 1e8, 1e12, 1e20, 1e30, 3e38)


@pytest.mark.parametrize("final", ["linear", "sine"])
@pytest.mark.parametrize("angle", HUGE)
def test_sines_of_huge_angles(angle, final, where_served_on_cpu):
    """The sine of a float32 angle is exact to rounding, and so is the gradient, its cosine."""
    coords = (angle * torch.linspace(0.2, 1, 37))[:, None].requires_grad_()  # [P, 1]
    one = torch.ones(1, 1)
    weights, biases = ([one], [torch.zeros(1)]) if final == "sine" else ([one, one], [torch.zeros(1)] * 2)
    with where_served_on_cpu:
        values = fi.siren(coords, weights, biases, omega=1.0, final=final)
    values.sum().backward()
    exact = coords.detach().double()
    # Measured on AVX2: 3e-7 for values. Cosines are float32 as well.
    torch.testing.assert_close(values[0].double(), exact.sin(), rtol=0, atol=1e-6)
    torch.testing.assert_close(coords.grad.double(), exact.cos(), rtol=0, atol=1e-6)
    assert values.abs().max() <= 1 + 1e-6


@pytest.fixture(params=["reference", "cpu"])
def where_served_on_cpu(request):
    if fi.backends()[request.param] != "ready":
        pytest.skip(fi.backends()[request.param])
    return fi.backend(request.param)


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("phase", HUGE)
def test_render_of_huge_phases_is_bounded(phase, dtype):
    fourier = fi.Fourier(torch.ones(1, 3, 2), phase * torch.rand(1, 2, 3))
    layer = fi.Layer(torch.eye(6)[None], torch.zeros(6), "linear", 1.0)
    frames = fi.render(fi.INR([fi.Stage(1, [layer], fourier)]), fi.Grid(5, 7), dtype=dtype, backend="cpu")
    assert frames.abs().max() <= 1 + 1e-2
    again = fi.Layer(torch.eye(6)[None], torch.zeros(6), "sine", 1.0, phase)
    frames = fi.render(fi.INR([fi.Stage(1, [again], fourier)]), fi.Grid(5, 7), dtype=dtype, backend="cpu")
    assert frames.abs().max() <= 1 + 1e-2


@needs_kernels
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("width", [1, 3, 7, 9])
@pytest.mark.parametrize("activation", ["linear", "relu", "lrelu"])
@pytest.mark.parametrize("special", [math.inf, math.nan])
def test_padding_of_odd_widths_does_not_spread_infinities(special, activation, width, dtype):
    first = torch.zeros(width)
    first[0] = special
    layers = [
        fi.Layer(torch.rand(1, width, 4), first, activation),
        fi.Layer(torch.rand(1, width, width) + 0.1, torch.ones(width), activation),
        fi.Layer(
            torch.rand(1, width, width) + 0.1, torch.ones(width), activation, to_rgb=(torch.ones(1, 2, width), BIAS)
        ),
    ]
    inr = fi.INR([fi.Stage(1, layers, fi.Fourier(torch.rand(1, 2, 2), torch.rand(1, 1, 2)))])
    actual, expected = (fi.render(inr, fi.Grid(3, 5), dtype=dtype, backend=name) for name in ("cpu", "reference"))
    torch.testing.assert_close(actual, expected, equal_nan=True)
    assert not expected.isfinite().any()


BIAS = torch.zeros(2)


@needs_kernels
@pytest.mark.parametrize("length", [1, 3, 16, 33])
def test_every_nan_stays_nan_in_bfloat16(length):
    """NaN from float16 has mantissa bits that rounding to bfloat16 carries over to the sign."""
    nan = torch.tensor([0x7FFFFFFF] * length, dtype=torch.int32).view(torch.float32)
    zeros = torch.zeros(1, length, dtype=torch.bfloat16)
    assert fi.bias_act(zeros, nan).isnan().all()
    layers = [nan[:, None], torch.ones(1, length)], [torch.zeros(length), torch.zeros(1)]
    assert fi.siren(torch.ones(5, 1), *layers, dtype=torch.bfloat16, backend="cpu").isnan().all()
