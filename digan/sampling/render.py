"""Rendering a generator's clips in bounded memory, for files and for metrics."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache

import torch

import fused_inr as fi
from digan.models.generator import Generator
from digan.sampling.clip_plan import ClipPlan
from digan.sampling.latents import Latents, seeded_latents
from digan.sampling.media import to_uint8
from digan.sampling.slices import Line, slice_rows

RENDER_MEMORY = 512 << 20  # bytes that one rendering may use beyond its output
_CACHED_CONTENTS = 16


def clip_frames(
    inr: fi.INR, grid: fi.Grid, *, dtype: torch.dtype | None = None, memory: int = RENDER_MEMORY
) -> Iterator[torch.Tensor]:
    """Render the frames of one clip one by one, in bounded memory.

    Args:
        inr: a clip (N = 1) at T times, computed without gradients.
        grid: the base grid, see `Generator.grid`.
        dtype: compute type of the matrix products; None for float32.
        memory: bytes that rendering may use beyond a frame.

    Returns:
        An iterator over T frames, uint8 [H, W, 3] on the CPU.

    Raises:
        ValueError: the INR holds several clips, or `fi.render_chunks` refuses the call; raised by the call itself, not
            by the iterator.
    """
    if inr.batch != 1:
        raise ValueError(f"clip_frames renders one clip, not {inr.batch}.")
    chunks = fi.render_chunks(inr, grid, memory=memory, dtype=dtype)  # each [1, 3, H, W]
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
    """Render clips one by one, so that working memory does not grow with their number.

    Args:
        g: the generator.
        z_content: [N, z_dim].
        z_motion: [N, z_dim].
        times: [T], shared by all clips; 0 to 1 is the span of the training clips.
        labels: int64 [N] for a conditional generator.
        psi: truncation; 1 is none.
        resolution: pixels per side; the training resolution if None.
        dtype: compute type of the matrix products; None for float32.
        memory: bytes that rendering may use beyond the clips.

    Returns:
        uint8 [N, T, 3, R, R] on the CPU.
    """
    device = next(g.parameters()).device
    grid = g.grid(resolution)
    clips = []
    for i in range(len(z_content)):
        clip = slice(i, i + 1)
        inr = g.inr(
            z_content[clip].to(device),
            z_motion[clip].to(device),
            times.to(device)[None],
            None if labels is None else labels[clip].to(device),
            psi=psi,
        )
        clips.append(torch.stack(list(clip_frames(inr, grid, dtype=dtype, memory=memory))))  # [T, R, R, 3]
    side = grid.height * (g.config.resolution // g.config.base_resolution)
    stacked = torch.stack(clips) if clips else torch.empty(0, len(times), side, side, 3, dtype=torch.uint8)
    return stacked.permute(0, 1, 4, 2, 3).contiguous()


class GeneratedClips:
    """A set of `count` generated clips for metrics, rendered when `batch` is called.

    Args:
        g: the generator.
        count: number of clips.
        times: [T], times of a clip's frames.
        seed: clip i depends on (seed, i) alone, given the labels.
        labels: int64 [n], labels of the real clips, for a conditional generator; used in turn, shuffled by the seed.
        frame_indices: the frames of a clip to render; all if None.
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
        # A data set's labels are sorted by class: without shuffling, few clips would cover the first classes only.
        order = None if labels is None else torch.randperm(len(labels), generator=torch.Generator().manual_seed(seed))
        self.labels = None if labels is None else labels[order]

    def __len__(self) -> int:
        return self.count

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Return clips as uint8 [n, T, 3, R, R], where T is the number of `frame_indices`."""
        z_content, z_motion = seeded_latents(self.g.config.z_dim, self.seed, indices)
        labels = None if self.labels is None else self.labels[[i % len(self.labels) for i in indices]]
        return sample_clips(self.g, z_content, z_motion, self.times, labels, psi=self.psi, resolution=self.resolution)


class Sampler:
    """Render clips of a generator, each in a batch of its own, so that no clip depends on which others are rendered.

    Args:
        g: the generator, in evaluation mode on the device to render on.
        times: [T], times of every clip's frames.
        grid: base grid of the frames, see `Generator.grid`; its region is the visible window.
        seed: sample i has the latents of (seed, i).
        latents: clips that replace the first samples: sample i is latents[i] for i < len(latents).
        classes: for a conditional generator; every other sample i has class classes[i % len(classes)].
        psi: truncation; 1 is none.
        dtype: compute type of the matrix products; None for float32.
        memory: bytes that rendering may use beyond a frame.
    """

    def __init__(
        self,
        g: Generator,
        times: torch.Tensor,
        grid: fi.Grid,
        *,
        seed: int = 0,
        latents: Sequence[Latents] = (),
        classes: Sequence[int] = (),
        psi: float = 1.0,
        dtype: torch.dtype | None = None,
        memory: int = RENDER_MEMORY,
    ) -> None:
        self.g, self.grid, self.seed, self.psi, self.dtype, self.memory = g, grid, seed, psi, dtype, memory
        self.latents, self.classes = list(latents), list(classes)
        self.device = next(g.parameters()).device
        self.times = times.to(self.device)
        self.slots_of = lru_cache(maxsize=_CACHED_CONTENTS)(self._slots)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        scale = self.g.config.resolution // self.g.config.base_resolution
        return self.grid.height * scale, self.grid.width * scale

    def label(self, index: int) -> int | None:
        """Return the class of a sample; None for an unconditional generator."""
        if index < len(self.latents):
            return self.latents[index].label
        return self.classes[index % len(self.classes)] if self.g.config.num_classes else None

    def frames(self, plan: ClipPlan) -> Iterator[torch.Tensor]:
        """Render the frames of a clip one by one.

        Returns:
            An iterator over T frames, uint8 [H, W, 3] on the CPU.

        Raises:
            ValueError: not even one row of pixels fits into `memory`; raised by the call, not by the iterator.
        """
        return clip_frames(self.inr(plan), self.grid, dtype=self.dtype, memory=self.memory)

    def slice(self, plan: ClipPlan, line: Line) -> Iterator[torch.Tensor]:
        """Render a line of a clip over time: T frames of one row, uint8 [1, W, 3] on the CPU, as wide as a frame."""
        return slice_rows(self.inr(plan), line, self.size[1], dtype=self.dtype)

    @torch.no_grad()
    def inr(self, plan: ClipPlan) -> fi.INR:
        """Return the clip as a function of (x, y), at the times of this sampler.

        Contents are interpolated in w and not in z: the weights are affine in w, so even steps change the image evenly,
        and contents of different classes can be interpolated too.
        """
        return self.g.inr_from_slots(self.slots(plan), self.z_motion(plan.motion), self.times)

    @torch.no_grad()
    def slots(self, plan: ClipPlan) -> torch.Tensor:
        """Return the mixed w slots of a clip, [1, num_slots, w_dim]: exactly those of a content whose weight is 1."""
        weighted = zip(plan.contents, plan.weights, strict=True)
        return sum(self.slots_of(index) * weight for index, weight in weighted if weight)  # type: ignore[return-value]

    def z_motion(self, index: int) -> torch.Tensor:
        """Return the motion vector of a sample, [1, z_dim]."""
        if index < len(self.latents):
            return self.latents[index].z_motion[None].to(self.device)
        return seeded_latents(self.g.config.z_dim, self.seed, [index])[1].to(self.device)

    @torch.no_grad()
    def _slots(self, index: int) -> torch.Tensor:
        """Return the w slots of a sample's content, [1, num_slots, w_dim]."""
        if index < len(self.latents):
            slots = self.latents[index].w[None].to(self.device)
            return slots if self.psi == 1.0 else self.g.mapping.w_avg.lerp(slots, self.psi)
        z_content = seeded_latents(self.g.config.z_dim, self.seed, [index])[0].to(self.device)
        label = self.label(index)
        labels = None if label is None else torch.tensor([label], device=self.device)
        return self.g.broadcast(self.g.mapping(z_content, labels, self.psi))
