"""Read any frame of any video of an index exactly, from the store if it is there."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from itertools import groupby

import numpy as np

from digan.data.image import DEFAULT_RESIZE
from digan.data.readers import Reader, Squares, open_reader
from digan.data.store import FrameStore
from digan.data.video import Video, VideoIndex
from digan.errors import UnreadableVideo
from digan.wording import reason

log_warning = logging.getLogger("digan.data").warning

EXTRA = 16  # one in so many decoded frames is kept in addition to those that are needed soon
Soon = Callable[[range], np.ndarray]  # returns which of these frames will be requested soon, int64


class FrameReader:
    """Random access to the frames of an index at one resolution, with the most recently used decoders kept open.

    Nothing is opened before the first read, and every process opens its own files: safe to send to workers, forked or
    spawned.

    Args:
        index: the videos.
        resolution: the side R of a frame.
        onward: the clips of a video are read in order: each read continues where the previous one ended.
        store: keeps decoded frames, so that each is decoded once.
        resize: how frames are resized, a value of `digan.config.RESIZES`.
        capacity: the largest number of open decoders.
        pixels: the largest sum of their frame sizes (a decoder holds a dozen frames and about a megabyte of tables).
        spilled: the largest sum of the bytes of zip members that were decompressed for them.
    """

    def __init__(
        self,
        index: VideoIndex,
        resolution: int,
        *,
        onward: bool = False,
        store: FrameStore | None = None,
        resize: str = DEFAULT_RESIZE,
        capacity: int = 64,
        pixels: int = 1 << 24,
        spilled: int = 1 << 32,
    ) -> None:
        self.index, self.resolution, self.onward, self.store, self.resize = index, resolution, onward, store, resize
        self.capacity, self.pixels, self.spilled = capacity, pixels, spilled
        self._start_afresh()

    def __getstate__(self) -> dict:
        names = ("index", "resolution", "onward", "store", "resize", "capacity", "pixels", "spilled")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state.pop("index"), state.pop("resolution"), **state)

    def _start_afresh(self) -> None:
        self._readers: OrderedDict[str, Reader] = OrderedDict()
        self._squares = Squares(self.resolution, self.resize)
        self.report: Callable[[str], None] = log_warning  # receives a sentence about each damaged video that is met
        self._reported: set[str] = set()  # videos whose damage was reported
        self._owner = os.getpid()

    def close(self) -> None:
        """Close all files; a later read opens them again."""
        if self._owner == os.getpid():
            for reader in self._readers.values():
                reader.close()
        self._start_afresh()

    def read(self, video: Video, indices: Sequence[int], soon: Soon | None = None, *, wait: bool = True) -> np.ndarray:
        """Return frames of a video by index.

        Args:
            video: a video of the index.
            indices: the requested frames, in any order and with repeats.
            soon: returns which frames of a range will be requested soon, so that a long stretch from a keyframe is
                decoded once for all of them. Without it all frames of the stretch are stored.
            wait: wait for another process that is decoding the same stretch.

        Returns:
            uint8 RGB `[len(indices), 3, R, R]`.

        Raises:
            UnreadableVideo: the frames cannot be decoded; the message names the video.
            FramesClaimed: another process is decoding the same stretch, and `wait` is false.
        """
        if self._owner != os.getpid():
            # Handles inherited through fork share file positions with the parent: leave them alone and open new ones.
            self._start_afresh()
        pictures = self.store.get(video, indices) if self.store else {}
        missing = sorted(set(indices) - pictures.keys())
        if missing:
            try:
                pictures |= self._decode(video, missing, soon, wait)
            except (UnreadableVideo, OSError) as error:
                if (failed := self._readers.pop(video.name, None)) is not None:
                    failed.close()
                raise UnreadableVideo(f"{video.name}: {reason(error)}") from error
            self._report_damage(video)
        frames = [pictures[i] for i in indices]
        return np.stack(frames).transpose(0, 3, 1, 2)  # [n, 3, R, R]

    def _decode(self, video: Video, indices: list[int], soon: Soon | None, wait: bool) -> dict[int, np.ndarray]:
        """Decode frames, and store them and others of the same stretch that are worth keeping."""
        store = self.store
        if store is None or not store.holds(video):
            return dict(zip(indices, self.reader(video).read(indices), strict=True))
        keep = partial(store.put, video)
        if video.timing is None or self.onward:
            return dict(zip(indices, self.reader(video).read(indices, keep=keep), strict=True))
        pictures: dict[int, np.ndarray] = {}
        for reached, group in groupby(indices, video.timing.reached_with):
            with store.claimed(video, reached, wait):
                # The previous holder of the claim may have stored them.
                requested = list(group)
                pictures |= store.get(video, requested)
                if missing := [i for i in requested if i not in pictures]:
                    passing = self._worth_keeping(video, reached, missing, soon)
                    pictures |= zip(missing, self.reader(video).read(missing, passing, keep), strict=True)
        return pictures

    def _worth_keeping(self, video: Video, reached: range, requested: list[int], soon: Soon | None) -> np.ndarray:
        """Return the frames to store out of those `reached` from a keyframe, when `requested` are decoded."""
        absent = self.store.absent(video)
        absent = absent[slice(*np.searchsorted(absent, [reached.start, reached.stop]))]
        if soon is None:
            return absent[absent <= requested[-1]]
        worthwhile = np.isin(absent, np.concatenate([requested, soon(reached)]))
        last = max(requested[-1], int(absent[worthwhile].max(initial=0)))
        # Store a few more of a long stretch; otherwise every epoch decodes all of it for the frames still absent.
        others = np.flatnonzero(~worthwhile & (absent <= last))
        worthwhile[others[: (last - reached.start) // EXTRA]] = True
        return absent[worthwhile]

    def _report_damage(self, video: Video) -> None:
        """Report each video that turned out damaged, once, with the number of its damaged frames."""
        reader = self._readers.get(video.name)
        if reader is None or not reader.damaged or video.name in self._reported:
            return
        self._reported.add(video.name)
        damaged, checked = reader.count_damaged()
        of = f"{checked:,}" if checked == video.num_frames else f"the first {checked:,}"
        self.report(
            f"{video.name} is damaged: cannot decode {damaged:,} of {of} frames correctly (the frame before stands in "
            "for a missing one)"
        )

    def reader(self, video: Video) -> Reader:
        """Return the reader of a video, opening it if necessary and closing the least recently used ones."""
        reader = self._readers.get(video.name)
        if reader is None:
            reader = open_reader(self.index.source, video, self._squares, self.onward)
            self._readers[video.name] = reader
            while len(self._readers) > 1 and self._too_many():
                self._readers.popitem(last=False)[1].close()
        self._readers.move_to_end(video.name)
        return reader

    def _too_many(self) -> bool:
        readers = self._readers.values()
        return (
            len(readers) > self.capacity
            or sum(r.video.width * r.video.height for r in readers) > self.pixels
            or sum(r.bytes for r in readers) > self.spilled
        )
