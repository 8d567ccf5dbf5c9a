"""Activations and their slopes through `bias_act` on the Triton kernels: many magnitudes, infinities and NaN."""

import math

import pytest
import torch

from fused_inr import reference
from fused_inr._backends.triton import image_ops
from fused_inr.primitives.bias_act import PIECEWISE_LINEAR, bias_act

ACTS = tuple(reference.BIAS_ACTIVATIONS)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("act", [act for act in ACTS if act != "swish"])  # swish(-inf) is -inf times 0, NaN, in both
def test_nonfinite_and_extreme_values(act, device):
    values = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e30, -1e30, 1e-30, -1e-30])
    options = (None, act, 0.2, 1.0, None, 0)
    actual = bias_act(values.to(device), *options).cpu()
    torch.testing.assert_close(actual, reference.bias_act(values, *options), equal_nan=True)


@pytest.mark.parametrize("act", [act for act in ACTS if act not in PIECEWISE_LINEAR])
def test_curved_activations_are_exact_everywhere(act, exactly, device):
    """Check relative errors over many magnitudes, where differences of exponentials would cancel."""
    magnitude = torch.logspace(-6, 1.3, 400)
    x = torch.cat([-magnitude.flip(0), magnitude]).to(device)
    wide, options = exactly(x), (act, 0.2, 1.0, None, 0)
    exact = reference.bias_act(wide, None, *options)
    (exact_slope,) = torch.autograd.grad(exact.sum(), wide)
    actual = bias_act(x, None, *options)
    slope = image_ops.bias_act_slope(torch.ones_like(x), None, x, None, False, False, *options)[0]
    # Measured in the interpreter: 2.7e-7, slopes 9.3e-7 absolute. GPUs compute exp(20) as a power of 2: rounding its
    # exponent to float32 changes the result by up to 1.2e-6, and rounding log2(e) by as much.
    torch.testing.assert_close(actual.cpu().double(), exact.detach(), rtol=5e-6, atol=1e-12)
    torch.testing.assert_close(slope.cpu().double(), exact_slope, rtol=5e-6, atol=1e-6)
