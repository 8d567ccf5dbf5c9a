"""Latents that follow from a seed, and the times of the frames of a clip."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from digan.randomness import Phase, stream


def seeded_latents(z_dim: int, seed: int, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Content and motion vectors of samples `indices`: sample i is the same whatever else is drawn.

    Returns:
        (z_content, z_motion), each float32 [N, z_dim], standard normal, on the CPU.
    """
    rows = [torch.randn(2, z_dim, generator=stream(seed, i, Phase.SAMPLE)) for i in indices]
    z = torch.stack(rows) if rows else torch.empty(0, 2, z_dim)  # [N,2,z_dim]
    return z[:, 0], z[:, 1]


def clip_times(frames: int, t0: float = 0.0, t1: float = 1.0) -> torch.Tensor:
    """Times of the frames of a clip, float32 [frames]: evenly spaced, both ends included; `t0` alone for one frame."""
    return torch.linspace(t0, t1, frames)


def paced_times(frames: int, span: int) -> torch.Tensor:
    """Times of `frames` frames at the pace of training clips of `span` frames, float32 [frames]: 0, 1/(span-1), ...

    So generated clips of any length move as fast as real ones of that length; what is longer than `span` extrapolates.
    """
    return torch.arange(frames) / max(span - 1, 1)
