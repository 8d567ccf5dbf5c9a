"""Build the frame table of a video file: the timestamp of every frame, and the keyframes that decoding can start at."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import BinaryIO, NamedTuple

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream

from digan.errors import UnreadableVideo
from digan.wording import reason

# Containers that store a presentation time for every packet, with one shown frame per packet. For others FFmpeg guesses
# the times (AVI stores none, and with B-frames the guesses are wrong), so such a file is decoded once.
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


class _Packet(NamedTuple):
    pts: int | None
    dts: int | None
    key: bool
    discard: bool  # by an edit list
    corrupt: bool


class _Frame(NamedTuple):
    pts: int | None
    dts: int | None
    key: bool
    corrupt: bool
    rotation: int
    width: int
    height: int


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
    _use_one_thread(stream)
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
                _use_one_thread(videos[0])
                videos[0].codec_context.reorder_depth = timing.reorder
                return container, videos[0]
            container.close()
    return open_video(open_file())


def _use_one_thread(stream: VideoStream) -> None:
    """Use one thread: a decoder's threads restart at every seek and delay its first frame. Workers run in parallel."""
    stream.thread_type = "NONE"
    stream.codec_context.thread_count = 1


def probe(open_file: Callable[[], str | BinaryIO]) -> Probe:
    """Build the frame table of the video that `open_file()` opens.

    Demux every packet and decode the first frames; decode the whole file only where the container's times cannot be
    trusted.

    Raises:
        UnreadableVideo: the file cannot be opened, or no frame can be decoded.
    """
    container, stream = open_video(open_file())
    with container:
        reorder = stream.codec_context.reorder_depth  # guessed from the first frames; the decoder may change it later
        packets, frames = _demux(container, stream, _PROBE)
        if not frames:
            raise UnreadableVideo("has no frame that can be decoded")
        first = frames[0]
        codec = stream.codec_context.name
        fps = float(stream.average_rate or stream.guessed_rate or 0) or 25.0
        pixel_aspect = float(stream.sample_aspect_ratio or 0) or 1.0
        timing = _packet_timing(container.format.name, codec, packets, frames)
        missing = _missing(stream, packets, fps)
    if timing is None:
        container, stream = open_video(open_file())
        with container:
            packets, frames = _demux(container, stream, None)
        timing = _decoded_timing(codec, packets, frames)
    elif codec in _GUESSED_CODECS:
        timing = replace(timing, reorder=reorder)
    rotation = round(first.rotation / 90) * 90 % 360
    damaged = sum(frame.corrupt for frame in frames)
    return Probe(timing, first.width, first.height, rotation, pixel_aspect, fps, codec, missing, damaged)


def _missing(stream: VideoStream, packets: list[_Packet], fps: float) -> int:
    """Return how many frames the file announces but does not hold; 0 if it announces none."""
    present = sum(not packet.corrupt for packet in packets)
    if stream.frames:  # mp4, mov, avi
        return max(0, stream.frames - present)
    tag = _DURATION.match(stream.metadata.get("DURATION", ""))  # mkv, webm
    times = [packet.pts for packet in packets if packet.pts is not None]
    if tag is None or not times:
        return 0
    announced = int(tag[1]) * 3600 + int(tag[2]) * 60 + float(tag[3])
    # The last frame lasts about as long as a frame does; half of another covers rounding.
    missing = (announced - float(max(times) * stream.time_base)) * fps - 1
    return round(missing) if missing > 0.5 else 0


def _demux(container: InputContainer, stream: VideoStream, limit: int | None) -> tuple[list[_Packet], list[_Frame]]:
    """Return all packets, and the first `limit` frames (None: all) in the decoder's output order."""
    packets: list[_Packet] = []
    frames: list[_Frame] = []
    iterator = container.demux(stream)
    while True:
        try:
            packet = next(iterator)
        except StopIteration:
            break
        except READ_ERRORS:  # the rest of the file is damaged; what was read so far counts
            break
        if packet.size:
            packets.append(_Packet(packet.pts, packet.dts, packet.is_keyframe, packet.is_discard, packet.is_corrupt))
        if limit is None or len(frames) < limit:
            frames += [
                _Frame(f.pts, f.dts, f.key_frame, f.is_corrupt, f.rotation, f.width, f.height) for f in decode(packet)
            ]
    return packets, frames


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


def _packet_timing(formats: str, codec: str, packets: list[_Packet], frames: list[_Frame]) -> Timing | None:
    """Return the table made from the presentation times of packets; None if they cannot be trusted."""
    if not _TIMED_CONTAINERS & set(formats.split(",")) or codec in _HIDDEN_FRAME_CODECS:
        return None
    shown = [p for p in packets if not (p.discard or p.corrupt)]
    times = [p.pts for p in shown]
    if None in times or len(set(times)) < len(times):
        return None
    labels = np.array(sorted(times), np.int64)
    if [f.pts for f in frames[:_PROBE]] != labels[: len(frames)].tolist()[:_PROBE]:
        return None
    keys = sorted((p for p in shown if p.key), key=lambda p: p.pts)
    if codec in _CANVAS_CODECS or not keys or keys[0].pts != labels[0]:
        keys = []
    return _timing("pts", labels, [(int(np.searchsorted(labels, p.pts)), p) for p in keys])


def _decoded_timing(codec: str, packets: list[_Packet], frames: list[_Frame]) -> Timing:
    """Return the table made from the times of all decoded frames."""
    keys = [p for p in packets if p.key]
    key_frames = [i for i, f in enumerate(frames) if f.key]
    # Packets can be matched to frames only if every keyframe packet became a key frame.
    seekable = codec not in _CANVAS_CODECS and len(keys) == len(key_frames) and key_frames[:1] == [0]
    for clock in ("pts", "dts"):
        labels = _extrapolated([getattr(f, clock) for f in frames])
        if labels is not None:
            return _timing(clock, labels, list(zip(key_frames, keys, strict=True)) if seekable else [])
    return _timing("count", np.arange(len(frames)), [])


def _extrapolated(times: list[int | None]) -> np.ndarray | None:
    """Fill missing times at the end by counting on from the last one; None if others are missing or do not increase.

    Frames that are still in the decoder when the file ends have no times.
    """
    known = next((i for i, t in enumerate(times) if t is None), len(times))
    if known == 0 or any(t is not None for t in times[known:]):
        return None
    labels = np.array(times[:known], np.int64)
    if (np.diff(labels) <= 0).any():
        return None
    return np.concatenate([labels, labels[-1] + np.arange(1, len(times) - known + 1)])


def _timing(clock: str, labels: np.ndarray, keys: list[tuple[int, _Packet]]) -> Timing:
    if not keys:
        return Timing(clock, labels, np.zeros(1, np.int64), np.full((1, 2), NO_TIME, np.int64))
    times = [[NO_TIME if t is None else t for t in (p.pts, p.dts)] for _, p in keys]
    return Timing(clock, labels, np.array([i for i, _ in keys], np.int64), np.array(times, np.int64))
