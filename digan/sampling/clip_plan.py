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
        contents: two samples, whose w are interpolated.
        mix: interpolation weight; 0 is the first content, 1 the second.
        motion: the sample that provides the motion vector.
    """

    name: str
    contents: tuple[int, int]
    mix: float
    motion: int


@dataclass(frozen=True)
class Plan:
    """Clips in rendering order, which fills a grid row by row; `columns` None makes the grid about square."""

    clips: list[ClipPlan]
    columns: int | None = None


def videos(indices: Sequence[int]) -> Plan:
    """Plan one clip per sample, with its own content and motion."""
    return Plan([ClipPlan(f"video-{i:04d}", (i, i), 0.0, i) for i in indices])


def motion_grid(contents: Sequence[int], motions: Sequence[int]) -> Plan:
    """Plan every content with every motion: clips in a row share their content, clips in a column their motion."""
    clips = [
        ClipPlan(f"content-{content:04d}-motion-{motion:04d}", (content, content), 0.0, motion)
        for content in contents
        for motion in motions
    ]
    return Plan(clips, columns=len(motions))


def interpolation(contents: Sequence[int], motion: int, steps: int) -> Plan:
    """Plan interpolations from each content to the next, in `steps` even steps including both ends, with one motion.

    Each row of the grid holds one interpolation.
    """
    clips = [
        ClipPlan(f"content-{a:04d}-to-{b:04d}-step-{step:02d}", (a, b), step / (steps - 1), motion)
        for a, b in pairwise(contents)
        for step in range(steps)
    ]
    return Plan(clips, columns=steps)
