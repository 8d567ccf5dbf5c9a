"""Sets of fakes to compare with real clips: plain samples, and the paper's experiments in time and space.

A generator's time runs from 0 at the first frame of a training clip to 1 at its last: frame k of the `span` frames is
at time k/(span-1). Each experiment is a table whose rows generate clips from a seed; all rows use the same latents for
the same seed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

from digan.errors import ConfigError
from digan.metrics import ClipSource, MetricProtocol
from digan.models.generator import Generator
from digan.sampling.latents import clip_times, paced_times
from digan.sampling.render import GeneratedClips

Maker = Callable[[int], ClipSource]  # the clips of a seed


@dataclass(frozen=True)
class Model:
    """A trained generator and the settings of its clips.

    Attributes:
        g: the generator.
        span: frames of a training clip.
        labels: int64 [n], for a conditional generator; its clips use them in turn, shuffled by the seed.
        psi: truncation; 1 is none.
    """

    g: Generator
    span: int
    labels: torch.Tensor | None = None
    psi: float = 1.0

    def clips(
        self, protocol: MetricProtocol, times: torch.Tensor, resolution: int, **options: Any
    ) -> Callable[[int], GeneratedClips]:
        """Return a maker of protocol.count clips with frames at `times`, `resolution` pixels per side."""
        options |= {"psi": self.psi, "resolution": resolution}
        return lambda seed: GeneratedClips(self.g, protocol.count, times, seed, self.labels, **options)

    def looked_at(
        self, protocol: MetricProtocol, times: torch.Tensor, resolution: int
    ) -> Callable[[int], GeneratedClips]:
        """Do the same as `clips`, but render only the frames that the protocol reads; times: [protocol.frames]."""
        return self.clips(protocol, times, resolution, frame_indices=protocol.frame_indices)


class Resized:
    """Clips of another source, resized to `resolution` pixels per side.

    Args:
        clips: the source.
        resolution: pixels per side.
        mode: "nearest", "bilinear" or "bicubic" (as in torch.nn.functional.interpolate, corners not aligned).
    """

    def __init__(self, clips: GeneratedClips, resolution: int, mode: str) -> None:
        self.clips, self.resolution, self.mode = clips, resolution, mode
        self.frame_indices = clips.frame_indices

    def __len__(self) -> int:
        return len(self.clips)

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Return clips as uint8 [n, T, 3, resolution, resolution]."""
        clips = self.clips.batch(indices)  # [n, T, 3, R, R]
        frames = F.interpolate(clips.flatten(0, 1).float(), size=(self.resolution,) * 2, mode=self.mode)
        return _to_pixels(frames).unflatten(0, clips.shape[:2])


