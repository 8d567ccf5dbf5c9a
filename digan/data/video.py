"""Plain records of a video and of the videos of one split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from digan.data.sources import Source
from digan.data.timing import Timing

_LISTED = 5  # problems shown in the summary


@dataclass(frozen=True)
class Video:
    """One readable video; width and height are those of the upright picture."""

    name: str  # path below the data root, with `/` between parts
    kind: str  # "video" or "frames"
    signature: str
    num_frames: int
    width: int
    height: int
    rotation: int = 0
    pixel_aspect: float = 1.0
    fps: float = 25.0
    codec: str = "pictures"
    timing: Timing | None = None  # None for a frame folder
    label: int = 0  # index into the class names; 0 without classes

    @property
    def num_bytes(self) -> int:
        """Size of the file; 0 for a frame folder, whose signature does not tell."""
        return int(self.signature.partition(":")[0]) if self.kind == "video" else 0


@dataclass(frozen=True)
class VideoIndex:
    """The videos of one split, in the order of their names."""

    source: Source
    split: str
    videos: list[Video]
    class_names: list[str]  # of the whole data set, so that labels agree across splits; empty without labels
    problems: list[str]  # "name: reason" of every file that was skipped
    notes: list[str]  # remarks for the user on how the folder was interpreted

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the videos, their order, sizes or labels, but not with the folder's path."""
        facts = [(v.name, v.num_frames, v.width, v.height, v.label) for v in self.videos]
        return hashlib.sha256(repr((facts, self.class_names)).encode()).hexdigest()[:16]

    def summary(self) -> str:
        """Return a few lines that describe the index, for the start of a log."""
        frames = np.array([v.num_frames for v in self.videos])
        lengths = str(frames.min()) if frames.min() == frames.max() else f"{frames.min()} to {frames.max()}"
        sizes = sorted({(v.width, v.height) for v in self.videos})
        size = "x".join(map(str, sizes[0]))
        if len(sizes) > 1:
            size += " to " + "x".join(map(str, sizes[-1])) + f" ({len(sizes)} sizes)"
        kinds = ", ".join(sorted({v.codec for v in self.videos}))
        lines = [
            f"{counted(len(self.videos), 'video')} of {self.source.path} (split: {self.split})",
            f"{frames.sum():,} frames, {lengths} each, {size} pixels, {kinds}",
        ]
        if self.class_names:
            names = self.class_names
            shown = names if len(names) < 6 else [*names[:3], "…", names[-1]]
            lines.append(f"{counted(len(names), 'class', 'classes')}: {', '.join(shown)}")
        lines += [f"note: {note}" for note in self.notes]
        if self.problems:
            lines.append(f"skipped {len(self.problems)}: " + "; ".join(self.problems[:_LISTED]))
            if len(self.problems) > _LISTED:
                lines[-1] += "; …"
        return "\n".join(lines)


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: `1 video`, `2 videos`; `many` gives an irregular plural."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
