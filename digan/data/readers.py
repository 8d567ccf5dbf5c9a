"""Random access to the frames of one video: a file decoded by FFmpeg, a folder of pictures, or an animated picture."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby, pairwise
from typing import BinaryIO, NamedTuple, Protocol

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from digan.data.image import DEFAULT_RESIZE, PICTURE_ERRORS, RGBConverter, read_animation, read_picture, to_square
from digan.data.sources import Source, opened_again
from digan.data.timing import NO_TIME, READ_ERRORS, Timing, decode, drain, open_indexed
from digan.data.video import Video
from digan.errors import UnreadableVideo
from digan.wording import reason

_EARLIER = 3  # number of earlier keyframes to try when a missing frame needs a substitute
_SILENT = 1024  # packets in a row without a frame, after which the rest of a stretch counts as damaged
_CHECKED = 20_000  # maximum number of frames to check for damage
_AFTER_ALL = 1 << 62  # an index after that of every frame
_NONE = np.zeros(0, np.int64)

Keep = Callable[[int, np.ndarray], None]  # stores the picture of a frame, uint8 RGB [R, R, 3], under its index


@dataclass(frozen=True)
class Squares:
    """How pictures become squares: the side R of the result, and a value of `digan.config.RESIZES`."""

    resolution: int
    resize: str = DEFAULT_RESIZE
    converter: RGBConverter = field(default_factory=RGBConverter, compare=False)

    def of_frame(self, frame: av.VideoFrame, video: Video) -> np.ndarray:
        """Return a decoded frame of a video as uint8 RGB `[R, R, 3]`."""
        return to_square(
            self.converter.rgb(frame), self.resolution, video.rotation, video.pixel_aspect, resize=self.resize
        )

    def of_picture(self, picture: np.ndarray) -> np.ndarray:
        """Return an upright picture, uint8 RGB `[H, W, 3]`, as uint8 RGB `[R, R, 3]`."""
        return to_square(picture, self.resolution, resize=self.resize)


class Reader(Protocol):
    """Random access to the frames of one video.

    What a read returns follows from the file and the arguments alone, even in a damaged file: earlier reads have no
    influence.
    """

    video: Video
    bytes: int  # memory and disk that the file's content takes up while the reader is open
    damaged: bool  # whether a read has met damage

    def read(self, indices: Sequence[int], passing: np.ndarray = _NONE, keep: Keep | None = None) -> list[np.ndarray]:
        """Return frames by index, in any order and with repeats.

        Args:
            indices: the requested frames.
            passing: other frames to store, ascending, if they are reached from the keyframe of a requested frame.
            keep: stores each requested or passing frame that exists.

        Returns:
            A picture per index, uint8 RGB `[R, R, 3]`.

        Raises:
            UnreadableVideo: a requested frame cannot be read, nor any near it.
        """
        ...

    def count_damaged(self) -> tuple[int, int]:
        """Return the number of damaged or missing frames, and the number of frames that were looked at for that."""
        ...

    def close(self) -> None:
        """Close the file."""
        ...


class Opened(NamedTuple):
    """A file opened for decoding: its packets from a seek point on, the first of which is that of frame `ordinal`."""

    container: InputContainer
    stream: VideoStream
    packets: Iterator[av.Packet]
    ordinal: int


class Stretch:
    """The frames that are decoded from one seek point on, in order.

    They follow from the file and the seek point alone, so that a frame is the same whichever frames are requested
    before it or with it: file and decoder are opened anew for each stretch, since both remember damage across seeks;
    and the decoder is neither drained before the end of the stretch nor told to skip packets, since damage decides what
    becomes of the frames that it holds.
    """

    def __init__(self, container: InputContainer, frames: Iterator[tuple[int, av.VideoFrame]]) -> None:
        self._container = container
        self._frames = frames
        self.index = -1  # of the latest frame at or before the last index asked for
        self._frame: av.VideoFrame | None = None
        self.next_index = -1  # of the frame after it, if it had to be decoded
        self._next: av.VideoFrame | None = None

    def close(self) -> None:
        """Close the file and free the decoder."""
        self._frames, self._frame, self._next = iter(()), None, None
        self._container.close()

    def at(self, index: int) -> av.VideoFrame | None:
        """Return the last frame at or before `index`, which must not be less than in earlier calls; None without one.

        The caller must not hold the frame when it asks for the next one: the decoder would use other memory, the former
        content of which shows where a frame is damaged.
        """
        while self.index < index:
            if self._next is None:
                self.next_index, self._next = next(self._frames, (_AFTER_ALL, None))
            if self.next_index > index:
                break
            self.index, self._frame, self._next = self.next_index, self._next, None
        return self._frame

    def after(self) -> av.VideoFrame | None:
        """Return the frame after the last index asked for, if `at` found none for it."""
        return self._next


class VideoReader:
    """Random access to the frames of a video file.

    A read decodes the packets from the keyframe before the first requested frame until the last requested one comes out
    of the decoder. The next read continues there if it can.

    Args:
        source: where the video is.
        video: a video of the index with a frame table.
        squares: how frames become squares.
        onward: reads follow each other through the video. Otherwise a read that stores nothing drains the decoder as
            soon as it has the packets it needs, where the file is sound, and leaves nothing to continue from.
    """

    def __init__(self, source: Source, video: Video, squares: Squares, onward: bool = False) -> None:
        self.video = video
        self.onward = onward
        self.damaged = False
        self.packets_decoded = 0  # the cost so far, for tests and measurements
        self._file: str | BinaryIO = source.open(video.name)
        self.bytes: int = getattr(self._file, "spilled", 0)
        self._timing: Timing = video.timing
        self._squares = squares
        self._point = -1  # the seek point of the current stretch
        self._stretch: Stretch | None = None

    def close(self) -> None:
        """Close the file and free the decoder."""
        self._leave()
        if not isinstance(self._file, str):
            self._file.close()

    def read(self, indices: Sequence[int], passing: np.ndarray = _NONE, keep: Keep | None = None) -> list[np.ndarray]:
        """Return frames by index; see `Reader.read`.

        In place of a frame that cannot be decoded it returns the last one before it that can, or else the next one.
        """
        pictures: dict[int, np.ndarray] = {}
        for point, group in groupby(sorted(set(indices)), self._timing.seek_point):
            requested = list(group)
            if keep is None and not self.onward and self._timing.reorder > 0:
                direct = self._directly(point, requested)
                pictures |= direct
                requested = [i for i in requested if i not in direct]
            pictures |= self._through_stretch(point, requested, passing, keep)
        return [pictures[i] for i in indices]

    def _through_stretch(
        self, point: int, requested: list[int], passing: np.ndarray, keep: Keep | None
    ) -> dict[int, np.ndarray]:
        """Return the requested frames that are reached from a seek point, and store them and passing ones."""
        pictures: dict[int, np.ndarray] = {}
        reached = self._timing.reached_from(point)
        ends = np.searchsorted(passing, [reached.start, reached.stop])
        missing = []
        for index in sorted({*requested, *passing[slice(*ends)].tolist()}) if requested else ():
            picture = self._picture(point, index)
            if picture is not None:
                pictures[index] = picture
                if keep is not None:
                    keep(index, picture)
            elif index in requested:
                missing.append(index)
        for index in missing:
            # The decoder may have discarded a sound frame because of what came after it.
            pictures |= self._directly(point, [index]) or {index: self._substitute(point, index)}
        return pictures

    def _directly(self, point: int, indices: list[int]) -> dict[int, np.ndarray]:
        """Decode no more packets than frames reached from a seek point need, then drain the decoder.

        Returns:
            All the frames, if no packet up to theirs showed any damage; then each is the same whichever others are
            requested with it, and the same as in its stretch, if it comes out there. Otherwise nothing.
        """
        if self._timing.reorder < 0:  # several packets may make a frame
            return {}
        labels = self._timing.labels
        opened = self._open(point)
        first = labels[opened.ordinal]
        unfed, fed, pictures = {int(labels[i]) for i in indices}, set(), {}
        with opened.container:
            try:
                while unfed:
                    packet = next(opened.packets)
                    frames = packet.decode()
                    self.packets_decoded += 1
                    unfed.discard(packet.pts)
                    fed.add(packet.pts)
                    if not unfed:
                        frames += opened.stream.codec_context.decode(None)
                    for frame in frames:
                        if frame.is_corrupt and frame.pts >= first:
                            return {}
                        fed.remove(frame.pts)
                        index = int(np.searchsorted(labels, frame.pts))
                        if index in indices and labels[index] == frame.pts:
                            pictures[index] = self._squares.of_frame(frame, self.video)
            except (*READ_ERRORS, StopIteration, KeyError, TypeError):
                return {}  # KeyError and TypeError: a frame whose time is that of no packet, or that has none
        lost = [time for time in fed if time is None or time >= first]
        return {} if lost or len(pictures) < len(indices) else pictures

    def count_damaged(self) -> tuple[int, int]:
        """Return the number of frames that cannot be decoded or show damage, and how many were decoded to count them.

        A long video is decoded only in part.
        """
        checked = min(self.video.num_frames, _CHECKED)
        points = self._timing.seek_frames.tolist()
        ranges = [range(start, min(stop, checked)) for start, stop in pairwise([*points, self.video.num_frames])]
        return sum(not self._sound(point, i) for point, frames in enumerate(ranges) for i in frames), checked

    def _picture(self, point: int, index: int) -> np.ndarray | None:
        """Return the picture of frame `index` in the stretch from a seek point; None if the file is damaged there."""
        self.damaged |= not self._sound(point, index)
        frame = self._stretch.at(index)
        return None if self._stretch.index != index else self._squares.of_frame(frame, self.video)

    def _sound(self, point: int, index: int) -> bool:
        """Return whether frame `index` is decoded in the stretch from a seek point without a sign of damage."""
        stretch = self._enter(point, index)
        frame = stretch.at(index)
        return frame is not None and stretch.index == index and not frame.is_corrupt

    def _substitute(self, point: int, index: int) -> np.ndarray:
        for earlier in range(point, max(point - _EARLIER, 0) - 1, -1):
            frame = self._enter(earlier, index).at(index)
            if frame is not None:
                return self._squares.of_frame(frame, self.video)
        self._enter(point, index).at(index)
        frame = self._stretch.after()
        if frame is None:
            raise UnreadableVideo(f"no frame near {index} can be decoded")
        return self._squares.of_frame(frame, self.video)

    def _enter(self, point: int, index: int) -> Stretch:
        """Return the stretch from a seek point, not yet past frame `index`."""
        if self._stretch is None or self._point != point or self._stretch.index > index:
            self._leave()
            opened = self._open(point)
            self._stretch = Stretch(opened.container, self._decoded(opened, point))
            self._point = point
        return self._stretch

    def _leave(self) -> None:
        if self._stretch is not None:
            # The generator of its frames refers to this reader: left alone, the cycle would keep the decoder alive
            # until garbage collection.
            self._stretch.close()
            self._stretch = None

    def _open(self, point: int) -> Opened:
        """Open the file anew at a seek point, or at an earlier one."""
        for time in self._timing.seek_times[point]:
            if time == NO_TIME:
                continue
            # A failed seek leaves traces in the demuxer, so the next attempt needs a new one.
            container, stream = self._open_file()
            packets = container.demux(stream)
            try:
                container.seek(int(time), stream=stream, backward=True)
                first = next(packets)
                ordinal = self._arrived(first, point)
            except (*READ_ERRORS, StopIteration):
                ordinal = -1
            if ordinal >= 0:
                return Opened(container, stream, chain([first], packets), ordinal)
            container.close()
        container, stream = self._open_file()
        return Opened(container, stream, container.demux(stream), 0)

    def _open_file(self) -> tuple[InputContainer, VideoStream]:
        return open_indexed(lambda: opened_again(self._file), self.video.codec, self._timing)

    def _arrived(self, first: av.Packet, point: int) -> int:
        """Return the frame of the first packet after a seek to a seek point; -1 if the seek went too far.

        Some formats find a keyframe by its pts, others by its dts; the first packet shows which.
        """
        points, column = self._timing.seek_times, 1 if self._timing.clock == "dts" else 0
        time = (first.pts, first.dts)[column]
        index = int(np.searchsorted(points[:, column], NO_TIME if time is None else time))
        return int(self._timing.seek_frames[index]) if index <= point and points[index, column] == time else -1

    def _decoded(self, opened: Opened, point: int) -> Iterator[tuple[int, av.VideoFrame]]:
        """Yield frames with their indices, increasing: those reached from a seek point, and perhaps others around them.

        Frames before the first one at the seek point that the decoder outputs refer to pictures before the keyframe
        and are dropped.
        """
        labels, clock, ordinal = self._timing.labels, self._timing.clock, opened.ordinal
        for frames in self._decoded_packets(opened, point):
            while frames:
                frame = frames.pop(0)
                label = None if clock == "count" else getattr(frame, clock)
                if label is not None:
                    position = int(np.searchsorted(labels, label))
                    if position < ordinal or position == len(labels) or labels[position] != label:
                        continue
                    ordinal = position
                # A decoder that is being drained at the end of the file gives no times: such frames are counted.
                if ordinal < len(labels):
                    yield ordinal, frame
                ordinal += 1
            frame = None  # see `Stretch.at`

    def _decoded_packets(self, opened: Opened, point: int) -> Iterator[list[av.VideoFrame]]:
        """Yield the frames that each packet completes, until every frame reached from a seek point has come out."""
        reached = self._timing.reached_from(point)
        # Where each packet makes a frame, the decoder is drained after the last one that is needed.
        one_each = self._timing.reorder >= 0
        unfed = set(self._timing.labels[reached.start : reached.stop].tolist()) if one_each else {None}
        silent = 0
        while unfed and silent < _SILENT:
            try:
                packet = next(opened.packets)
            except (*READ_ERRORS, StopIteration):
                return
            self.packets_decoded += 1
            frames = decode(packet)
            silent = 0 if frames else silent + 1
            if one_each:
                unfed.discard(packet.pts)
            yield frames
        yield drain(opened.stream)


class PictureReader:
    """Random access to the pictures of a frame folder."""

    bytes, damaged = 0, False

    def __init__(self, source: Source, video: Video, squares: Squares) -> None:
        self.video = video
        self._source, self._squares = source, squares
        self._names = source.pictures(video.name)
        if len(self._names) != video.num_frames:
            raise UnreadableVideo(f"held {video.num_frames} pictures when indexed but holds {len(self._names)} now")

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def count_damaged(self) -> tuple[int, int]:
        """Return zeros: a picture that cannot be read is an error."""
        return 0, 0

    def read(self, indices: Sequence[int], passing: np.ndarray = _NONE, keep: Keep | None = None) -> list[np.ndarray]:
        """Return frames by index; see `Reader.read`."""
        pictures: dict[int, np.ndarray] = {}
        for index in sorted(set(indices)):
            try:
                picture = read_picture(self._source.open(self._names[index]))
            except PICTURE_ERRORS as error:
                raise UnreadableVideo(f"picture {self._names[index]} cannot be read ({reason(error)})") from error
            pictures[index] = self._squares.of_picture(picture)
            if keep is not None:
                keep(index, pictures[index])
        return [pictures[i] for i in indices]


class AnimationReader:
    """Random access to the frames of an animated picture; each read decodes it from the start."""

    bytes, damaged = 0, False

    def __init__(self, source: Source, video: Video, squares: Squares) -> None:
        self.video = video
        self._source, self._squares = source, squares

    def close(self) -> None:
        """Do nothing: no file stays open."""

    def count_damaged(self) -> tuple[int, int]:
        """Return zeros: a frame that cannot be read is an error."""
        return 0, 0

    def read(self, indices: Sequence[int], passing: np.ndarray = _NONE, keep: Keep | None = None) -> list[np.ndarray]:
        """Return frames by index; see `Reader.read`."""
        pictures: dict[int, np.ndarray] = {}
        requested = sorted(set(indices))
        try:
            frames = read_animation(self._source.open(self.video.name), requested)
            for index, picture in zip(requested, frames, strict=True):
                pictures[index] = self._squares.of_picture(picture)
                if keep is not None:
                    keep(index, pictures[index])
        except PICTURE_ERRORS as error:
            raise UnreadableVideo(f"a frame up to {requested[-1]} cannot be read ({reason(error)})") from error
        return [pictures[i] for i in indices]


def open_reader(source: Source, video: Video, squares: Squares, onward: bool) -> Reader:
    """Return a reader of a video of an index; `onward` is that of `VideoReader`.

    Raises:
        OSError, UnreadableVideo: the video cannot be opened.
    """
    if video.timing is not None:
        return VideoReader(source, video, squares, onward)
    return (AnimationReader if video.kind == "animation" else PictureReader)(source, video, squares)
