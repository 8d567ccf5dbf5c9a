"""Clips on disk as raw frames, so that what is made of them needs the memory of a frame."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Sequence

import numpy as np
import torch


class Spool:
    """Room for clips of one shape in a nameless file, which vanishes with the process, however that ends.

    Args:
        folder: where the file lies.
        frames, height, width: of every clip; a frame is uint8 [height, width, 3].
    """

    def __init__(self, folder: str | os.PathLike, frames: int, height: int, width: int) -> None:
        self.frames, self.height, self.width = frames, height, width
        self.frame_bytes = height * width * 3
        self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115 (closed by __exit__)

    def __enter__(self) -> Spool:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def write(self, slot: int, frames: Iterable[torch.Tensor]) -> SpooledClip:
        """Takes in a clip in place of what is in `slot`, 0, 1, ...; each frame as it is produced."""
        self._file.seek(slot * self.frames * self.frame_bytes)
        count = 0
        for frame in frames:
            if frame.shape != (self.height, self.width, 3) or frame.dtype != torch.uint8:
                raise ValueError(f"a frame must be uint8 [{self.height},{self.width},3], not {list(frame.shape)}")
            self._file.write(frame.numpy())
            count += 1
        if count != self.frames:
            raise ValueError(f"a clip must have {self.frames} frames, not {count}")
        return SpooledClip(self, slot)

    def read(self, slot: int, t: int) -> np.ndarray:
        """Frame t of the clip in `slot`, uint8 [height, width, 3]."""
        self._file.seek((slot * self.frames + t) * self.frame_bytes)
        return np.frombuffer(self._file.read(self.frame_bytes), np.uint8).reshape(self.height, self.width, 3)


class SpooledClip(Sequence):
    """A clip in a spool: its frames are read when they are asked for."""

    def __init__(self, spool: Spool, slot: int) -> None:
        self._spool, self._slot = spool, slot

    def __len__(self) -> int:
        return self._spool.frames

    def __getitem__(self, t: int) -> np.ndarray:
        if not 0 <= t < len(self):
            raise IndexError(f"frame {t} of a clip of {len(self)}")
        return self._spool.read(self._slot, t)
