"""Clips on disk as raw frames, so that grids and sheets of them are composed with only a few frames in memory."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence

import numpy as np
import torch


class FrameSpill:
    """Store clips of one shape in an unnamed temporary file, which disappears with the process even if that crashes.

    Args:
        folder: where to create the file.
        frames: number of frames of every clip.
        height: height of a frame in pixels.
        width: width of a frame in pixels; a frame is uint8 [height, width, 3].
    """

    def __init__(self, folder: str | os.PathLike[str], frames: int, height: int, width: int) -> None:
        self.frames, self.height, self.width = frames, height, width
        self.frame_bytes = height * width * 3
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> FrameSpill:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, slot: int, frames: Iterable[torch.Tensor]) -> SpilledClip:
        """Write a clip to slot 0, 1, ..., replacing its contents; each frame is written as it is produced.

        Raises:
            ValueError: a frame has another shape or type, or their number is not that of a clip.
        """
        self._file.seek(slot * self.frames * self.frame_bytes)
        count = 0
        for frame in frames:
            if frame.shape != (self.height, self.width, 3) or frame.dtype != torch.uint8:
                raise ValueError(f"a frame must be uint8 [{self.height},{self.width},3], not {list(frame.shape)}")
            self._file.write(frame.numpy().data)
            count += 1
        if count != self.frames:
            raise ValueError(f"a clip must have {self.frames} frames, not {count}")
        return SpilledClip(self, slot)

    def read(self, slot: int, t: int) -> np.ndarray:
        """Return frame t of the clip in `slot`, uint8 [height, width, 3]."""
        self._file.seek((slot * self.frames + t) * self.frame_bytes)
        return np.frombuffer(self._file.read(self.frame_bytes), np.uint8).reshape(self.height, self.width, 3)


class SpilledClip(Sequence[np.ndarray]):
    """A clip in a `FrameSpill`, whose frames are read on access."""

    def __init__(self, spill: FrameSpill, slot: int) -> None:
        self._spill, self._slot = spill, slot

    def __len__(self) -> int:
        return self._spill.frames

    def __getitem__(self, t: int) -> np.ndarray:  # type: ignore[override] # slices are not supported
        if not 0 <= t < len(self):
            raise IndexError(f"frame {t} of a clip of {len(self)} frames")
        return self._spill.read(self._slot, t)