class Retimed:
    """Clips of another source, resampled in time to `frames` frames from the first to the last.

    Args:
        clips: the source.
        frames: number of frames of the result.
        blend: True interpolates linearly between adjacent frames, False repeats the nearest one.
    """

    def __init__(self, clips: ClipSource, frames: int, blend: bool) -> None:
        self.clips, self.frames, self.blend = clips, frames, blend

    def __len__(self) -> int:
        return len(self.clips)

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Return clips as uint8 [n, frames, 3, R, R]."""
        clips = self.clips.batch(indices)  # [n, T, 3, R, R]
        position = torch.linspace(0, clips.shape[1] - 1, self.frames)  # [frames]
        if not self.blend:
            return clips[:, position.round().long()]
        before = position.long().clamp(max=max(clips.shape[1] - 2, 0))
        after = (before + 1).clamp(max=clips.shape[1] - 1)
        weight = (position - before).view(-1, 1, 1, 1)
        return _to_pixels(torch.lerp(clips[:, before].float(), clips[:, after].float(), weight))


def _to_pixels(values: torch.Tensor) -> torch.Tensor:
    return values.round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True)
class Experiment:
    """A table whose rows are each compared with the same real clips.

    Attributes:
        text: what is compared with what, for --help.
        rows: maps (model, protocol, resolution) to the clips of each row, by its name.
        metric: the default metric, given the span of a training clip.
        enlarge: the default resolution, as a multiple of the generator's.
        pace: maps (span, frames of the protocol) to the time between frames of a fake, in frames of a training clip;
            real clips use the nearest stride.
    """

    text: str
    rows: Callable[[Model, MetricProtocol, int], dict[str, Maker]]
    metric: Callable[[int], str] = lambda span: f"rfvd256_{span}f"
    enlarge: int = 1
    pace: Callable[[int, int], float] = lambda span, frames: 1.0


def _generate(model: Model, protocol: MetricProtocol, resolution: int) -> dict[str, Maker]:
    return {"generator": model.looked_at(protocol, paced_times(protocol.frames, model.span), resolution)}


def _interpolate(model: Model, protocol: MetricProtocol, resolution: int) -> dict[str, Maker]:
    frames, span = protocol.frames, model.span
    if frames <= span:
        raise ConfigError(
            f"--experiment interpolate needs a metric with more frames than the {span} of a training clip, not "
            f"{protocol.name}: give a metric such as rfvd{protocol.count}_{4 * span}f."
        )
    few = model.clips(protocol, clip_times(span), resolution)
    return {
        "generator": model.looked_at(protocol, clip_times(frames), resolution),
        "frames blended": lambda seed: Retimed(few(seed), frames, blend=True),
        "frames repeated": lambda seed: Retimed(few(seed), frames, blend=False),
    }


def _slower(span: int, frames: int) -> float:
    return max(span - 1, 1) / max(frames - 1, 1)


def _extrapolate(model: Model, protocol: MetricProtocol, resolution: int) -> dict[str, Maker]:
    times = paced_times(protocol.frames + 1, model.span)
    return {
        "from time 0": model.looked_at(protocol, times[:-1], resolution),
        "after time 1": model.looked_at(protocol, 1 + times[1:], resolution),
    }


def _upsample(model: Model, protocol: MetricProtocol, resolution: int) -> dict[str, Maker]:
    own = model.g.config.resolution
    if resolution <= own:
        raise ConfigError(f"--experiment upsample needs a --resolution above the network's {own}, not {resolution}.")
    times = paced_times(protocol.frames, model.span)
    small = model.looked_at(protocol, times, own)

    def resized(mode: str) -> Maker:
        return lambda seed: Resized(small(seed), resolution, mode)

    return {
        "nearest": resized("nearest"),
        "bilinear": resized("bilinear"),
        "bicubic": resized("bicubic"),
        "generator": model.looked_at(protocol, times, resolution),
    }


PLAIN = Experiment("samples from time 0 on, at the pace of the real clips", _generate)

EXPERIMENTS = {
    "interpolate": Experiment(
        "more frames in the time of a training clip. The metric's frames, evenly spaced from time 0 to 1 (rfvd256_64f: "
        "64), compared with the training clip's number of frames in the same time, blended linearly or repeated. The "
        "real clips have the metric's number of frames at the stride nearest to the fakes' pace, at least 1. They move "
        "as fast as the fakes if training used every 4th frame, and faster if it used every frame, since no slower "
        "video exists; this also affects the value, and the output states how much faster they move",
        _interpolate,
        metric=lambda span: f"rfvd256_{4 * span}f",
        pace=_slower,
    ),
    "extrapolate": Experiment(
        "frames after the end of a training clip. Clips of the metric's frames at times 1 + k/(span-1), k = 1, 2, ..., "
        "none of which occur in training, and clips from time 0 on; both against the same real clips of that length",
        _extrapolate,
    ),
    "upsample": Experiment(
        "a denser grid, by default twice the network's resolution, compared with its own output resized by nearest, "
        "bilinear and bicubic interpolation; all against real clips of that resolution. I3D resizes its input to "
        "224x224 pixels, rfvd to 64x64: finer detail has no effect",
        _upsample,
        enlarge=2,
    ),
}
