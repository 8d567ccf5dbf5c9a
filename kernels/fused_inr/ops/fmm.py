"""Factorized multiplicative modulation (INR-GAN, CVPR 2021; DIGAN, ICLR 2022)."""

import torch
from torch import Tensor

from fused_inr import checks
from fused_inr.ops.dispatch import call


def fmm_weight(weight: Tensor, left: Tensor, right: Tensor, *, demodulate: bool = True) -> Tensor:
    """Return the weights of N layers, W = weight * (1 + left right / sqrt(R)), from one weight and low-rank factors.

    Differentiable in every tensor to any order. Computed in float32, or in float64 if any tensor is float64; autocast
    is ignored, because demodulation is a statistic.

    Args:
        weight: `[O, I]`, shared by all layers.
        left: `[N, O, R]`, R >= 1.
        right: `[N, R, I]`.
        demodulate: divide each row of W by (its 2-norm + 1e-8).

    Returns:
        `[N, O, I]` float32 or float64.

    Raises:
        ValueError: the shapes or devices do not match, or a tensor is not floating point.
    """
    checks.floating("fmm_weight", "weight", weight, "O, I")
    checks.floating("fmm_weight", "left", left, "N, O, R")
    checks.floating("fmm_weight", "right", right, "N, R, I")
    checks.on_one_device("fmm_weight", weight=weight, left=left, right=right)
    demodulate = checks.flag("fmm_weight", "demodulate", demodulate)
    (outputs, inputs), (batch, _, rank) = weight.shape, left.shape
    if rank < 1 or left.shape[1] != outputs or right.shape != (batch, rank, inputs):
        raise ValueError(
            f"fmm_weight: for weight {list(weight.shape)}, left and right must have shapes [N, {outputs}, R] and "
            f"[N, R, {inputs}], R >= 1, not {list(left.shape)} and {list(right.shape)}."
        )
    wide = torch.float64 if torch.float64 in (weight.dtype, left.dtype, right.dtype) else torch.float32
    return call("fmm_weight", weight.device.type, (weight.to(wide), left.to(wide), right.to(wide), demodulate))
