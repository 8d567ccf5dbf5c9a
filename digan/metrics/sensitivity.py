"""How a Fréchet distance responds to what may be wrong with generated videos: real clips against spoiled ones.

`python -m digan.metrics.sensitivity DATA` prints the table for a folder, zip or file of videos.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from digan.data import load_index
from digan.data.training_data import cut_clips
from digan.errors import MetricError, UserError
from digan.metrics.distances import frechet_distance
from digan.metrics.features import Extractor, RandomFeatures

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Response:
    """What a change does to the distance between two halves of the clips, the mean over splits into halves.

    distance: of a half from the other half, changed.
    ratio, lowest: that over the distance of the halves as they are; its mean and the lowest of the splits.
    paired: the distance of all clips from themselves, changed, over the mean distance of halves. It has no scatter of
        the choice of clips: above 0, the change is seen; above 1, more than that scatter.
    """

    change: str
    distance: float
    ratio: float
    lowest: float
    paired: float


def blurred(clips: torch.Tensor, deviation: float) -> torch.Tensor:
    """Gaussian blur; deviation in pixels."""
    radius = min(round(3 * deviation + 0.5), min(clips.shape[3:]) - 1)
    weights = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * deviation**2))
    weights = (weights / weights.sum()).to(clips.device).expand(3, 1, 1, -1)
    frames = F.pad(clips.flatten(0, 1).float(), (radius,) * 4, mode="reflect")
    frames = F.conv2d(F.conv2d(frames, weights, groups=3), weights.mT, groups=3)
    return frames.round().to(torch.uint8).view_as(clips)


def noisy(clips: torch.Tensor, deviation: float, seed: int = 0) -> torch.Tensor:
    """Gaussian noise of that deviation, of 255, clamped."""
    noise = torch.randn(clips.shape, generator=torch.Generator().manual_seed(seed)).to(clips.device)
    return (clips + deviation * noise).round().clamp(0, 255).to(torch.uint8)


def shuffled(clips: torch.Tensor, length: int, seed: int = 0) -> torch.Tensor:
    """Frames in another order within successive groups of `length`, the same in all clips."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(clips.shape[1]).split(length)
    order = [_moved(len(group), generator) + group[0] for group in groups]
    return clips[:, torch.cat(order)]


def frozen(clips: torch.Tensor, length: int) -> torch.Tensor:
    """Each `length`-th frame shown that many times in place of those after it."""
    return clips[:, torch.arange(clips.shape[1]) // length * length]


def reversed_in_time(clips: torch.Tensor) -> torch.Tensor:
    """The last frame first."""
    return clips.flip(1)


def changes(frames: int) -> dict[str, Change]:
    """The changes of the table for clips of so many frames, each kind from weak to strong, by name."""
    made: dict[str, Change] = {}
    for pixels in (1, 2, 4):
        made[f"blur, {pixels} px"] = lambda clips, s=pixels: blurred(clips, s)
    for deviation in (2, 4, 8):
        made[f"noise, {deviation} of 255"] = lambda clips, s=deviation: noisy(clips, s)
    for length in (2, 4, frames):
        made[f"shuffled, groups of {length}"] = lambda clips, n=length: shuffled(clips, n)
    for length in (2, 4, frames):
        made[f"frozen, {length} frames each"] = lambda clips, n=length: frozen(clips, n)
    made["reversed"] = reversed_in_time
    return made


def sensitivity(
    clips: torch.Tensor,
    videos: Sequence[int] | torch.Tensor | None = None,
    *,
    extractor: Extractor | None = None,
    changed: dict[str, Change] | None = None,
    splits: int = 8,
    batch: int = 16,
    seed: int = 0,
) -> list[Response]:
    """Distances of real clips from changed real clips, beside those of real clips from real clips.

    clips: uint8 [N,T,3,H,W]. videos: int [N], the video that each clip is of, since halves are of different videos;
    every clip its own if None. extractor: RandomFeatures, as for rfvd, if None. changed: by name, `changes(T)` if None.
    splits: random divisions into halves, by `seed`. Raises MetricError for fewer than 4 videos.

    Returns a response for every change, after that to no change at all ("none"), whose ratio is 1.
    """
    videos = torch.arange(len(clips)) if videos is None else torch.as_tensor(videos)
    names = videos.unique()
    if len(names) < 4:
        raise MetricError(f"a table of sensitivity needs clips of at least 4 videos, there are {len(names)}")
    extractor = RandomFeatures(clips.device) if extractor is None else extractor
    halves = [
        torch.isin(videos, names[torch.randperm(len(names), generator=_generator(seed + k))[: len(names) // 2]])
        for k in range(splits)
    ]

    def features(change: Change | None) -> torch.Tensor:
        parts = clips.split(batch)
        return torch.cat([extractor(part if change is None else change(part)).cpu() for part in parts])

    def distances(other: torch.Tensor) -> torch.Tensor:
        return torch.tensor([frechet_distance(real[half], other[~half]) for half in halves])

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of few samples: equal counts are compared
        real = features(None)
        baseline = distances(real)
        responses = []
        for name, change in {"none": None, **(changes(clips.shape[1]) if changed is None else changed)}.items():
            other = real if change is None else features(change)
            found, paired = distances(other), frechet_distance(real, other) / baseline.mean()
            ratios = found / baseline
            responses.append(Response(name, *(x.item() for x in (found.mean(), ratios.mean(), ratios.min(), paired))))
    return responses


def as_table(responses: Sequence[Response]) -> str:
    """A Markdown table."""
    lines = [
        "| change of the other half | distance | over no change | lowest of the splits | same clips, over no change |",
        "|---|---|---|---|---|",
    ]
    return "\n".join(
        lines
        + [f"| {r.change} | {r.distance:.4g} | {r.ratio:.2f} | {r.lowest:.2f} | {r.paired:.2f} |" for r in responses]
    )


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _moved(count: int, generator: torch.Generator) -> torch.Tensor:
    """A random order of `count` that is not their own."""
    while True:
        order = torch.randperm(count, generator=generator)
        if count < 2 or not torch.equal(order, torch.arange(count)):
            return order


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the table for the first clip of every video of a data set; 2 and one sentence where that cannot be."""
    parser = argparse.ArgumentParser(description="What rfvd responds to, on real videos.")
    parser.add_argument("data", help="folder, zip or file of videos")
    parser.add_argument("--split", default="train", help="train, val, test, or several joined by + [train]")
    parser.add_argument("--frames", type=int, default=16, help="frames of a clip [16]")
    parser.add_argument("--resolution", type=int, default=64, help="pixels per side [64]")
    args = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as cache:
            index = load_index(args.data, cache, split=args.split)
            clips = cut_clips(index, args.frames, 1, 0, args.resolution)
            first = [numbers[0] for v in range(len(index.videos)) if (numbers := clips.windows.clips_of(v))]
            print(as_table(sensitivity(clips.batch(first))))
    except UserError as error:
        print(f"sensitivity: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
