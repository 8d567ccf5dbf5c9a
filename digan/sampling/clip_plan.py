"""Which clips `digan sample` makes: samples by index, contents against motions, ways from one content to another."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise


@dataclass(frozen=True)
class ClipPlan:
    """One clip, in terms of the samples of a seed.

    Args:
        name: of its files, without suffix.
        contents: two samples; w is that of the first moved towards that of the second by `mix`.
        mix: 0 is the first, 1 the second.
        motion: the sample whose motion vector it has.
    """

    name: str
    contents: tuple[int, int]
    mix: float
    motion: int


@dataclass(frozen=True)
class Plan:
    """Clips in the order of their making, which is that of the grid, row after row; columns None: about square."""

    clips: list[ClipPlan]
    columns: int | None = None


def videos(indices: Sequence[int]) -> Plan:
    """Each sample as it is: its own content with its own motion."""
    return Plan([ClipPlan(f"video-{i:04d}", (i, i), 0.0, i) for i in indices])


def motion_grid(contents: Sequence[int], motions: Sequence[int]) -> Plan:
    """Every content with every motion: a row of the grid shares its content, a column its motion."""
    clips = [
        ClipPlan(f"content-{content:04d}-motion-{motion:04d}", (content, content), 0.0, motion)
        for content in contents
        for motion in motions
    ]
    return Plan(clips, columns=len(motions))


def interpolation(contents: Sequence[int], motion: int, steps: int) -> Plan:
    """From each content to the next in `steps` steps of equal size, both ends included; all with one motion.

    A row of the grid leads from one content to the next.
    """
    clips = [
        ClipPlan(f"content-{a:04d}-to-{b:04d}-step-{step:02d}", (a, b), step / (steps - 1), motion)
        for a, b in pairwise(contents)
        for step in range(steps)
    ]
    return Plan(clips, columns=steps)
