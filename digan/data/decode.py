"""Read any frame of a video exactly: seek to a keyframe and decode up to the requested frame."""

from __future__ import annotations

import os
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import groupby

import av
import numpy as np
from av.container import InputContainer
from av.video.reformatter import VideoReformatter
from av.video.stream import VideoStream

from digan.data.image import read_picture, to_square
from digan.data.sources import Source
from digan.data.store import FrameStore
from digan.data.timing import NO_TIME, READ_ERRORS, Timing, UnreadableVideo, drain, open_indexed, reason
from digan.data.video import Video, VideoIndex

# Decoders that apply `skip_frame` to each packet (others read it once, when they start).
_SKIPPING_CODECS = frozenset({"h264", "hevc", "mpeg4", "mpeg2video"})
_NOWHERE = 1 << 62  # a position that no frame can be reached from without a seek
_NONE = np.zeros(0, np.int64)

EXTRA = 16  # one in so many decoded frames is kept in addition to those that are needed soon
Soon = Callable[[range], np.ndarray]  # returns which of these frames will be requested soon, int64
Keep = Callable[[int, np.ndarray], None]  # stores the picture of a frame, uint8 RGB [R, R, 3], under its index


class VideoReader:
    """Random access to the frames of one open video file.

    A read decodes the packets from the keyframe before the first requested frame up to the last requested one, except
    frames that no other frame refers to.

    Args:
        source: where the video is.
        video: a video of the index with a frame table.
        onward: continue each read where the previous one ended, which pays where clips are read in order. Otherwise the
            decoder is drained as soon as it has the packets it needs, instead of being fed until it outputs the frames.
        reformatter: converts frames to RGB; may be shared between readers.
    """

    def __init__(
        self, source: Source, video: Video, onward: bool = False, reformatter: VideoReformatter | None = None
    ) -> None:
        self.video = video
        self.onward = onward
        self.packets_decoded = 0  # the cost so far, for tests and measurements
        self._source = source
        self._timing: Timing = video.timing
        self._skip_below = NO_TIME  # frames before this time are skipped if nothing refers to them
        self._fetch: set[int] = set()  # labels of the frames that are never skipped
        self._unfed: set[int] = set()  # labels of the frames whose packets the decoder still lacks
        self._drained = False
        self._reformatter = reformatter or VideoReformatter()
        self._container: InputContainer | None = None
        self._stream: VideoStream | None = None
        self._frames: Iterator[tuple[int, av.VideoFrame]] = iter(())
        self._position = 0  # the next frame to be decoded
        self._sound = True  # nothing decoded since the last seek was damaged
        self._restart()

    def close(self) -> None:
        """Close the file and free the decoder."""
        if self._container is not None:
            self._container.close()
            # The generator refers to this reader; the cycle would keep the decoder alive until garbage collection.
            self._container, self._stream, self._frames = None, None, iter(())

    def read(
        self, indices: Sequence[int], resolution: int, passing: np.ndarray = _NONE, keep: Keep | None = None
    ) -> list[np.ndarray]:
        """Return frames by index, in any order and with repeats.

        With `keep` no frame is skipped: damage does not always show, and a damaged frame must depend on the frames
        before it alone, not on which frames were requested with it.

        Args:
            indices: the requested frames.
            resolution: the side R of the pictures.
            passing: other frames to store, ascending, if they are reached from the keyframe of a requested frame.
            keep: stores each requested or passing frame that was decoded without a sign of damage.

        Returns:
            A picture per index, uint8 RGB `[R, R, 3]`.

        Raises:
            UnreadableVideo: no frame near a requested one can be decoded.
        """
        pictures: dict[int, np.ndarray] = {}
        for start, group in groupby(sorted(set(indices)), self._timing.seek_point):
            pictures |= self._read_group(start, list(group), resolution, passing, keep)
        return [pictures[i] for i in indices]

    def _read_group(
        self, start: int, requested: list[int], resolution: int, passing: np.ndarray, keep: Keep | None
    ) -> dict[int, np.ndarray]:
        """Read frames that are all reached from seek point `start`."""
        reached = self._timing.reached_with(requested[0])
        ends = np.searchsorted(passing, [reached.start, reached.stop])
        fetched = sorted({*requested, *passing[slice(*ends)].tolist()})
        pictures = self._fetch_frames(start, fetched, set(requested), resolution, keep)
        # The substitute of a damaged frame must not depend on the passing frames.
        return pictures or self._fetch_frames(start, requested, set(requested), resolution, keep)

    def _fetch_frames(
        self, start: int, fetched: list[int], requested: set[int], resolution: int, keep: Keep | None
    ) -> dict[int, np.ndarray]:
        """Decode the fetched frames and return the requested ones.

        The result is empty if a frame is damaged and more than the requested frames are fetched.
        """
        video, labels = self.video, self._timing.labels
        by_packet = self._timing.clock == "pts"
        # Skip unreferenced frames that are not fetched, but none after the last fetched one: a later read may continue
        # there.
        skips = by_packet and keep is None and video.codec in _SKIPPING_CODECS
        self._skip_below = labels[fetched[-1]] if skips else NO_TIME
        self._fetch = {int(labels[i]) for i in fetched} if by_packet else set()
        self._unfed = set() if self.onward else set(self._fetch)
        self._drained = False
        pictures: dict[int, np.ndarray] = {}
        for index in fetched:
            frame = self._frame(index, start)
            sound = frame is not None and self._sound
            if not sound and len(fetched) > len(requested):
                self._position = _NOWHERE
                return {}
            frame = frame or self._substitute(index, start)
            array = self._reformatter.reformat(frame, format="rgb24", threads=1).to_ndarray()
            picture = to_square(array, resolution, video.rotation, video.pixel_aspect)
            if sound and keep is not None:
                keep(index, picture)
            if index in requested:
                pictures[index] = picture
        if not self.onward:
            # A drained decoder accepts no packets, and what it makes of damaged ones depends on those before.
            self._position = _NOWHERE
        return pictures

    def _frame(self, index: int, start: int) -> av.VideoFrame | None:
        """Decode frame `index`; None if the file is damaged there."""
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
        """Return the frame shown in place of frame `index`: the last one before it that decodes, else the next one.

        Decoding always starts at a keyframe, so that the result does not depend on earlier reads.
        """
        self._position = _NOWHERE
        self._skip_below, self._unfed, self._drained = NO_TIME, set(), False
        for point in range(start, -1, -1):
            self._seek(point)
            previous = None
            for ordinal, frame in self._frames:
                if ordinal > index:
                    return previous or frame
                previous = frame
            if previous is not None:
                return previous
        raise UnreadableVideo(f"no frame near {index} can be decoded")

    def _restart(self) -> None:
        self.close()
        self._container, self._stream = open_indexed(
            lambda: self._source.open(self.video.name), self.video.codec, self._timing
        )
        self._frames = self._decoded(self._container.demux(self._stream), None, 0)
        self._position, self._sound = 0, True

    def _seek(self, start: int) -> None:
        """Move the decoder to seek point `start`, or to an earlier one."""
        points, column = self._timing.seek_times, 1 if self._timing.clock == "dts" else 0
        # Some formats find a keyframe by its pts, others by its dts; the first packet shows if the seek went too far.
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
                self._sound = True
                self._frames = self._decoded(demuxed, first, int(self._timing.seek_frames[point]))
                return
        self._restart()

    def _decoded(
        self, demuxed: Iterator[av.Packet], packet: av.Packet | None, ordinal: int
    ) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield frames with their indices, increasing, from frame `ordinal` on; `packet` was demuxed already.

        Frames before `ordinal` that the decoder outputs after a seek refer to pictures before the keyframe and are
        dropped.
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
            for frame in self._decode_packet(packet):
                label = None if clock == "count" else getattr(frame, clock)
                if label is not None:
                    position = int(np.searchsorted(labels, label))
                    if position < ordinal or position == len(labels) or labels[position] != label:
                        continue
                    ordinal = position
                # A decoder that is being drained at the end of the file gives no times: such frames are counted.
                if ordinal < len(labels):
                    self._sound &= not frame.is_corrupt
                    yield ordinal, frame
                ordinal += 1
            if self._drained:
                return
            packet = None

    def _decode_packet(self, packet: av.Packet) -> list[av.VideoFrame]:
        """Decode a packet, and drain the decoder once it has the packets of all fetched frames."""
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
    """Random access to the pictures of a frame folder."""

    def __init__(self, source: Source, video: Video) -> None:
        self.video = video
        self._source = source
        self._names = source.pictures(video.name)
        if len(self._names) != video.num_frames:
            raise UnreadableVideo(f"held {video.num_frames} pictures when indexed but holds {len(self._names)} now")

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def read(
        self, indices: Sequence[int], resolution: int, passing: np.ndarray = _NONE, keep: Keep | None = None
    ) -> list[np.ndarray]:
        """Return frames by index, uint8 RGB `[R, R, 3]`, and store each with `keep`.

        Raises:
            UnreadableVideo: a picture cannot be read.
        """
        pictures: dict[int, np.ndarray] = {}
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
    """Random access to the frames of an index at one resolution, with the most recently used decoders kept open.

    Nothing is opened before the first read, and every process opens its own files: safe to send to workers, forked or
    spawned.

    Args:
        index: the videos.
        resolution: the side R of a frame.
        onward: continue each read where the previous one of the video ended; see `VideoReader`.
        store: keeps decoded frames, so that each is decoded once.
        capacity: the largest number of open decoders.
        pixels: the largest sum of their frame sizes (a decoder holds a dozen frames and about a megabyte of tables).
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
        self._reformatter = VideoReformatter()  # shared by all videos: setting it up costs more than using it
        self._owner = os.getpid()

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
                self._readers.pop(video.name, None)
                raise UnreadableVideo(f"{video.name}: {reason(error)}") from error
        frames = [pictures[i] for i in indices]
        return np.stack(frames).transpose(0, 3, 1, 2)  # [n, 3, R, R]

    def _decode(self, video: Video, indices: list[int], soon: Soon | None, wait: bool) -> dict[int, np.ndarray]:
        """Decode frames, and store them and others of the same stretch that are worth keeping."""
        store, size = self.store, self.resolution
        if store is None or not store.holds(video):
            return dict(zip(indices, self.reader(video).read(indices, size), strict=True))
        keep = partial(store.put, video)
        if video.timing is None or self.onward:
            return dict(zip(indices, self.reader(video).read(indices, size, keep=keep), strict=True))
        pictures: dict[int, np.ndarray] = {}
        for reached, group in groupby(indices, video.timing.reached_with):
            with store.claimed(video, reached, wait):
                # The previous holder of the claim may have stored them.
                requested = list(group)
                pictures |= store.get(video, requested)
                if missing := [i for i in requested if i not in pictures]:
                    passing = self._worth_keeping(video, reached, missing, soon)
                    pictures |= zip(missing, self.reader(video).read(missing, size, passing, keep), strict=True)
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

    def reader(self, video: Video) -> VideoReader | PictureReader:
        """Return the reader of a video, opening it if necessary and closing the least recently used ones."""
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
