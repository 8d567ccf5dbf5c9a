"""Sines and cosines of the Triton kernels against float64."""

import pytest
import torch
import triton
import triton.language as tl

from fused_inr._backends.triton.kernels.sines import cosine, sine, sine_cosine


@triton.jit
def sines_kernel(angles, out, count, BLOCK: tl.constexpr):
    """Write the rows of out [4, count]: sine, cosine, and both from one reduction."""
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < count
    a = tl.load(angles + place, inside, 0.0)
    s, c = sine_cosine(a)
    tl.store(out + place, sine(a), inside)
    tl.store(out + count + place, cosine(a), inside)
    tl.store(out + 2 * count + place, s, inside)
    tl.store(out + 3 * count + place, c, inside)


def both(angles: torch.Tensor) -> torch.Tensor:
    out = torch.empty(4, len(angles), device=angles.device)
    sines_kernel[(triton.cdiv(len(angles), 4096),)](angles, out, len(angles), BLOCK=4096)
    return out


# Measured in the interpreter: 1.5e-7, 2.2e-7, 1.3e-6 and, beyond FAR, 3e-7. The instruction of a GPU adds 5.1e-7; its
# FMAs round once.
@pytest.mark.parametrize(
    ("largest", "tolerance"),
    [(100.0, 1e-6), (1e4, 1.2e-6), (1e5, 4e-6), (1e8, 4e-6), (1e12, 4e-6), (1e38, 4e-6)],
    ids=str,
)
def test_absolute_error(largest, tolerance, device):
    angles = torch.cat([torch.linspace(-largest, largest, 100_001), torch.randn(1000), torch.zeros(1)]).to(device)
    exact = angles.cpu().double()
    actual = both(angles).cpu().double()
    for row, values in enumerate((exact.sin(), exact.cos(), exact.sin(), exact.cos())):
        assert (actual[row] - values).abs().max() <= tolerance
    assert actual.abs().max() <= 1 + 1e-6


def test_near_zeros_of_the_sine(device):
    angles = (torch.arange(-2000, 2001, dtype=torch.float64) * torch.pi).float().to(device)
    exact = angles.cpu().double()
    # Measured in the interpreter: 1.9e-7 at |a| up to 6283.
    assert (both(angles)[0].cpu().double() - exact.sin()).abs().max() <= 1.2e-6


@pytest.mark.filterwarnings("ignore:invalid value")
def test_nonfinite_angles_give_nan(device):
    assert both(torch.tensor([torch.inf, -torch.inf, torch.nan], device=device)).isnan().all()
