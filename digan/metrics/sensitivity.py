"""How a Fréchet distance responds to typical faults of generated videos: real clips against degraded real clips.

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
from digan.data.clips import cut_clips
from digan.errors import MetricError, UserError
from digan.metrics.distances import frechet_distance
from digan.metrics.features import Extractor, RandomFeatures

Change = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Response:
    """Effect of a change on the distance between two halves of the clips, over random splits into halves.

    Attributes:
        change: name of the change.
        distance: distance between a half and the changed other half, the mean over splits.
        ratio: that distance divided by the distance between the unchanged halves, the mean over splits.
        lowest: the smallest such ratio of the splits.
        paired: distance between all clips and the same clips changed, divided by the mean distance between unchanged
            halves. It is free of sampling noise: above 0 the change is detected, above 1 it exceeds the sampling noise
            of halves.
    """

    change: str
    distance: float
    ratio: float
    lowest: float
    paired: float


def blurred(clips: torch.Tensor, deviation: float) -> torch.Tensor:
    """Apply a Gaussian blur; deviation in pixels."""
    radius = min(round(3 * deviation + 0.5), min(clips.shape[3:]) - 1)
    weights = torch.exp(-(torch.arange(-radius, radius + 1.0) ** 2) / (2 * deviation**2))
    weights = (weights / weights.sum()).to(clips.device).expand(3, 1, 1, -1)
    frames = F.pad(clips.flatten(0, 1).float(), (radius,) * 4, mode="reflect")
    frames = F.conv2d(F.conv2d(frames, weights, groups=3), weights.mT, groups=3)
    return frames.round().to(torch.uint8).view_as(clips)


def noisy(clips: torch.Tensor, deviation: float, seed: int = 0) -> torch.Tensor:
    """Add Gaussian noise with this standard deviation in grey levels (of 255), and clamp.

    The noise of a clip depends on the clip and the seed, not on the other clips of its batch.
    """
    seeds = seed + clips.flatten(1).sum(1, dtype=torch.int64)  # [N]
    generators = [torch.Generator().manual_seed(int(number)) for number in seeds]
    noise = torch.stack([torch.randn(clips.shape[1:], generator=g) for g in generators]).to(clips.device)
    return (clips + deviation * noise).round().clamp(0, 255).to(torch.uint8)


def saturated(clips: torch.Tensor, factor: float) -> torch.Tensor:
    """Multiply the difference of each pixel from its grey level, the mean of its channels, and clamp."""
    grey = clips.float().mean(2, keepdim=True)  # [N, T, 1, H, W]
    return (grey + factor * (clips - grey)).round().clamp(0, 255).to(torch.uint8)


def shuffled(clips: torch.Tensor, length: int, seed: int = 0) -> torch.Tensor:
    """Reorder the frames within successive groups of `length`, in the same way for all clips."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.arange(clips.shape[1]).split(length)
    order = [_reordering(len(group), generator) + group[0] for group in groups]
    return clips[:, torch.cat(order)]


def frozen(clips: torch.Tensor, length: int) -> torch.Tensor:
    """Repeat every `length`-th frame in place of the frames up to the next one."""
    return clips[:, torch.arange(clips.shape[1]) // length * length]


def reversed_in_time(clips: torch.Tensor) -> torch.Tensor:
    """Reverse the order of the frames."""
    return clips.flip(1)


def changes(frames: int) -> dict[str, Change]:
    """Return the table's changes by name, for clips of `frames` frames; each kind is ordered from weak to strong."""
    by_name: dict[str, Change] = {}
    for pixels in (1, 2, 4):
        by_name[f"blur, {pixels} px"] = lambda clips, s=pixels: blurred(clips, s)
    for deviation in (2, 4, 8):
        by_name[f"noise, {deviation} of 255"] = lambda clips, s=deviation: noisy(clips, s)
    for factor in (2, 4, 8):
        by_name[f"saturation, {factor} times"] = lambda clips, s=factor: saturated(clips, s)
    for length in (2, 4, frames):
        by_name[f"shuffled, groups of {length}"] = lambda clips, n=length: shuffled(clips, n)
    for length in (2, 4, frames):
        by_name[f"frozen, {length} frames each"] = lambda clips, n=length: frozen(clips, n)
    by_name["reversed"] = reversed_in_time
    return by_name


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
    """Measure distances between real and changed real clips, relative to those between unchanged real clips.

    Args:
        clips: uint8 [N, T, 3, H, W].
        videos: int [N], the video of each clip; no video is in both halves of a split. None: each clip is a video.
        extractor: feature extractor; RandomFeatures, as for rfvd, if None.
        changed: changes by name; `changes(T)` if None.
        splits: number of random splits into halves.
        batch: clips in memory at a time.
        seed: seed of the splits.

    Returns:
        The response to no change ("none"), whose ratio is 1, and then to every change.

    Raises:
        MetricError: there are fewer than 4 videos.
    """
    videos = torch.arange(len(clips)) if videos is None else torch.as_tensor(videos)
    names = videos.unique()
    if len(names) < 4:
        raise MetricError(f"a sensitivity table needs clips of at least 4 videos, there are {len(names)}")
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
        warnings.simplefilter("ignore")  # about few samples, which equal counts on both sides make comparable
        real = features(None)
        baseline = distances(real)
        responses = []
        for name, change in {"none": None, **(changes(clips.shape[1]) if changed is None else changed)}.items():
            other = real if change is None else features(change)
            changed_distances, paired = distances(other), frechet_distance(real, other) / baseline.mean()
            ratios = changed_distances / baseline
            values = (changed_distances.mean(), ratios.mean(), ratios.min(), paired)
            responses.append(Response(name, *(value.item() for value in values)))
    return responses


def as_table(responses: Sequence[Response]) -> str:
    """Return the responses as a Markdown table."""
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


def _reordering(count: int, generator: torch.Generator) -> torch.Tensor:
    """Return a random permutation of `count` items that is not the identity, if there is one."""
    while True:
        order = torch.randperm(count, generator=generator)
        if count < 2 or not torch.equal(order, torch.arange(count)):
            return order


def main(argv: Sequence[str] | None = None) -> int:
    """Print the table for the first clip of every video of a data set.

    Returns:
        The exit status: 0, or 2 after printing one sentence about a user error.
    """
    parser = argparse.ArgumentParser(description="Measure how rfvd responds to degradations of real videos.")
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
