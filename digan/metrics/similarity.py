"""Similarity of frames to the originals: PSNR and SSIM."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

_WINDOW, _SIGMA = 11, 1.5  # Gaussian window of SSIM: its width and standard deviation in pixels
_K1, _K2 = 0.01, 0.03


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Return the peak signal-to-noise ratio of frames, 10 log10(255^2 / MSE), in dB.

    Args:
        a, b: uint8 [..., 3, H, W].

    Returns:
        float64 [...]; infinite for equal frames.
    """
    error = (a.double() - b.double()).square().mean(dim=(-3, -2, -1))
    return 10 * (255**2 / error).log10()


def psnr_of_error(error: float) -> float:
    """Return the PSNR in dB that belongs to a mean squared error of frames in [-1, 1]."""
    return 10 * math.log10(4 / error) if error > 0 else math.inf


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Return the structural similarity of frames, averaged over pixels and channels.

    That is the mean of (2 m_a m_b + C1) (2 s_ab + C2) / ((m_a^2 + m_b^2 + C1) (s_a^2 + s_b^2 + C2)) with means,
    variances and the covariance under a Gaussian window of 11x11 pixels with standard deviation 1.5, at all places
    where the window lies inside the frame; C1 = (0.01 * 255)^2, C2 = (0.03 * 255)^2 (Wang et al., Image Quality
    Assessment: From Error Visibility to Structural Similarity, IEEE TIP 2004, equation 13). Each channel counts as a
    picture of its own.

    Args:
        a, b: uint8 [..., 3, H, W], at least 11 pixels high and wide.

    Returns:
        float64 [...], at most 1, which equal frames have.
    """
    shape = a.shape[:-2]
    x, y = (frames.double().reshape(-1, 1, *frames.shape[-2:]) for frames in (a, b))  # [M, 1, H, W]
    mean_x, mean_y = _blurred(x), _blurred(y)
    var_x, var_y = _blurred(x * x) - mean_x**2, _blurred(y * y) - mean_y**2
    covariance = _blurred(x * y) - mean_x * mean_y
    c1, c2 = (_K1 * 255) ** 2, (_K2 * 255) ** 2
    index = (2 * mean_x * mean_y + c1) * (2 * covariance + c2)
    index = index / ((mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2))
    return index.mean(dim=(1, 2, 3)).view(shape).mean(dim=-1)


def _blurred(x: Tensor) -> Tensor:
    """Return pictures [M, 1, H, W] under the Gaussian window, where it lies inside them."""
    offsets = torch.arange(_WINDOW, dtype=x.dtype, device=x.device) - _WINDOW // 2
    taps = (-(offsets**2) / (2 * _SIGMA**2)).exp()
    taps = taps / taps.sum()
    return F.conv2d(F.conv2d(x, taps.view(1, 1, -1, 1)), taps.view(1, 1, 1, -1))
