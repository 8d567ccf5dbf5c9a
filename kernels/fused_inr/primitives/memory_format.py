"""The two dense memory formats that kernels take: contiguous, and channels_last for images."""

import math

import torch
from torch import Tensor

TYPES = (torch.float32, torch.bfloat16, torch.float16)


def is_channels_last(x: Tensor) -> bool:
    """Return whether x is channels_last and not contiguous as well."""
    return x.ndim == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)


def format_of(x: Tensor) -> torch.memory_format:
    """Return the memory format of a dense x."""
    return torch.channels_last if is_channels_last(x) else torch.contiguous_format


def dense(x: Tensor) -> Tensor:
    """Return x itself if it is contiguous or channels_last, else a contiguous copy."""
    return x if is_channels_last(x) else x.contiguous()


def like(x: Tensor, y: Tensor) -> Tensor:
    """Return y in the memory format and dtype of a dense x."""
    return y.to(x.dtype).contiguous(
        memory_format=torch.channels_last if is_channels_last(x) else torch.contiguous_format
    )


def extents(x: Tensor, dim: int) -> tuple[int, int, int]:
    """Return the sizes (outer, channels, inner) of a dense x in memory order, where axis `dim` holds the channels.

    Raises:
        ValueError: x is channels_last and `dim` is not 1.
    """
    if is_channels_last(x):
        if dim != 1:
            raise ValueError(f"axis {dim} of a channels_last image does not have a single stride; use dim=1.")
        return x.numel() // x.shape[1], x.shape[1], 1
    return math.prod(x.shape[:dim]), x.shape[dim] if x.ndim else 1, math.prod(x.shape[dim + 1 :])


def batch_stride(x: Tensor) -> int:
    """Return the stride of axis 0 in elements, or 0 if it has a single entry, which all samples share."""
    return x.stride(0) if x.shape[0] > 1 else 0


def supports(x: Tensor) -> tuple[bool, str]:
    """Return whether the kernels of all backends support the dtype of x, and if not, why."""
    return x.dtype in TYPES, f"it computes in float32, bfloat16 and float16, not in {x.dtype}"
