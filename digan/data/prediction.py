"""Predict which frames a decoder makes of packets, and their times, without decoding the packets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

from av.video.codeccontext import VideoCodecContext

_START = b"\0\0\1"  # followed by a byte that tells what starts
_VOP, _SEQUENCE = _START + b"\xb6", _START + b"\xb0"
_LAYER = re.compile(rb"\x00\x00\x01[\x20-\x2f](.*?)(?=\x00\x00\x01|\Z)", re.DOTALL)
_DIVX = re.compile(rb"\x00\x00\x01\xb2DivX\d+(?:Build|b)\d+(p?)")  # ends in "p" for a packed bitstream
_I, _B, _NOT_CODED = 0, 2, -1  # types of VOPs; the others, 1 and 3, are P-frames
_SHORT = 7  # bytes up to which the decoder does not look for a VOP to hold


@dataclass
class Packets:
    """What the frame table needs of the packets of a file."""

    pts: list[int | None] = field(default_factory=list)  # of each packet
    dts: list[int | None] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)  # numbers of the packets of keyframes
    discarded: set[int] = field(default_factory=set)  # of those that an edit list leaves out
    corrupt: set[int] = field(default_factory=set)

    def __len__(self) -> int:
        return len(self.pts)


@dataclass
class Frames:
    """What the frame table needs of frames, in the decoder's output order."""

    pts: list[int | None] = field(default_factory=list)  # of each frame
    dts: list[int | None] = field(default_factory=list)
    keys: list[int] = field(default_factory=list)  # numbers of the keyframes

    def __len__(self) -> int:
        return len(self.pts)

    def first(self, count: int) -> Frames:
        """Return the first frames."""
        return Frames(self.pts[:count], self.dts[:count], [key for key in self.keys if key < count])


class Prediction(Protocol):
    """Follows a decoder through the packets of a file."""

    def feed(self, content: bytes) -> bool:
        """Take the next packet; return whether the frames can still be predicted."""
        ...

    def frames(self, packets: Packets, delay: int) -> Frames | None:
        """Return the frames that the decoder makes of the packets taken; None if they cannot be predicted.

        Args:
            packets: what the demuxer says about these packets.
            delay: frames that the decoder holds back for reordering.
        """
        ...


def prediction(formats: str, context: VideoCodecContext) -> Prediction | None:
    """Return a prediction for a file, given the names of its container format and its codec; None if there is none.

    Only AVI is supported, which stores a frame per packet but no presentation times.
    """
    if "avi" not in formats.split(","):
        return None
    if context.name == "mpeg4":
        return Mpeg4(context.extradata or b"")
    return IntraOnly() if context.codec.intra_only else None


class IntraOnly:
    """A codec for which each packet is a frame of its own, such as Motion JPEG."""

    def feed(self, content: bytes) -> bool:
        """Take the next packet."""
        return True

    def frames(self, packets: Packets, delay: int) -> Frames | None:
        """Return a key frame per packet."""
        return None if delay else Frames(packets.pts, packets.dts, list(range(len(packets))))


