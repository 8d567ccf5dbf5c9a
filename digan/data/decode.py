"""Exact random access to the frames of a video: seek to a keyframe, decode up to the wanted frame."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby

import av
import numpy as np
from av.video.reformatter import VideoReformatter

from digan.data.image import read_picture, to_square
from digan.data.sources import Source
from digan.data.store import FrameStore
from digan.data.timing import NO_TIME, READ_ERRORS, Timing, UnreadableVideo, drain, open_indexed, reason
from digan.data.video import Video, VideoIndex

# Decoders that heed `skip_frame` packet by packet (others read it once, when they start).
_SKIPPING_CODECS = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})
_NOWHERE = 1 << 62  # a position that no frame can be reached from without a seek
_NONE = np.zeros(0, np.int64)

EXTRA = 16  # of so many frames on the way, one is kept beyond those that are wanted soon
Soon = Callable[[range], np.ndarray]  # which of these frames will be wanted, int64
Keep = Callable[[int, np.ndarray], None]  # takes the number of a frame and its picture, uint8 RGB [R,R,3]


class VideoReader:
    """Frames of one open video file by index.

    Costs the packets from the keyframe before the first wanted frame to the last wanted one, less those of frames that
    nothing refers to. With `onward`, a read goes on where the one before ended, which pays where clips are read in
    order; else the decoder is emptied once it was fed what is needed, in place of feeding it more until it lets go.
    """

    def __init__(
        self, source: Source, video: Video, onward: bool = False, reformatter: VideoReformatter | None = None
    ) -> None:
        self.video = video
        self.onward = onward
        self.packets_decoded = 0  # cost so far, for tests and measurements
        self._source = source
        self._timing: Timing = video.timing
        self._skip_below, self._fetch, self._unfed, self._drained = NO_TIME, set(), set(), False
        self._reformatter = reformatter or VideoReformatter()
        self._container = None
        self._restart()

    def close(self) -> None:
        if self._container is not None:
            self._container.close()
            # The generator refers to this reader: its decoder would stay until the garbage collector finds the cycle.
            self._container, self._stream, self._frames = None, None, iter(())

    def read(
        self, indices: Sequence[int], resolution: int, passing: np.ndarray = _NONE, keep: Keep | None = None
    ) -> list[np.ndarray]:
        """Frames `indices`, in any order and with repeats, as uint8 RGB [R,R,3]. Raises UnreadableVideo.

        Those that were decoded without a sign of damage are given to `keep`, and so are those of `passing` (ascending)
        that are reached from the same keyframe as a wanted frame. With `keep` no frame is skipped: damage does not
        always show, and whatever the decoder makes of it then depends on the frames before alone, not on what else was
        wanted.
        """
        wanted = sorted(set(indices))
        pictures = {}
        for start, group in groupby(wanted, self._timing.seek_point):
            pictures |= self._read_group(start, list(group), resolution, passing, keep)
        return [pictures[i] for i in indices]

    def _read_group(
        self, start: int, wanted: list[int], resolution: int, passing: np.ndarray, keep: Keep | None
    ) -> dict[int, np.ndarray]:
        """Frames that are all reached from seek point `start`."""
        reached = self._timing.reached_with(wanted[0])
        ends = np.searchsorted(passing, [reached.start, reached.stop])
        fetched = sorted({*wanted, *passing[slice(*ends)].tolist()})
        pictures = self._fetch_frames(start, fetched, set(wanted), resolution, keep)
        # What is made up for a damaged frame must not depend on the frames that were fetched with it.
        return pictures or self._fetch_frames(start, wanted, set(wanted), resolution, keep)

    def _fetch_frames(
        self, start: int, fetched: list[int], wanted: set[int], resolution: int, keep: Keep | None
    ) -> dict[int, np.ndarray]:
        """The wanted ones of the fetched frames; nothing, if any is damaged while more than the wanted are fetched."""
        video, labels = self.video, self._timing.labels
        by_packet = self._timing.clock == "pts"
        # Frames that nothing refers to are decoded only when fetched. Later ones a read that continues here may want.
        skips = by_packet and keep is None and video.codec in _SKIPPING_CODECS
        self._skip_below = labels[fetched[-1]] if skips else NO_TIME
        self._fetch = {int(labels[i]) for i in fetched} if by_packet else set()
        self._unfed = set() if self.onward else set(self._fetch)
        self._drained = False
        pictures = {}
        for index in fetched:
            frame = self._frame(index, start)
            sound = frame is not None and self._sound
            if not sound and len(fetched) > len(wanted):
                self._position = _NOWHERE
                return {}
            frame = frame or self._substitute(index, start)
            array = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            picture = to_square(array, resolution, video.rotation, video.pixel_aspect)
            if sound and keep is not None:
                keep(index, picture)
            if index in wanted:
                pictures[index] = picture
        if not self.onward:
            # An emptied decoder takes no more packets, and what is made up for damaged ones depends on those before.
            self._position = _NOWHERE
        return pictures

    def _frame(self, index: int, start: int) -> av.VideoFrame | None:
        """Decodes frame `index`, None where the file is damaged."""
        if not self._timing.seek_frames[start] <= self._position <= index:
            self._seek(start)
        self._position = index + 1
        for ordinal, frame in self._frames:
            if ordinal == index:
                return frame
            if ordinal > index:
                break
        return None

    def _substitute(self, index: int, start: int) -> av.VideoFrame:
        """The frame on the screen when frame `index` should be: the last one before it that decodes, else the next one.

        Always decodes anew from a keyframe, so that the answer does not depend on what was read before.
        """
        self._position = _NOWHERE
        self._skip_below, self._unfed, self._drained = NO_TIME, set(), False
        for point in range(start, -1, -1):
            self._seek(point)
            before = None
            for ordinal, frame in self._frames:
                if ordinal > index:
                    return before or frame
                before = frame
            if before is not None:
                return before
        raise UnreadableVideo(f"no frame near {index} can be decoded")

    def _restart(self) -> None:
        self.close()
        self._container, self._stream = open_indexed(
            lambda: self._source.open(self.video.name), self.video.codec, self._timing
        )
        self._frames = self._decoded(self._container.demux(self._stream), None, 0)
        self._position, self._sound = 0, True

    def _seek(self, start: int) -> None:
        """Makes the decoder stand at seek point `start`, or at an earlier one."""
        points, column = self._timing.seek_times, 1 if self._timing.clock == "dts" else 0
        # Some formats find a keyframe by its pts, some by its dts; the packet they arrive at tells if it is too late.
        for time in points[start]:
            if time == NO_TIME:
                continue
            try:
                self._container.seek(int(time), stream=self._stream, backward=True)
                demuxed = self._container.demux(self._stream)
                first = next(demuxed)
            except (*READ_ERRORS, StopIteration):
                continue
            arrived = (first.pts, first.dts)[column]
            point = int(np.searchsorted(points[:, column], NO_TIME if arrived is None else arrived))
            if point <= start and points[point, column] == arrived:
                self._sound = True  # nothing that was decoded since is damaged
                self._frames = self._decoded(demuxed, first, int(self._timing.seek_frames[point]))
                return
        self._restart()

    def _decoded(
        self, demuxed: Iterator[av.Packet], packet: av.Packet | None, ordinal: int
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Frames with their indices, increasing, from frame `ordinal` on; `packet` was demuxed already.

        Frames before `ordinal` that come out after a seek refer to pictures before the keyframe: they are left out.
        """
        labels, clock = self._timing.labels, self._timing.clock
        while True:
            if packet is None:
                try:
                    packet = next(demuxed)
                except (*READ_ERRORS, StopIteration):
                    return
            self._choose_skipping(packet)
            self.packets_decoded += 1
            for frame in self._fed(packet):
                label = None if clock == "count" else getattr(frame, clock)
                if label is not None:
                    found = int(np.searchsorted(labels, label))
                    if found < ordinal or found == len(labels) or labels[found] != label:
                        continue
                    ordinal = found
                # Without a label: a decoder that is being emptied at the end of the file gives no times any more.
                if ordinal < len(labels):
                    self._sound &= not frame.is_corrupt
                    yield ordinal, frame
                ordinal += 1
            if self._drained:
                return
            packet = None

    def _fed(self, packet: av.Packet) -> list[av.VideoFrame]:
        """What the decoder gives for a packet; all that it holds, once it was fed every fetched frame."""
        try:
            frames = packet.decode()
        except READ_ERRORS:
            frames, self._sound = [], False
        if packet.pts in self._unfed:
            self._unfed.remove(packet.pts)
            if not self._unfed:
                frames += drain(self._stream)
                self._drained = True
        return frames

    def _choose_skipping(self, packet: av.Packet) -> None:
        skip = packet.pts is not None and packet.pts < self._skip_below and packet.pts not in self._fetch
        self._stream.codec_context.skip_frame = "NONREF" if skip else "DEFAULT"


