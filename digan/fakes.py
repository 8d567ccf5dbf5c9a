"""Videos from a generator: seeded latents, rendering in bounded memory, and sets of fakes for metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

import fused_inr as fi
from digan.generator import Generator
from digan.media import to_uint8
from digan.randomness import Phase, stream

RENDER_MEMORY = 512 << 20  # bytes that one rendering may take beyond its output


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


def clip_frames(
    inr: fi.INR, grid: fi.Grid, *, dtype: torch.dtype | None = None, memory: int = RENDER_MEMORY
) -> Iterator[torch.Tensor]:
    """The frames of one clip, one after the other, in bounded memory.

    Args:
        inr: a clip (N = 1) at T times, made without gradients.
        grid: the base grid, see `Generator.grid`.
        dtype: compute type of the matrix products, None for float32.
        memory: bytes that rendering may take beyond a frame.

    Returns:
        An iterator over T frames, uint8 [H, W, 3] on the CPU. Errors of `fi.render_chunks` are raised by the call.
    """
    if inr.batch != 1:
        raise ValueError(f"clip_frames renders one clip, not {inr.batch}.")
    chunks = fi.render_chunks(inr, grid, memory=memory, dtype=dtype)  # each [1,3,H,W]
    return (to_uint8(frame[0]).permute(1, 2, 0).contiguous().cpu() for frame in chunks)


@torch.no_grad()
def sample_clips(
    g: Generator,
    z_content: torch.Tensor,
    z_motion: torch.Tensor,
    times: torch.Tensor,
    labels: torch.Tensor | None = None,
    *,
    psi: float = 1.0,
    resolution: int | None = None,
    dtype: torch.dtype | None = None,
    memory: int = RENDER_MEMORY,
) -> torch.Tensor:
    """Renders clips one after the other, so that memory does not grow with their number.

    Args:
        z_content, z_motion: [N, z_dim].
        times: [T], shared by all clips; 0 to 1 is the span of the training clips.
        labels: int64 [N] for a conditional generator.
        psi: truncation; 1 is none.
        resolution: pixels per side; the training resolution if None.
        dtype: compute type of the matrix products, None for float32.
        memory: bytes that rendering may take beyond the clips.

    Returns:
        uint8 [N, T, 3, R, R] on the CPU.
    """
    device = next(g.parameters()).device
    grid = g.grid(resolution)
    clips = []
    for i in range(len(z_content)):
        one = slice(i, i + 1)
        inr = g.inr(
            z_content[one].to(device),
            z_motion[one].to(device),
            times.to(device)[None],
            None if labels is None else labels[one].to(device),
            psi=psi,
        )
        clips.append(torch.stack(list(clip_frames(inr, grid, dtype=dtype, memory=memory))))  # [T,R,R,3]
    side = grid.height * (g.config.resolution // g.config.base_resolution)
    stacked = torch.stack(clips) if clips else torch.empty(0, len(times), side, side, 3, dtype=torch.uint8)
    return stacked.permute(0, 1, 4, 2, 3).contiguous()


class Fakes:
    """A set of `count` generated clips, addressed by index, for metrics.

    Args:
        g: the generator.
        count: number of clips.
        times: [T], of the frames of a clip.
        seed: clip i depends on (seed, i) alone.
        labels: int64 [n], of the reals, for a conditional generator; dealt out in an order that follows from the seed.
        frame_indices: the frames of a clip that are made, all if None.
        psi: truncation; 1 is none.
        resolution: pixels per side; the training resolution if None.
    """

    def __init__(
        self,
        g: Generator,
        count: int,
        times: torch.Tensor,
        seed: int,
        labels: torch.Tensor | None = None,
        *,
        frame_indices: range | None = None,
        psi: float = 1.0,
        resolution: int | None = None,
    ) -> None:
        self.g, self.count, self.seed, self.psi, self.resolution = g, count, seed, psi, resolution
        self.frame_indices = range(len(times)) if frame_indices is None else frame_indices
        self.times = times[list(self.frame_indices)]
        # Labels of a data set are sorted: the first ones alone would be of the first classes.
        order = None if labels is None else torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        self.labels = None if labels is None else labels[order]

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """uint8 [n, T, 3, R, R], T the number of `frame_indices`."""
        z_content, z_motion = seeded_latents(self.g.config.z_dim, self.seed, indices)
        labels = None if self.labels is None else self.labels[[i % len(self.labels) for i in indices]]
        return sample_clips(self.g, z_content, z_motion, self.times, labels, psi=self.psi, resolution=self.resolution)
