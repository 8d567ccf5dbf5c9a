"""Build the frame table of a video file: the timestamp of every frame, and the keyframes that decoding can start at."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import BinaryIO

import av
import numpy as np
from av.container import InputContainer
from av.stream import Discard
from av.video.stream import VideoStream

from digan.data.prediction import Frames, Packets, Prediction, prediction
from digan.errors import UnreadableVideo
from digan.wording import reason

# Containers that store a presentation time for every packet, with one shown frame per packet. For others FFmpeg guesses
# the times (AVI stores none, and with B-frames the guesses are wrong), so the table holds the times that the decoder
# gives its frames: predicted where possible, or else found by decoding the file once.
_TIMED_CONTAINERS = frozenset({"mov", "mp4", "matroska", "webm"})
_HIDDEN_FRAME_CODECS = frozenset({"vp8"})  # alternate reference frames are packets without a shown frame
# Codecs that paint a frame over earlier ones, even if it is flagged as a key frame.
_CANVAS_CODECS = frozenset({"gif", "apng", "webp"})
_PROBE = 3  # frames decoded to check that their times are those of the packets
NO_TIME = -(1 << 62)
READ_ERRORS = (av.error.FFmpegError, OSError, ValueError)
# Codecs for which FFmpeg decodes frames whenever a file is opened, to guess a delay that the index already holds.
_GUESSED_CODECS = frozenset({"h264"})
_DURATION = re.compile(r"(\d+):(\d+):(\d+(?:\.\d*)?)")  # a tag of Matroska files
_WITHOUT_GUESSING = {"skip_frame": "all", "probesize": "16384"}


@dataclass(frozen=True)
class Timing:
    """The frame table: frame i of a file is the decoded frame with the time `labels[i]` on `clock`."""

    # "pts" or "dts": the frame's attribute that holds its label; "count": frames can only be counted from the start.
    clock: str
    labels: np.ndarray  # int64 [F], strictly increasing, in units of the stream's time base
    seek_frames: np.ndarray  # int64 [K], increasing from 0: frames that decoding can start at
    seek_times: np.ndarray  # int64 [K, 2]: pts and dts of those frames' packets, NO_TIME where absent
    reorder: int = -1  # frames that the decoder holds back for reordering; -1: unknown, to be guessed on opening

    def seek_point(self, index: int) -> int:
        """Return the number of the last seek frame at or before frame `index`."""
        return int(np.searchsorted(self.seek_frames, index, side="right")) - 1

    def reached_with(self, index: int) -> range:
        """Return the frames for which decoding starts at the same seek point as for frame `index`."""
        return self.reached_from(self.seek_point(index))

    def reached_from(self, point: int) -> range:
        """Return the frames for which decoding starts at a seek point."""
        last = point + 1 == len(self.seek_frames)
        return range(int(self.seek_frames[point]), len(self.labels) if last else int(self.seek_frames[point + 1]))


@dataclass(frozen=True)
class Probe:
    """The properties of a video file, found by reading it once."""

    timing: Timing
    width: int  # as stored, before rotation
    height: int
    rotation: int  # degrees counter-clockwise that make a frame upright: 0, 90, 180 or 270
    pixel_aspect: float  # width of a pixel divided by its height
    fps: float
    codec: str
    missing: int  # frames that the file announces but does not hold, as far as it says
    damaged: int  # frames of the table that showed damage, as far as they were decoded


@dataclass
class _Content:
    """What demuxing a file and decoding some or all of it yields."""

    packets: Packets = field(default_factory=Packets)
    frames: Frames = field(default_factory=Frames)  # the decoded ones
    damaged: int = 0  # decoded frames that showed damage
    rotation: float = 0  # of the first frame
    width: int = 0
    height: int = 0


def open_video(file: str | BinaryIO) -> tuple[InputContainer, VideoStream]:
    """Open a file for single-threaded decoding.

    Raises:
        UnreadableVideo: the file cannot be opened, or has no video stream that can be decoded.
    """
    try:
        container = av.open(file, mode="r", metadata_errors="replace")
    except READ_ERRORS as error:
        raise UnreadableVideo(f"cannot be opened ({reason(error)})") from error
    stream = container.streams.best("video")
    if not isinstance(stream, VideoStream) or stream.codec_context is None:
        container.close()
        raise UnreadableVideo("has no video stream that can be decoded")
    _prepare(container, stream)
    return container, stream


def open_indexed(
    open_file: Callable[[], str | BinaryIO], codec: str, timing: Timing
) -> tuple[InputContainer, VideoStream]:
    """Open a file of the index for decoding, like `open_video`.

    Several times faster where the index holds the reordering delay, which FFmpeg otherwise guesses by decoding a few
    frames.

    Raises:
        UnreadableVideo: the file cannot be opened, or has no video stream that can be decoded.
    """
    if timing.reorder >= 0:
        with contextlib.suppress(*READ_ERRORS):
            container = av.open(open_file(), mode="r", metadata_errors="replace", options=_WITHOUT_GUESSING)
            videos = container.streams.video  # among several, only decoding tells which one to use
            if len(videos) == 1 and videos[0].codec_context is not None and videos[0].codec_context.name == codec:
                _prepare(container, videos[0])
                videos[0].codec_context.reorder_depth = timing.reorder
                return container, videos[0]
            container.close()
    return open_video(open_file())


def _prepare(container: InputContainer, stream: VideoStream) -> None:
    """Read only one stream, and decode it with one thread."""
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all  # the demuxer skips the sound without reading it
    # A decoder's threads restart at every seek and delay its first frame. Workers run in parallel.
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1


def probe(open_file: Callable[[], str | BinaryIO]) -> Probe:
    """Build the frame table of the video that `open_file()` opens.

    Demux every packet and decode the first frames; decode the whole file only where neither the container's times can
    be trusted nor the decoder's predicted. In a file that is not decoded, a frame that can no longer be decoded has its
    place in the table and is not counted as damaged: a reader meets the damage when it reads the frame.

    Raises:
        UnreadableVideo: the file cannot be opened, or no frame can be decoded.
    """
    return _probe(open_file, whole=False) or _probe(open_file, whole=True)


def _probe(open_file: Callable[[], str | BinaryIO], whole: bool) -> Probe | None:
    """Return the properties of a file, decoding all of it or the first frames; None if the latter is not enough."""
    container, stream = open_video(open_file())
    with container:
        context, formats = stream.codec_context, container.format.name
        codec, guessed = context.name, context.reorder_depth  # the decoder may change the delay later
        timed = bool(_TIMED_CONTAINERS & set(formats.split(","))) and codec not in _HIDDEN_FRAME_CODECS
        model = None if timed or whole else prediction(formats, context)
        whole = whole or not (timed or model)
        content = _demux(container, stream, None if whole else _PROBE, model)
        packets, frames = content.packets, content.frames
        timing: Timing | None
        if whole:
            if not frames:
                raise UnreadableVideo("has no frame that can be decoded")
            timing = _frame_timing(codec, packets, frames)
        elif model:
            timing = _predicted_timing(codec, content, model.frames(packets, context.reorder_depth))
        else:
            timing = _packet_timing(codec, packets, frames)
            if timing is not None and codec in _GUESSED_CODECS:
                timing = replace(timing, reorder=guessed)
        if timing is None:
            return None
        fps = float(stream.average_rate or stream.guessed_rate or 0) or 25.0
        return Probe(
            timing,
            content.width,
            content.height,
            round(content.rotation / 90) * 90 % 360,
            float(stream.sample_aspect_ratio or 0) or 1.0,
            fps,
            codec,
            _missing(stream, packets, fps),
            content.damaged,
        )


def _missing(stream: VideoStream, packets: Packets, fps: float) -> int:
    """Return how many frames the file announces but does not hold; 0 if it announces none."""
    present = len(packets) - len(packets.corrupt)
    if stream.frames:  # mp4, mov, avi
        return max(0, stream.frames - present)
    tag = _DURATION.match(stream.metadata.get("DURATION", ""))  # mkv, webm
    times = [time for time in packets.pts if time is not None]
    if tag is None or not times:
        return 0
    announced = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    # The last frame lasts about as long as a frame does; half of another covers rounding.
    missing = (announced - float(max(times) * stream.time_base)) * fps - 1
    return round(missing) if missing > 0.5 else 0


def _demux(
    container: InputContainer, stream: VideoStream, limit: int | None, model: Prediction | None = None
) -> _Content:
    """Read all packets, and decode the first `limit` frames (None: all).

    A model receives every packet; where it cannot predict the frames, the rest of the file is not read.
    """
    content = _Content()
    packets, frames = content.packets, content.frames
    iterator = container.demux(stream)
    while True:
        try:
            packet = next(iterator)
        except StopIteration:
            break
        except READ_ERRORS:  # the rest of the file is damaged; what was read so far counts
            break
        if packet.size:
            if packet.is_keyframe:
                packets.keys.append(len(packets))
            if packet.is_discard:
                packets.discarded.add(len(packets))
            if packet.is_corrupt:
                packets.corrupt.add(len(packets))
            packets.pts.append(packet.pts)
            packets.dts.append(packet.dts)
            if model is not None and not model.feed(bytes(packet)):
                break
        if limit is None or len(frames) < limit:
            for frame in decode(packet):
                if not len(frames):
                    content.rotation, content.width, content.height = frame.rotation, frame.width, frame.height
                if frame.key_frame:
                    frames.keys.append(len(frames))
                frames.pts.append(frame.pts)
                frames.dts.append(frame.dts)
                content.damaged += frame.is_corrupt
    return content


def decode(packet: av.Packet) -> list[av.VideoFrame]:
    """Return the frames that a packet completes; none if it is damaged."""
    try:
        return packet.decode()
    except READ_ERRORS:
        return []


def drain(stream: VideoStream) -> list[av.VideoFrame]:
    """Return the frames that a decoder still holds; it then accepts no packets."""
    try:
        return stream.codec_context.decode(None)
    except READ_ERRORS:
        return []


def _packet_timing(codec: str, packets: Packets, frames: Frames) -> Timing | None:
    """Return the table made from the presentation times of packets; None if they cannot be trusted."""
    hidden = packets.discarded | packets.corrupt
    times = [time for i, time in enumerate(packets.pts) if i not in hidden] if hidden else packets.pts
    if not frames or None in times or len(set(times)) < len(times):
        return None
    labels = np.array(sorted(times), np.int64)
    if frames.pts[:_PROBE] != labels[: len(frames)].tolist()[:_PROBE]:
        return None
    keys = sorted((i for i in packets.keys if i not in hidden), key=packets.pts.__getitem__)
    if codec in _CANVAS_CODECS or not keys or packets.pts[keys[0]] != labels[0]:
        keys = []
    numbers = np.searchsorted(labels, [packets.pts[i] for i in keys]).tolist()
    return _timing("pts", labels, numbers, packets, keys)


def _predicted_timing(codec: str, content: _Content, predicted: Frames | None) -> Timing | None:
    """Return the table made from the times of predicted frames; None if they cannot be trusted."""
    decoded, packets = content.frames, content.packets
    if content.damaged or packets.discarded or packets.corrupt or predicted is None or not decoded:
        return None
    return _frame_timing(codec, packets, predicted) if predicted.first(len(decoded)) == decoded else None


def _frame_timing(codec: str, packets: Packets, frames: Frames) -> Timing:
    """Return the table made from the times of all frames."""
    # Packets can be matched to frames only if every keyframe packet became a key frame.
    seekable = codec not in _CANVAS_CODECS and len(packets.keys) == len(frames.keys) and frames.keys[:1] == [0]
    for clock, times in (("pts", frames.pts), ("dts", frames.dts)):
        labels = _extrapolated(times)
        if labels is not None:
            return _timing(clock, labels, frames.keys, packets, packets.keys if seekable else [])
    return _timing("count", np.arange(len(frames)), [], packets, [])


def _extrapolated(times: list[int | None]) -> np.ndarray | None:
    """Fill missing times at the end by counting on from the last one; None if others are missing or do not increase.

    Frames that are still in the decoder when the file ends have no times.
    """
    known = times.index(None) if None in times else len(times)
    if known == 0 or times.count(None) < len(times) - known:
        return None
    labels = np.array(times[:known], np.int64)
    if (labels[1:] <= labels[:-1]).any():
        return None
    return np.concatenate([labels, labels[-1] + np.arange(1, len(times) - known + 1)])


def _timing(clock: str, labels: np.ndarray, frames: Sequence[int], packets: Packets, keys: list[int]) -> Timing:
    """Return the table with the packets `keys`, which hold the keyframes `frames`, as seek points."""
    if not keys:
        return Timing(clock, labels, np.zeros(1, np.int64), np.full((1, 2), NO_TIME, np.int64))
    times = [[NO_TIME if t is None else t for t in (packets.pts[i], packets.dts[i])] for i in keys]
    return Timing(clock, labels, np.array(frames, np.int64), np.array(times, np.int64))