class PictureReader:
    """Frames of a frame folder by index."""

    def __init__(self, source: Source, video: Video) -> None:
        self.video = video
        self._source = source
        self._names = source.pictures(video.name)
        if len(self._names) != video.num_frames:
            raise UnreadableVideo(f"held {video.num_frames} pictures when indexed and holds {len(self._names)} now")

    def close(self) -> None:
        pass

    def read(
        self, indices: Sequence[int], resolution: int, passing: np.ndarray = _NONE, keep: Keep | None = None
    ) -> list[np.ndarray]:
        """Frames `indices` as uint8 RGB [R,R,3], which are given to `keep` too. Raises UnreadableVideo."""
        pictures = {}
        for index in set(indices):
            try:
                picture = read_picture(self._source.open(self._names[index]))
            except (OSError, ValueError, SyntaxError) as error:  # SyntaxError: Pillow, on a broken PNG
                raise UnreadableVideo(f"picture {self._names[index]} cannot be read ({reason(error)})") from error
            pictures[index] = to_square(picture, resolution)
            if keep is not None:
                keep(index, pictures[index])
        return [pictures[i] for i in indices]


class FrameReader:
    """Frames of the videos of an index, at one resolution, with the last few decoders kept open.

    Opens nothing until the first read, and every process opens its own: safe to send to workers, forked or spawned.
    Open decoders are at most `capacity`, of together at most `pixels` pixels a frame (each holds a dozen frames and
    about a megabyte of tables). With a store, frames are decoded once.
    """

    def __init__(
        self,
        index: VideoIndex,
        resolution: int,
        *,
        onward: bool = False,
        store: FrameStore | None = None,
        capacity: int = 64,
        pixels: int = 1 << 24,
    ) -> None:
        self.index, self.resolution = index, resolution
        self.onward, self.store, self.capacity, self.pixels = onward, store, capacity, pixels
        self._start_afresh()

    def __getstate__(self) -> dict:
        names = ("index", "resolution", "onward", "store", "capacity", "pixels")
        return {name: getattr(self, name) for name in names}

    def __setstate__(self, state: dict) -> None:
        self.__init__(state.pop("index"), state.pop("resolution"), **state)

    def _start_afresh(self) -> None:
        self._readers: OrderedDict[str, VideoReader | PictureReader] = OrderedDict()
        self._reformatter = VideoReformatter()  # one for all videos: setting it up costs more than using it
        self._owner = os.getpid()

    def read(self, video: Video, indices: Sequence[int], soon: Soon | None = None, *, wait: bool = True) -> np.ndarray:
        """Frames `indices` of `video` as uint8 RGB [len(indices),3,R,R].

        Args:
            soon: tells which frames of a range will be wanted in a while, so that a long way from a keyframe is gone
                once for all of them. Without it all frames on the way are kept.
            wait: for another process that is just decoding such frames.

        Raises:
            UnreadableVideo: naming the video.
            FramesClaimed: without `wait`.
        """
        if self._owner != os.getpid():
            # Handles inherited through fork share file positions with the parent: leave them alone, open our own.
            self._start_afresh()
        found = self.store.get(video, indices) if self.store else {}
        missing = sorted(set(indices) - found.keys())
        if missing:
            try:
                found |= self._decode(video, missing, soon, wait)
            except (UnreadableVideo, OSError) as error:
                self._readers.pop(video.name, None)
                raise UnreadableVideo(f"{video.name}: {reason(error)}") from error
        frames = [found[i] for i in indices]
        return np.stack(frames).transpose(0, 3, 1, 2)  # [n,3,R,R]

    def _decode(self, video: Video, indices: list[int], soon: Soon | None, wait: bool) -> dict[int, np.ndarray]:
        store, size = self.store, self.resolution
        if store is None or not store.holds(video):
            return dict(zip(indices, self.reader(video).read(indices, size), strict=True))
        keep = partial(store.put, video)
        if video.timing is None or self.onward:
            return dict(zip(indices, self.reader(video).read(indices, size, keep=keep), strict=True))
        found: dict[int, np.ndarray] = {}
        for reached, group in groupby(indices, video.timing.reached_with):
            with store.claimed(video, reached, wait):
                # Whoever had the claim before may have put them there.
                wanted = list(group)
                found |= store.get(video, wanted)
                if rest := [i for i in wanted if i not in found]:
                    passing = self._worth_keeping(video, reached, rest, soon)
                    found |= zip(rest, self.reader(video).read(rest, size, passing, keep), strict=True)
        return found

    def _worth_keeping(self, video: Video, reached: range, wanted: list[int], soon: Soon | None) -> np.ndarray:
        """Which frames of those `reached` from a keyframe to keep, when `wanted` are to be decoded."""
        absent = self.store.absent(video)
        absent = absent[slice(*np.searchsorted(absent, [reached.start, reached.stop]))]
        if soon is None:
            return absent[absent <= wanted[-1]]
        demanded = np.isin(absent, np.concatenate([wanted, soon(reached)]))
        last = max(wanted[-1], int(absent[demanded].max(initial=0)))
        # A few more on a long way, or every epoch would go all of it for the frames still absent.
        others = np.flatnonzero(~demanded & (absent <= last))
        demanded[others[: (last - reached.start) // EXTRA]] = True
        return absent[demanded]

    def reader(self, video: Video) -> VideoReader | PictureReader:
        """The open reader of `video`."""
        reader = self._readers.get(video.name)
        if reader is None:
            source = self.index.source
            if video.timing is None:
                reader = PictureReader(source, video)
            else:
                reader = VideoReader(source, video, self.onward, self._reformatter)
            self._readers[video.name] = reader
            sizes = {name: r.video.width * r.video.height for name, r in self._readers.items()}
            while len(sizes) > 1 and (len(sizes) > self.capacity or sum(sizes.values()) > self.pixels):
                name, oldest = self._readers.popitem(last=False)
                oldest.close()
                del sizes[name]
        self._readers.move_to_end(video.name)
        return reader
