"""What the page shows, rendered in short steps, so that a newer request never waits long."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, cast

import torch
import torch.nn.functional as F

import fused_inr as fi
from digan.explore.messages import (
    Content,
    EnlargedRequest,
    FramesRequest,
    MotionsRequest,
    Request,
    SliceRequest,
    Window,
)
from digan.models.generator import Generator
from digan.models.layers import FullyConnected
from digan.sampling.latents import Latents, clip_times
from digan.sampling.media import to_uint8
from digan.sampling.render import Sampler
from digan.sampling.slices import line_slice

METHODS = ("nearest", "bilinear", "bicubic")
_CACHED_CONTENTS = 4  # INRs: that of the default generator takes 13 MiB
_MIN_FPS = 18.0  # coarse frames have the largest size that can be rendered at this rate
_STEP = 128 * 128  # pixels that a step of a sharp picture renders at least
_STEP_SECONDS = 0.05
_COARSE_ROWS = 32  # times of a coarse slice


@dataclass(frozen=True)
class Picture:
    """Pixels uint8 [..., H, W, 3], and what they show."""

    header: dict[str, Any]
    pixels: torch.Tensor

    def encode(self) -> bytes:
        """Return the message: the length of the header, the header as JSON, and the pixels."""
        height, width = self.pixels.shape[-3:-1]
        header = json.dumps(self.header | {"width": width, "height": height}).encode()
        return len(header).to_bytes(4, "little") + header + self.pixels.numpy().tobytes()


class Painter:
    """Renders requests with a generator.

    Args:
        g: the generator, in evaluation mode on the device to render on. Its gains are folded into its weights.
        dtype: compute type of the matrix products; None for float32.
        latents: given clips, which take the place of the first samples.
    """

    def __init__(self, g: Generator, dtype: torch.dtype | None = None, latents: Sequence[Latents] = ()) -> None:
        for module in g.modules():
            if isinstance(module, FullyConnected):
                module.fold_gain()
        self.g, self.dtype, self.latents = g, dtype, latents
        self.scale = g.config.resolution // g.config.base_resolution
        self.rate = 0.0  # rendered pixels per second, a moving average
        self._sampler = lru_cache(maxsize=_CACHED_CONTENTS)(self.sampler)
        self._weights = lru_cache(maxsize=_CACHED_CONTENTS)(self._weights_of)

    def warm_up(self) -> None:
        """Render a frame, so that the speed is known."""
        content = Content(0, (0, 0, 0, 0), (0.0, 0.0), 1.0, 0 if self.g.config.num_classes else None)
        for _ in range(2):  # the first call takes longer
            self.rate = 0.0
            self.render(self.inr(content, 0, (0.0,)), self.g.grid())

    def steps(self, request: Request) -> Iterator[list[Picture]]:
        """Yield the pictures of a request step by step, coarse ones first; nothing is computed before."""
        yield from _STEPS[type(request)](self, request)

    def sampler(self, seed: int, psi: float, label: int | None) -> Sampler:
        """Return the source of the latents."""
        classes = () if label is None else (label,)
        return Sampler(
            self.g,
            clip_times(1),
            self.g.grid(),
            seed=seed,
            latents=self.latents,
            classes=classes,
            psi=psi,
            dtype=self.dtype,
        )

    def inr(self, content: Content, motion: int, times: tuple[float, ...] | torch.Tensor) -> fi.INR:
        """Return the clip at these times; the weights of the last contents are kept."""
        sampler = self._sampler(content.seed, content.psi, content.label)
        slots, weights = self._weights(content)
        times = torch.as_tensor(times, dtype=torch.float32).to(slots.device)
        return self.g.with_motion(weights, slots, sampler.z_motion(motion), times)

    def _weights_of(self, content: Content) -> tuple[torch.Tensor, fi.INR]:
        sampler = self._sampler(content.seed, content.psi, content.label)
        plan = content.plan(motion=0)
        slots = sampler.slots(plan)
        return slots, self.g.inr_from_slots(slots, sampler.z_motion(0), sampler.times)

    def grid(self, window: Window, size: tuple[int, int]) -> fi.Grid:
        """Return the base grid of a window of about this width and height."""
        width, height = (max(1, side // self.scale) for side in size)
        return fi.Grid(height, width, x=window.x, y=window.y)

    def coarse_size(self, size: tuple[int, int]) -> tuple[int, int]:
        """Return the size at which frames of this size can be rendered smoothly; at least half the training one."""
        side = self.g.config.resolution / 2
        while 4 * side * side * _MIN_FPS <= self.rate and side < max(size):
            side *= 2
        shrink = min(1.0, side / max(size))
        width, height = (max(1, round(length * shrink)) for length in size)
        return width, height

    def render(self, inr: fi.INR, grid: fi.Grid) -> torch.Tensor:
        """Render frames, uint8 [T, H, W, 3], and measure the speed."""
        start = time.perf_counter()
        pixels = _pixels(fi.render(inr, grid, dtype=self.dtype)[0])
        rate = pixels[..., 0].numel() / (time.perf_counter() - start)
        self.rate = 0.8 * self.rate + 0.2 * rate if self.rate else rate
        return pixels

    def _frames(self, request: FramesRequest) -> Iterator[list[Picture]]:
        inr = self.inr(request.content, request.motion, request.times)
        full = self.grid(request.window, request.size)
        if request.sharp:
            return self._bands(request, inr, full)
        return self._coarse(request, inr, full)

    def _coarse(self, request: FramesRequest, inr: fi.INR, full: fi.Grid) -> Iterator[list[Picture]]:
        """Yield the frames at the size that is rendered smoothly."""
        grid = self.grid(request.window, self.coarse_size(request.size))
        frames = self.render(inr, grid)
        final = grid.width == full.width
        yield [
            _picture(request, frame, final=final, time=t, x=grid.x, y=grid.y)
            for frame, t in zip(frames, request.times, strict=True)
        ]

    def _bands(self, request: FramesRequest, inr: fi.INR, grid: fi.Grid) -> Iterator[list[Picture]]:
        """Yield the rows of a sharp frame from top to bottom."""
        y0, y1 = grid.y
        for top, bottom in self.row_steps(grid):
            edges = [y1 + (y0 - y1) * row / grid.height for row in (bottom, top)]
            band = self.render(inr, grid.rows(top, bottom))[0]
            final = bottom == grid.height
            yield [_picture(request, band, final=final, time=request.times[0], x=grid.x, y=edges, sharp=True)]

    def row_steps(self, grid: fi.Grid) -> Iterator[tuple[int, int]]:
        """Yield ranges (top, bottom) of rows of a base grid, each quick to render; bottom is excluded."""
        top = 0
        while top < grid.height:
            pixels = max(_STEP, self.rate * _STEP_SECONDS)
            bottom = min(grid.height, top + max(1, round(pixels / (grid.width * self.scale**2))))
            yield top, bottom
            top = bottom

    def _slice(self, request: SliceRequest) -> Iterator[list[Picture]]:
        width, height = request.size
        width = max(1, width // self.scale) * self.scale
        few, narrow = min(height, _COARSE_ROWS), min(width, self.g.config.resolution)
        if (few, narrow) != (height, width):
            yield [self._slice_rows(request, narrow, clip_times(few, *request.span), 0.0, 1.0, final=False)]
        times = clip_times(height, *request.span)
        rows = max(1, round(max(_STEP, self.rate * _STEP_SECONDS) / (width * self.scale)))
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            final = bottom == height
            yield [self._slice_rows(request, width, times[top:bottom], top / height, bottom / height, final=final)]

    def _slice_rows(
        self, request: SliceRequest, width: int, times: torch.Tensor, top: float, bottom: float, **header: Any
    ) -> Picture:
        """Return the rows of a slice between two fractions of its height, 0 at the top."""
        inr = self.inr(request.content, request.motion, times)
        rows = _pixels(line_slice(inr, request.line, width, dtype=self.dtype).transpose(0, 1))  # [T, W, 3]
        return _picture(request, rows, top=top, bottom=bottom, **header)

    def _enlarged(self, request: EnlargedRequest) -> Iterator[list[Picture]]:
        inr = self.inr(request.content, request.motion, (request.time,))
        frame = fi.render(inr, self.g.grid(), dtype=self.dtype)[0]
        yield [
            _picture(
                request,
                _pixels(enlarged(frame, request.window, request.size, method))[0],
                method=method,
                time=request.time,
                x=request.window.x,
                y=request.window.y,
                final=method == METHODS[-1],
            )
            for method in METHODS
        ]

    def _motions(self, request: MotionsRequest) -> Iterator[list[Picture]]:
        side = max(1, request.side // self.scale) * self.scale
        for motion in request.motions:
            inr = self.inr(request.content, motion, request.times)
            frames = _pixels(fi.render(inr, self.g.grid(side), dtype=self.dtype)[0])  # [T, side, side, 3]
            final = motion == request.motions[-1]
            yield [_picture(request, frames, motion=motion, frames=len(request.times), final=final)]


def enlarged(frame: torch.Tensor, window: Window, size: tuple[int, int], method: str) -> torch.Tensor:
    """Enlarge a frame of the range -1 to 1 into a window. Beyond the frame there is nothing: the result is 0.

    Args:
        frame: float [1, 3, R, R].
        window: the part of the plane to show.
        size: width and height of the result.
        method: one of `METHODS`.

    Returns:
        [1, 3, height, width]; for the whole frame that of `torch.nn.functional.interpolate(..., align_corners=False)`.
    """
    (width, height), (x0, x1), (y0, y1) = size, window.x, window.y
    x = x0 + (x1 - x0) * (torch.arange(width) + 0.5) / width  # centres of pixels
    y = y1 + (y0 - y1) * (torch.arange(height) + 0.5) / height
    points = torch.stack([x.expand(height, width), -y[:, None].expand(height, width)], dim=-1)[None].to(frame)
    inside = (points.abs() <= 1).all(dim=-1)[:, None]  # [1, 1, height, width]
    # The edge is repeated, as by `interpolate`, so that the border pixels do not fade.
    return F.grid_sample(frame, points, mode=method, padding_mode="border", align_corners=False) * inside


def _pixels(frames: torch.Tensor) -> torch.Tensor:
    """Return frames [..., 3, H, W] in [-1, 1] as uint8 [..., H, W, 3] on the CPU."""
    return to_uint8(frames).movedim(-3, -1).contiguous().cpu()


def _picture(request: Request, pixels: torch.Tensor, **header: Any) -> Picture:
    kind = _NAMES[type(request)]
    return Picture({"kind": kind, "id": request.id, "generation": request.generation, **header}, pixels)


_NAMES = {FramesRequest: "frames", SliceRequest: "slice", EnlargedRequest: "enlarged", MotionsRequest: "motions"}
_STEPS = cast(
    dict[type[Request], Callable[[Painter, Request], Iterator[list[Picture]]]],
    {
        FramesRequest: Painter._frames,
        SliceRequest: Painter._slice,
        EnlargedRequest: Painter._enlarged,
        MotionsRequest: Painter._motions,
    },
)
