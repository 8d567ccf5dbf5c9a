"""PSNR and SSIM against closed forms and against scipy's Gaussian filter."""

import math

import numpy as np
import pytest
import torch
from scipy.ndimage import gaussian_filter

from digan.metrics.similarity import psnr, psnr_of_error, ssim


def frames(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=torch.Generator().manual_seed(seed))


def ssim_of_channel(x: np.ndarray, y: np.ndarray) -> float:
    def blurred(z: np.ndarray) -> np.ndarray:
        return gaussian_filter(z, 1.5, radius=5)[5:-5, 5:-5]

    x, y = x.astype(np.float64), y.astype(np.float64)
    mx, my = blurred(x), blurred(y)
    vx, vy, cov = blurred(x * x) - mx**2, blurred(y * y) - my**2, blurred(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    return (((2 * mx * my + c1) * (2 * cov + c2)) / ((mx**2 + my**2 + c1) * (vx + vy + c2))).mean()


def test_psnr_of_a_constant_error():
    a = torch.full((2, 3, 4, 4), 100, dtype=torch.uint8)
    b = a.clone()
    b[1] += 5
    assert psnr(a, b).tolist() == pytest.approx([math.inf, 20 * math.log10(255 / 5)])


def test_psnr_of_an_error_in_minus_one_to_one_is_that_of_bytes():
    a, b = frames(3, 8, 8), frames(3, 8, 8, seed=1)
    error = (a.double() - b.double()).div(127.5).square().mean().item()
    assert psnr_of_error(error) == pytest.approx(psnr(a, b).item(), rel=1e-12)
    assert psnr_of_error(0.0) == math.inf


@pytest.mark.parametrize("size", [(11, 11), (32, 20)])
def test_ssim_matches_scipy(size):
    a = frames(2, 3, *size)
    b = (a.float() * 0.8 + frames(2, 3, *size, seed=1).float() * 0.1).to(torch.uint8)
    expected = [np.mean([ssim_of_channel(a[t, c].numpy(), b[t, c].numpy()) for c in range(3)]) for t in range(2)]
    # Measured: 4e-15; the two sum in different orders.
    assert ssim(a, b).tolist() == pytest.approx(expected, rel=1e-12)


def test_ssim_of_equal_and_of_inverted_frames():
    a = frames(3, 16, 16)
    assert ssim(a, a).item() == pytest.approx(1)
    assert ssim(a, 255 - a).item() < 0
