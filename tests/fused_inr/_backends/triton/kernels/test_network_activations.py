"""Activations of networks and their slopes: many magnitudes, and zero, infinities and NaN as in PyTorch."""

import math

import pytest
import torch
import triton
import triton.language as tl

from fused_inr import reference
from fused_inr._backends.triton.kernels.network_activations import activation, activation_and_slope, slope
from fused_inr.primitives.mlp import ACTIVATIONS

OMEGA = 3.0


@triton.jit
def both_kernel(z, out, omega, ACTIVATION: tl.constexpr, SIZE: tl.constexpr):
    """Write activation(z), slope(z) and the results of activation_and_slope(z) to out [4, SIZE]."""
    place = tl.arange(0, SIZE)
    x = tl.load(z + place)
    y, s = activation_and_slope(x, omega, ACTIVATION)
    tl.store(out + place, activation(x, omega, ACTIVATION))
    tl.store(out + SIZE + place, slope(x, omega, ACTIVATION))
    tl.store(out + 2 * SIZE + place, y)
    tl.store(out + 3 * SIZE + place, s)


def evaluated(z: torch.Tensor, name: str, device: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values and the slopes of the kernels."""
    out = torch.empty(4, z.numel(), device=device)
    both_kernel[(1,)](z.to(device), out, OMEGA, ACTIVATION=name, SIZE=z.numel())
    assert torch.equal(out[:2].nan_to_num(7.0), out[2:].nan_to_num(7.0))
    return out[0].cpu(), out[1].cpu()


def expected(z: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the values of the reference and their derivatives by autograd."""
    z = z.clone().requires_grad_()
    values = reference.activation(z, name, OMEGA)
    return values.detach(), torch.autograd.grad(values.sum(), z)[0]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_accuracy(name, device):
    magnitude = torch.cat([torch.logspace(-6, 0.9, 127), torch.tensor([0.0])])
    z = torch.cat([-magnitude, magnitude])
    values, slopes = evaluated(z, name, device)
    exact_values, exact_slopes = expected(z.double(), name)
    # Measured in the interpreter: 4.0e-7 for values and 2.6e-7 for slopes; 7.7e-7 and 2.6e-6 for sine, 3.8e-6 and
    # 1.3e-4 for finer, whose angles reach 214 radians and whose slopes reach 51. The sine of a GPU adds 5e-7.
    tolerances = {"sine": (2e-6, 6e-6), "finer": (1e-5, 4e-4)}.get(name, (1e-6, 2e-6))
    for actual, exact, tolerance in zip((values, slopes), (exact_values, exact_slopes), tolerances, strict=True):
        assert (actual.double() - exact).abs().max() <= tolerance


@pytest.mark.filterwarnings("ignore:.* encountered:RuntimeWarning")
@pytest.mark.parametrize("name", ACTIVATIONS)
def test_zero_infinities_and_nan(name, device):
    z = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-30, -1e-30, -20.0])
    # In float64, because PyTorch's gelu(inf) is NaN in float32 on the CPU, and inf elsewhere.
    for actual, exact in zip(evaluated(z, name, device), expected(z.double(), name), strict=True):
        torch.testing.assert_close(actual.double(), exact, rtol=1e-5, atol=1e-6, equal_nan=True)
