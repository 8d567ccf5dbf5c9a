"""Plain records of a video and of the videos of one split."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from digan.data.sources import Source
from digan.data.timing import Timing
from digan.wording import counted, first_few


@dataclass(frozen=True)
class Video:
    """One readable video; width and height are those of the upright picture."""

    name: str  # path below the data root, with `/` between parts
    kind: str  # "video", "frames" or "animation", as in `Entry`
    signature: str
    num_frames: int
    width: int
    height: int
    rotation: int = 0
    pixel_aspect: float = 1.0
    fps: float = 25.0
    codec: str = "pictures"
    timing: Timing | None = None  # None for pictures
    label: int = 0  # index into the class names; 0 without classes
    missing: int = 0  # frames that the file announces beyond `num_frames` but does not hold, as far as the index knows
    animated: int = 0  # webp pictures of a frame folder that are animated, of which the first frame counts
    damaged: int = 0  # frames out of `num_frames` that are damaged, as far as the index knows

    @property
    def damage(self) -> str:
        """How many frames can be read, such as "27 of 30 frames can be read"; "" if all can, as the index knows.

        "at most" if frames are damaged, since the index decodes only the first ones of most files.
        """
        if not self.missing and not self.damaged:
            return ""
        total = self.num_frames + self.missing
        most = "at most " if self.damaged else ""
        return f"{most}{self.num_frames - self.damaged:,} of {counted(total, 'frame')} can be read"

    @property
    def num_bytes(self) -> int:
        """Size of a video file in bytes; 0 for a frame folder or an animated picture."""
        return int(self.signature.partition(":")[0]) if self.kind == "video" else 0


@dataclass(frozen=True)
class VideoIndex:
    """The videos of one split, in the order of their names."""

    source: Source
    split: str
    videos: list[Video]
    class_names: list[str]  # of the whole data set, so that labels agree across splits; empty without labels
    problems: list[str]  # "name: reason" of every file that was skipped, and of every video that is damaged
    notes: list[str]  # remarks for the user on how the folder was interpreted

    @property
    def fingerprint(self) -> str:
        """16 hex digits that change with the videos, their order, sizes or labels, but not with the folder's path."""
        facts = [(v.name, v.num_frames, v.width, v.height, v.label) for v in self.videos]
        return hashlib.sha256(repr((facts, self.class_names)).encode()).hexdigest()[:16]

    @property
    def contents(self) -> str:
        """A text that changes with the fingerprint or the sizes of the files, but not with their times and places."""
        size = sum(v.num_bytes for v in self.videos)
        return f"{counted(len(self.videos), 'video')} of {size:,} bytes, fingerprint {self.fingerprint}"

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
        damaged = {damage_line(v) for v in self.videos if v.damage}
        for verb, problems in {
            "skipped": [p for p in self.problems if p not in damaged],
            "damaged": [p for p in self.problems if p in damaged],
        }.items():
            if problems:
                lines.append(f"{verb} {len(problems):,}: {first_few(problems, separator='; ')}")
        return "\n".join(lines)


def damage_line(video: Video) -> str:
    """Return the line of a damaged video in the problems of an index."""
    return f"{video.name}: {video.damage}"
