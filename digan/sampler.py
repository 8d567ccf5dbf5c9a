"""Frames of planned clips: samples of a seed, seen at some times through some window."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

import fused_inr as fi
from digan.fakes import RENDER_MEMORY, clip_frames, seeded_latents
from digan.generator import Generator
from digan.plan import ClipPlan


class Sampler:
    """Renders clips of a generator, each as a batch of its own: a clip is the same whatever else is made.

    Args:
        g: the generator, in evaluation mode on the device where it shall run.
        times: [T], of the frames of every clip.
        grid: base grid of the frames, see `Generator.grid`; its region is the window that is seen.
        seed: sample i has the latents of (seed, i).
        classes: for a conditional generator; sample i is of classes[i % len(classes)].
        psi: truncation; 1 is none.
        dtype: compute type of the matrix products, None for float32.
        memory: bytes that rendering may take.
    """

    def __init__(
        self,
        g: Generator,
        times: torch.Tensor,
        grid: fi.Grid,
        *,
        seed: int = 0,
        classes: Sequence[int] = (),
        psi: float = 1.0,
        dtype: torch.dtype | None = None,
        memory: int = RENDER_MEMORY,
    ) -> None:
        self.g, self.grid, self.seed, self.psi, self.dtype, self.memory = g, grid, seed, psi, dtype, memory
        self.classes = list(classes)
        self.device = next(g.parameters()).device
        self.times = times.to(self.device)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of a frame in pixels."""
        scale = self.g.config.resolution // self.g.config.base_resolution
        return self.grid.height * scale, self.grid.width * scale

    def label(self, index: int) -> int | None:
        """The class of a sample; None for an unconditional generator."""
        return self.classes[index % len(self.classes)] if self.g.config.num_classes else None

    def frames(self, plan: ClipPlan) -> Iterator[torch.Tensor]:
        """The frames of a clip one after the other, T of uint8 [H, W, 3] on the CPU.

        Raises ValueError, by the call, where not even a row of pixels fits into `memory`.
        """
        return clip_frames(self.inr(plan), self.grid, dtype=self.dtype, memory=self.memory)

    @torch.no_grad()
    def inr(self, plan: ClipPlan) -> fi.INR:
        """The clip as a function of (x, y), at the times of this sampler.

        Contents are mixed in w and not in z: w is what the weights are affine in, so steps of equal size change the
        picture evenly, and contents of different classes have a way between them.
        """
        first, second = (self._w(index) for index in plan.contents)
        w = first.lerp(second, plan.mix)  # [1,w_dim]; exact at both ends
        z_motion = seeded_latents(self.g.config.z_dim, self.seed, [plan.motion])[1].to(self.device)
        return self.g.inr_from_slots(self.g.broadcast(w), z_motion, self.times)

    def _w(self, index: int) -> torch.Tensor:
        """w of a sample's content, [1, w_dim]."""
        z_content = seeded_latents(self.g.config.z_dim, self.seed, [index])[0].to(self.device)
        label = self.label(index)
        labels = None if label is None else torch.tensor([label], device=self.device)
        return self.g.mapping(z_content, labels, self.psi)
