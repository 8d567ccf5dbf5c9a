"""Which clips `digan sample` renders: samples by index, grids of contents and motions, or content interpolations."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class ClipPlan:
    """One clip, described by sample indices of a seed.

    Args:
        name: stem of its file names.
        contents: the samples whose w are mixed.
        weights: the weight of each content; the mixed w is the sum of weight times w.
        motion: the sample that provides the motion vector.
    """

    name: str
    contents: tuple[int, ...]
    weights: tuple[float, ...]
    motion: int

    def within(self, count: int) -> bool:
        """Return whether content and motion come from the first `count` samples alone."""
        return max(*self.contents, self.motion) < count


@dataclass(frozen=True)
class Plan:
    """Clips in rendering order, which fills a grid row by row; `columns` None makes the grid about square."""

    clips: list[ClipPlan]
    columns: int | None = None


def videos(indices: Sequence[int]) -> Plan:
    """Plan one clip per sample, with its own content and motion."""
    return Plan([ClipPlan(f"video-{i:04d}", (i,), (1.0,), i) for i in indices])


def motion_grid(contents: Sequence[int], motions: Sequence[int]) -> Plan:
    """Plan every content with every motion: clips in a row share their content, clips in a column their motion."""
    clips = [
        ClipPlan(f"content-{content:04d}-motion-{motion:04d}", (content,), (1.0,), motion)
        for content in contents
        for motion in motions
    ]
    return Plan(clips, columns=len(motions))


def interpolation(contents: Sequence[int], motion: int, steps: int) -> Plan:
    """Plan interpolations from each content to the next, in `steps` even steps including both ends, with one motion.

    Each row of the grid holds one interpolation.
    """
    shares = [step / (steps - 1) for step in range(steps)]
    clips = [
        ClipPlan(f"content-{a:04d}-to-{b:04d}-step-{step:02d}", (a, b), (1 - share, share), motion)
        for a, b in pairwise(contents)
        for step, share in enumerate(shares)
    ]
    return Plan(clips, columns=steps)


def mixture(contents: Sequence[int], weights: Sequence[float], motion: int) -> Plan:
    """Plan one clip, whose content is a weighted sum of contents in w."""
    name = "-".join(["mix", *(f"{content:04d}" for content in contents), "motion", f"{motion:04d}"])
    return Plan([ClipPlan(name, tuple(contents), tuple(weights), motion)])
