"""Keep decoded frames in a file that every worker of every process reads."""

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

from digan.data.image import DEFAULT_RESIZE
from digan.data.video import Video, VideoIndex
from digan.wording import counted, reason

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

BUDGET = 4 << 30  # bytes of disk for all stores of a folder together
PRIVATE_BUDGET = 1 << 28  # bytes for the store of a single process
_FORMAT = 3  # version of the file, and part of its name, so that another version starts a new file
_FREE_SHARE = 0.05  # fraction of the disk that is left free
_CHECKED_EVERY = 64  # frames written between two checks of the free space
_MARK = 4  # bytes of a frame's checksum


class FramesClaimed(Exception):
    """Another process is decoding these frames."""


class FrameStore:
    """Decoded frames of the videos of an index at one resolution, uint8 RGB `[R, R, 3]`.

    The file holds a CRC-32 per frame, 0 where the frame is not stored yet, followed by the frames at fixed places. A
    frame counts as stored only if its bytes match its checksum, which also depends on the name of the file and the
    place, so processes can read and write without locks, and a frame that a crash or a full disk left half written, or
    that belongs to another file, is decoded and stored again. Stored frames depend on the video alone: a frame
    from the store equals one decoded anew.

    If not all frames fit into the budget, the videos whose frames are the costliest to decode get the places. Frames
    are never evicted: under random access to a larger set, all are needed equally rarely.

    With a folder, the file is shared by all processes that read the same videos with the same libraries, now and later;
    without one, each process has a temporary file of its own. The only memory used is the system's file cache, which
    the system reclaims as needed. Safe to send to workers, forked or spawned.

    Args:
        index: the videos.
        resolution: the side R of a frame.
        folder: the folder of the file; None for a temporary file.
        budget: bytes of disk, for all stores of the folder together; by default `BUDGET`, or `PRIVATE_BUDGET` without a
            folder.
        resize: how frames are resized, a value of `digan.config.RESIZES`.
    """

    def __init__(
        self,
        index: VideoIndex,
        resolution: int,
        folder: str | os.PathLike[str] | None = None,
        budget: int | None = None,
        resize: str = DEFAULT_RESIZE,
    ) -> None:
        if budget is None:
            budget = PRIVATE_BUDGET if folder is None else BUDGET
        self.resolution, self.budget = resolution, budget
        digest = _digest(index, resolution, budget, resize)
        self._origin = zlib.crc32(digest.encode())
        self.path = None if folder is None else Path(folder) / f"frames-{digest}.bin"
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

    def close(self) -> None:
        """Close the file; it is opened again when it is needed."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def __del__(self) -> None:
        if getattr(self, "_file", None) is not None:
            self.close()

    @property
    def bytes(self) -> int:
        """The size of the file once it holds every frame that has a place."""
        return self._count * (self._size + _MARK)

    def summary(self, index: VideoIndex) -> str:
        """Return a line that describes the store, for the start of a log."""
        videos = len(self._first)
        frames = (
            "frames"
            if videos == len(index.videos)
            else f"frames of {videos:,} of {counted(len(index.videos), 'video')}"
        )
        return f"{frames} are decoded once and kept in {self.path}, at most {self.bytes / 1e6:,.0f} MB"

    def holds(self, video: Video) -> bool:
        """Return whether the frames of `video` have a place, stored or not."""
        return video.name in self._first

    def get(self, video: Video, indices: Iterable[int]) -> dict[int, np.ndarray]:
        """Return the requested frames that are stored, by index."""
        first = self._first.get(video.name)
        file = None if first is None else self._descriptor()
        pictures: dict[int, np.ndarray] = {}
        if file is None:
            return pictures
        shape = (self.resolution, self.resolution, 3)
        with contextlib.suppress(OSError):
            for i in set(indices):
                mark = os.pread(file, _MARK, (first + i) * _MARK)
                if any(mark):
                    data = os.pread(file, self._size, self._place(first + i))
                    if _checksum(data, self._origin + first + i) == mark:
                        pictures[i] = np.frombuffer(data, np.uint8).reshape(shape)
                    else:
                        os.pwrite(file, bytes(_MARK), (first + i) * _MARK)
        return pictures

    def absent(self, video: Video) -> np.ndarray:
        """Return the frames of `video` that have a place but are not stored yet, int64, ascending."""
        first = self._first.get(video.name)
        file = None if first is None else self._descriptor()
        if file is None:
            return np.zeros(0, np.int64)
        marks = np.zeros(video.num_frames, np.uint32)
        with contextlib.suppress(OSError):
            data = os.pread(file, marks.nbytes, first * _MARK)
            stored = np.frombuffer(data[: len(data) // _MARK * _MARK], np.uint32)
            marks[: len(stored)] = stored
        return np.flatnonzero(marks == 0)

    @contextlib.contextmanager
    def claimed(self, video: Video, frames: range, wait: bool) -> Iterator[None]:
        """Claim consecutive frames: no other process can claim any of them in the same store inside this context.

        A claim is held while the frames are decoded and stored, and ends with its process, however that ends. On
        systems without such locks nothing is claimed, and frames may be decoded twice.

        Args:
            video: the video that the frames belong to.
            frames: the frames to claim.
            wait: wait until other claims end.

        Raises:
            FramesClaimed: another process has claimed some of the frames, and `wait` is false.
        """
        first = self._first.get(video.name)
        file = None if first is None or fcntl is None else self._descriptor()
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
                with contextlib.suppress(OSError):  # the file was closed when a write failed
                    fcntl.lockf(file, fcntl.LOCK_UN, *place)

    def put(self, video: Video, index: int, picture: np.ndarray) -> None:
        """Store frame `index`, uint8 `[R, R, 3]`, if it has a place."""
        first = self._first.get(video.name)
        file = None if first is None else self._descriptor()
        if file is None:
            return
        try:
            if self._written % _CHECKED_EVERY == 0:
                disk = os.fstatvfs(file)
                if disk.f_bavail < _FREE_SHARE * disk.f_blocks:
                    raise OSError(f"less than {_FREE_SHARE:.0%} of the disk is free")
            data = picture.tobytes()
            os.pwrite(file, data, self._place(first + index))
            os.pwrite(file, _checksum(data, self._origin + first + index), (first + index) * _MARK)
            self._written += 1
        except OSError as error:
            self._give_up(error)

    def _place(self, record: int) -> int:
        return self._count * _MARK + record * self._size

    def _descriptor(self) -> int | None:
        """Return the file's descriptor, or None if the file cannot be used.

        Reads and writes name their positions, so that processes may share the descriptor.
        """
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
        """Remove the least recently opened stores until this one and the rest are within the budget.

        A process that has a removed store open continues to use it: only the name is gone.
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
        self._usable = False
        self.close()
        place = tempfile.gettempdir() if self.path is None else self.path
        warnings.warn(f"decoded frames are not kept in {place}: {reason(error)}", stacklevel=3)


def _checksum(data: bytes, start: int) -> bytes:
    """Return a checksum of four bytes that are never all zero; `start` identifies the file and the place."""
    return (zlib.crc32(data, start % 2**32) or 1).to_bytes(_MARK, "little")


def _cost(video: Video) -> float:
    """Return the mean cost of decoding one frame: the pixels of all frames from its keyframe to it."""
    pixels = video.width * video.height
    if video.timing is None:
        return pixels
    lengths = np.diff(video.timing.seek_frames, append=video.num_frames)
    return pixels * float((lengths * (lengths + 1) / 2).sum()) / max(video.num_frames, 1)


def _digest(index: VideoIndex, resolution: int, budget: int, resize: str) -> str:
    """Return a digest of everything that determines the places and the bytes of the frames."""
    videos = [(v.name, v.signature, v.num_frames) for v in index.videos]
    libraries = (sorted(av.library_versions.items()), PIL.__version__, torch.__version__, platform.machine())
    facts = (_FORMAT, str(index.source.path), videos, resolution, budget, resize, libraries)
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:24]
