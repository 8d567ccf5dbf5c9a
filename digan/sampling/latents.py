"""Latents determined by a seed, and the times of a clip's frames."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from digan.randomness import Phase, stream


def seeded_latents(z_dim: int, seed: int, indices: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the content and motion vectors of samples `indices`; sample i depends on (seed, i) alone.

    Returns:
        (z_content, z_motion), each float32 [N, z_dim], standard normal, on the CPU.
    """
    rows = [torch.randn(2, z_dim, generator=stream(seed, i, Phase.SAMPLE)) for i in indices]
    z = torch.stack(rows) if rows else torch.empty(0, 2, z_dim)  # [N,2,z_dim]
    return z[:, 0], z[:, 1]


def clip_times(frames: int, t0: float = 0.0, t1: float = 1.0) -> torch.Tensor:
    """Return a clip's frame times, float32 [frames]: evenly spaced from t0 to t1, or t0 for a single frame."""
    return torch.linspace(t0, t1, frames)


def paced_times(frames: int, span: int) -> torch.Tensor:
    """Return times 0, 1/(span-1), ... of `frames` frames at the pace of training clips of `span` frames.

    Generated clips of any length then move as fast as real ones of that length; frames past `span` extrapolate.

    Returns:
        float32 [frames].
    """
    return torch.arange(frames) / max(span - 1, 1)
