"""Decoded frames kept in a file: read once in a while, wanted again and again by every worker of every process."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import platform
import tempfile
import warnings
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import av
import numpy as np
import PIL
import torch

from digan.data.timing import reason
from digan.data.video import Video, VideoIndex

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

BUDGET = 4 << 30  # bytes of disk for all stores of a folder together
PRIVATE_BUDGET = 1 << 28  # bytes for a store that only its process knows
_FORMAT = 1  # of the file; part of its name, so that another number starts a new one
_FREE_SHARE = 0.05  # of a disk is left free
_CHECKED_EVERY = 64  # frames written between two looks at the free space
_MARK = 4  # bytes of a frame's checksum


class FramesClaimed(Exception):
    """Another process is decoding these frames."""


class FrameStore:
    """Frames of the videos of an index at one resolution, uint8 RGB [R,R,3], as they were decoded before.

    The file holds a CRC-32 for each frame, 0 where there is none yet, and then the frames, at fixed places. A frame
    counts as there only if its bytes have its checksum: so processes need no locks, and what a crash or a full disk
    left half written is decoded again. What is put depends on the video alone, so that nobody can tell where a frame
    came from, except by the time it took.

    Where not all frames fit into the budget, those videos have a place whose frames are the costliest to decode.
    Nothing is ever replaced, since random access to a larger set wants every frame equally rarely.

    With a folder, the file is shared by all who read the same videos with the same libraries, now and later; without
    one, each process has its own, which vanishes with it. Memory is the system's file cache alone, which it takes back
    when it needs to. Safe to send to workers, forked or spawned.
    """

    def __init__(
        self,
        index: VideoIndex,
        resolution: int,
        folder: str | os.PathLike[str] | None = None,
        budget: int | None = None,
    ) -> None:
        if budget is None:
            budget = PRIVATE_BUDGET if folder is None else BUDGET
        self.resolution, self.budget = resolution, budget
        self.path = None if folder is None else Path(folder) / f"frames-{_digest(index, resolution, budget)}.bin"
        self._size = 3 * resolution**2
        self._first: dict[str, int] = {}  # video -> number of its first frame in the file
        self._count = 0
        for video in sorted(index.videos, key=_cost, reverse=True):
            if (self._count + video.num_frames) * (self._size + _MARK) <= budget:
                self._first[video.name] = self._count
                self._count += video.num_frames
        self._file: BinaryIO | None = None
        self._usable, self._written = hasattr(os, "pread"), 0

    def __getstate__(self) -> dict:
        return self.__dict__ | {"_file": None}

    @property
    def bytes(self) -> int:
        """What the file takes once every frame that has a place is there."""
        return self._count * (self._size + _MARK)

    def summary(self, index: VideoIndex) -> str:
        """One line for the start of a log."""
        videos = len(self._first)
        whose = "frames" if videos == len(index.videos) else f"frames of {videos:,} of {len(index.videos):,} videos"
        return f"{whose} are decoded once and kept in {self.path}, at most {self.bytes / 1e6:,.0f} MB"

    def holds(self, video: Video) -> bool:
        """Whether the frames of `video` have a place; whether any are there is another question."""
        return video.name in self._first

    def get(self, video: Video, indices: Iterable[int]) -> dict[int, np.ndarray]:
        """Those of the frames that are there."""
        first = self._first.get(video.name)
        file = None if first is None else self._opened()
        found: dict[int, np.ndarray] = {}
        if file is None:
            return found
        shape = (self.resolution, self.resolution, 3)
        with contextlib.suppress(OSError):
            for i in set(indices):
                mark = os.pread(file, _MARK, (first + i) * _MARK)
                if any(mark):
                    data = os.pread(file, self._size, self._place(first + i))
                    if _checksum(data) == mark:
                        found[i] = np.frombuffer(data, np.uint8).reshape(shape)
        return found

    def absent(self, video: Video) -> np.ndarray:
        """Frames of `video` that have a place and are not there yet, int64, ascending."""
        first = self._first.get(video.name)
        file = None if first is None else self._opened()
        if file is None:
            return np.zeros(0, np.int64)
        marks = np.zeros(video.num_frames, np.uint32)
        with contextlib.suppress(OSError):
            data = os.pread(file, marks.nbytes, first * _MARK)
            known = np.frombuffer(data[: len(data) // _MARK * _MARK], np.uint32)
            marks[: len(known)] = known
        return np.flatnonzero(marks == 0)

    @contextlib.contextmanager
    def claimed(self, video: Video, frames: range, wait: bool) -> Iterator[None]:
        """No other process is in such a context of the same store for any of `frames`, consecutive ones.

        Only for as long as it takes to decode and put them: what ends, however it ends, claims nothing any more. Where
        the system has no such locks nothing is claimed, and frames may be decoded twice.

        Raises:
            FramesClaimed: another process has a claim, and `wait` is false.
        """
        first = self._first.get(video.name)
        file = None if first is None or fcntl is None else self._opened()
        if file is None or not frames:
            yield
            return
        place = len(frames) * _MARK, (first + frames.start) * _MARK
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB), *place)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise FramesClaimed from None
            file = None  # a file system without locks
        try:
            yield
        finally:
            if file is not None:
                with contextlib.suppress(OSError):  # closed meanwhile, as nothing can be written any more
                    fcntl.lockf(file, fcntl.LOCK_UN, *place)

    def put(self, video: Video, index: int, picture: np.ndarray) -> None:
        """Keeps frame `index`, uint8 [R,R,3], if it has a place."""
        first = self._first.get(video.name)
        file = None if first is None else self._opened()
        if file is None:
            return
        try:
            if self._written % _CHECKED_EVERY == 0:
                disk = os.fstatvfs(file)
                if disk.f_bavail < _FREE_SHARE * disk.f_blocks:
                    raise OSError(f"less than {_FREE_SHARE:.0%} of the disk is free")
            data = picture.tobytes()
            os.pwrite(file, data, self._place(first + index))
            os.pwrite(file, _checksum(data), (first + index) * _MARK)
            self._written += 1
        except OSError as error:
            self._give_up(error)

    def _place(self, record: int) -> int:
        return self._count * _MARK + record * self._size

    def _opened(self) -> int | None:
        """The file's descriptor; positions are always given, so it may be shared. None: do without."""
        if self._file is None and self._usable:
            try:
                if self.path is None:
                    self._file = tempfile.TemporaryFile()  # noqa: SIM115 - open as long as the store
                else:
                    self._file = self._open(self.path)
            except OSError as error:
                self._give_up(error)
        return self._file.fileno() if self._file is not None else None

    def _open(self, path: Path) -> BinaryIO:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists():
            self._make_room(path)
        file = os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b", buffering=0)
        os.utime(path)
        return file

    def _make_room(self, path: Path) -> None:
        """Removes the stores that were opened longest ago, until this one and those left are within the budget.

        Whoever still uses one goes on using it: its name is gone, the open file is not.
        """
        others = []
        for other in path.parent.glob("frames-*.bin"):
            with contextlib.suppress(OSError):
                others.append((other.stat().st_mtime, other.stat().st_blocks * 512, other))
        total = self.bytes + sum(size for _, size, _ in others)
        for _, size, other in sorted(others):
            if total <= self.budget:
                break
            other.unlink(missing_ok=True)
            total -= size

    def _give_up(self, error: OSError) -> None:
        self._usable, self._file = False, None
        where = tempfile.gettempdir() if self.path is None else self.path
        warnings.warn(f"decoded frames are not kept in {where}: {reason(error)}", stacklevel=3)


def _checksum(data: bytes) -> bytes:
    """Four bytes, never all zero."""
    return (zlib.crc32(data) or 1).to_bytes(_MARK, "little")


def _cost(video: Video) -> float:
    """What decoding one frame of a video costs, in pixels: those of the frames from the keyframe on, on average."""
    pixels = video.width * video.height
    if video.timing is None:
        return pixels
    lengths = np.diff(video.timing.seek_frames, append=video.num_frames)
    return pixels * float((lengths * (lengths + 1) / 2).sum()) / max(video.num_frames, 1)


def _digest(index: VideoIndex, resolution: int, budget: int) -> str:
    """Changes with whatever decides about the places and the bytes of the frames."""
    videos = [(v.name, v.signature, v.num_frames) for v in index.videos]
    libraries = (sorted(av.library_versions.items()), PIL.__version__, torch.__version__, platform.machine())
    facts = (_FORMAT, str(index.source.path), videos, resolution, budget, libraries)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