class Mpeg4:
    """FFmpeg's decoder of MPEG-4 part 2, which decodes one VOP (a coded picture) with each packet.

    XviD and DivX write packed bitstreams to AVI: a packet holds two VOPs, an anchor (an I- or P-frame) and the B-frame
    after it, and for balance a later packet holds a VOP that is not coded. The decoder holds the second VOP, decodes it
    with the next packet, and holds the VOP of that one if it is a B-frame. A VOP that is not coded makes no frame.

    A coded VOP that the decoder would reject as damaged counts as a frame.

    Args:
        extradata: the headers that the container stores apart from the packets.
    """

    def __init__(self, extradata: bytes) -> None:
        self._kinds: list[int] = []  # type of the VOP that is decoded with each packet
        self._held: int | None = None  # type of the VOP that is decoded with the next packet
        self._packed: bool | None = None
        self._layer: bytes | None = None  # the header that describes the stream
        self._time_bits = 0  # length of the time in a VOP; 0: unknown
        self._read_headers(extradata)

    def feed(self, content: bytes) -> bool:
        """Take the next packet."""
        start = content.find(_VOP)
        if start < 0 or (start and not self._read_headers(content[:start])):
            return False
        kind = self._decoded(content, start)
        if kind is None:
            return False
        self._kinds.append(kind)
        return True

    def frames(self, packets: Packets, delay: int) -> Frames | None:
        """Return the frames: with a delay, an anchor comes out with the next anchor, a B-frame with its own packet."""
        kinds = self._kinds
        if len(kinds) != len(packets) or not kinds or kinds[-1] == _NOT_CODED:  # a frame is repeated at the end
            return None
        # The decoder drops a B-frame that does not follow two anchors; without a delay, it starts one at a B-frame.
        coded = [kind for kind in kinds if kind != _NOT_CODED]
        if coded[0] != _I or _B in (coded[:2] if delay else coded):
            return None
        shown, released = [], []  # the packets that hold each frame's VOP, and those with which it comes out
        waiting = -1  # the packet of the latest anchor
        for packet, kind in enumerate(kinds):
            if kind == _NOT_CODED:
                continue
            frame = packet
            if delay and kind != _B:
                frame, waiting = waiting, packet
            if frame >= 0:
                shown.append(frame)
                released.append(packet)
        dts = [packets.dts[i] for i in released]
        if waiting >= 0:  # comes out at the end, without a time
            shown.append(waiting)
            dts.append(None)
        return Frames([packets.pts[i] for i in shown], dts, [n for n, i in enumerate(shown) if kinds[i] == _I])

    def _read_headers(self, headers: bytes) -> bool:
        """Read what precedes a VOP; return whether the stream stays the same."""
        for suffix in _DIVX.findall(headers):
            if self._packed is None:
                self._packed = suffix == b"p"
            elif self._packed != (suffix == b"p"):
                return False
        if layer := _LAYER.search(headers):
            if self._layer is None:
                self._layer, self._time_bits = layer[1], _time_bits(layer[1])
            return layer[1] == self._layer
        return True

    def _decoded(self, content: bytes, start: int) -> int | None:
        """Return the type of the VOP that is decoded with a packet, whose first VOP is at `start`; None if unknown."""
        if self._held is not None and content.find(_START) == content.find(_SEQUENCE):
            self._held = None  # the decoder discards it
        if self._held is None:
            decoded = self._kind(content, start)
            if not self._packed or decoded in (None, _NOT_CODED):
                return decoded
            start = content.find(_VOP, start + 4)
            if start < 0:
                return decoded
            if len(content) - start <= _SHORT:  # depends on where the decoder stops reading
                return None
        else:
            decoded, self._held = self._held, None
            if len(content) <= _SHORT:
                return decoded
        kind = self._kind(content, start)
        if kind is None:
            return None
        if not content[start + 4] & 0x40:  # an I- or B-frame, even if it is not coded
            self._held = kind
        return decoded

    def _kind(self, content: bytes, start: int) -> int | None:
        """Return the type of the VOP at `start`; None if unknown."""
        # Type: 2 bits; seconds: as many ones, and a zero; a one; time; a one; whether it is coded.
        header = int.from_bytes(content[start + 4 : start + 12], "big") << 8 * max(start + 12 - len(content), 0)
        zero = (~header & (1 << 62) - 1).bit_length()  # the place of that zero, counted from 1 for the last bit
        coded = zero - 1 - 1 - self._time_bits - 1
        if coded < 1 or not self._time_bits or not header >> coded & 1:
            return None
        return header >> 62 if header >> (coded - 1) & 1 else _NOT_CODED


def _time_bits(layer: bytes) -> int:
    """Return the length of the time in a VOP, given the header of a video object layer; 0 if it cannot be read."""
    bits = "".join(f"{byte:08b}" for byte in layer)
    place = 9  # after random access and type

    def read(count: int) -> int:
        nonlocal place
        place += count
        return int(bits[place - count : place] or "0", 2)

    if read(1):
        read(7)  # version and priority
    if read(4) == 15:
        read(16)  # pixel aspect
    if read(1):
        read(3)  # chroma format and low delay
        if read(1):
            read(79)  # buffer sizes
    if read(2):  # not a rectangle
        return 0
    read(1)
    resolution = read(16)
    return max((resolution - 1).bit_length(), 1) if resolution and place <= len(bits) else 0
