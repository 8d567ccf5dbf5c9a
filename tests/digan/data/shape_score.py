"""Measure whether clips show one shape that moves: the clips of a demo run's generator, beside its real ones.

    python -m tests.digan.data.shape_score runs/00000-demo-...

The command to train the demo first is `accelerate launch digan/train.py`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from scipy import ndimage

from digan.data import choose, load_index
from digan.data.clips import cut_clips
from digan.data.training_data import DEMO_FOLDER
from digan.models.generator import Generator
from digan.sampling.latents import clip_times
from digan.sampling.render import GeneratedClips

DARK = 40  # the brightest channel of the background is 30
BRIGHT = 100  # and that of the shapes at least 205
SPECK = 2  # pixels of the largest blob that is not counted
DEVIATION = 0.15  # largest relative deviation of area and colour in a clip from its mean


@dataclass(frozen=True)
class ShapeScore:
    """Shares, between 0 and 1.

    Attributes:
        one_blob: frames with exactly one connected blob.
        area: clips whose shape is always there and keeps its area.
        colour: clips whose shape is always there and keeps its colour.
        speed: steps from frame to frame within the range of the reference's steps.
    """

    one_blob: float
    area: float
    colour: float
    speed: float

    @property
    def total(self) -> float:
        """The lowest share: a clip needs all of them."""
        return min(self.one_blob, self.area, self.colour, self.speed)

    def __str__(self) -> str:
        shares = "  ".join(f"{name} {share:.0%}" for name, share in asdict(self).items())
        return f"{self.total:.0%}  ({shares})"


def shape_score(clips: np.ndarray, reference: np.ndarray) -> ShapeScore:
    """Score clips uint8 [N, T, R, R, 3]; the range of steps is that of `reference`, clips of the same frame size."""
    bright = clips.max(-1) > BRIGHT  # [N, T, R, R]
    areas = bright.sum((2, 3)).astype(float)  # [N, T]
    with np.errstate(invalid="ignore"):  # a frame without a shape has neither colour nor place: nan is never close
        colours = np.einsum("ntyx,ntyxc->ntc", bright, clips.astype(float)) / areas[..., None]
    steps, usual = _steps(clips), _steps(reference)
    return ShapeScore(
        one_blob=float(np.mean([_blobs(frame) == 1 for clip in bright for frame in clip])),
        area=float(np.mean(_constant(areas[..., None]))),
        colour=float(np.mean(_constant(colours))),
        speed=float(np.mean((usual.min() <= steps) & (steps <= usual.max()))),
    )


def _blobs(frame: np.ndarray) -> int:
    """Count the connected blobs [R, R] that are larger than a speck; pixels touch at edges and corners."""
    labels, _ = ndimage.label(frame, np.ones((3, 3)))
    return int((np.bincount(labels.ravel())[1:] > SPECK).sum())


def _constant(values: np.ndarray) -> np.ndarray:
    """Return for each clip whether vectors [N, T, C] stay close to their mean over the clip."""
    mean = values.mean(1, keepdims=True)
    deviation = np.linalg.norm(values - mean, axis=2)  # [N, T]
    return (deviation <= DEVIATION * np.linalg.norm(mean, axis=2)).all(1) & (values > 0).any(2).all(1)


def _steps(clips: np.ndarray) -> np.ndarray:
    """Return how far, in pixels, the centre of brightness of clips [N, T, R, R, 3] moves per frame: [N, T-1]."""
    light = np.clip(clips.max(-1).astype(float) - DARK, 0, None)  # [N, T, R, R]
    y, x = np.indices(light.shape[2:])
    with np.errstate(invalid="ignore"):
        centres = np.stack([(light * axis).sum((2, 3)) for axis in (x, y)], -1) / light.sum((2, 3))[..., None]
    return np.linalg.norm(np.diff(centres, axis=1), axis=2)


def real_clips(g: Generator, videos: Path, count: int) -> np.ndarray:
    """Return clips of the videos that a generator was trained on, cut and resized as in training."""
    facts = g.metadata["data"]
    cut = [facts[name] for name in ("frames", "stride", "overlap")]
    clips = cut_clips(load_index(videos, None, split=facts["split"]), *cut, g.config.resolution, facts["resize"])
    return _last_axis_rgb(clips.batch(choose(clips, count, seed=0)))


def generated_clips(g: Generator, count: int) -> np.ndarray:
    """Return clips of a generator, with the labels of a conditional one in turn."""
    labels = torch.arange(g.config.num_classes) if g.config.num_classes else None
    clips = GeneratedClips(g, count, clip_times(g.metadata["data"]["frames"]), seed=0, labels=labels)
    return _last_axis_rgb(clips.batch(range(count)))


def _last_axis_rgb(clips: torch.Tensor) -> np.ndarray:
    return clips.permute(0, 1, 3, 4, 2).numpy()


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="run folder of a demo, beside its videos")
    parser.add_argument("--clips", type=int, default=96, help="number of clips of either kind [%(default)s]")
    args = parser.parse_args(argv)
    g = Generator.from_pretrained(args.run)
    reals = real_clips(g, args.run.parent / DEMO_FOLDER, args.clips)
    print("reals", shape_score(reals, reals))
    print("fakes", shape_score(generated_clips(g, args.clips), reals))


if __name__ == "__main__":
    main(sys.argv[1:])
