"""Predict which frames a decoder makes of packets, and their times, without decoding the packets."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from av.video.codeccontext import VideoCodecContext

_START = b"\0\0\1"  # followed by a byte that tells what starts
_VOP, _GROUP, _SEQUENCE = _START + b"\xb6", _START + b"\xb3", _START + b"\xb0"
_LAYER = re.compile(rb"\x00\x00\x01[\x20-\x2f](.*?)(?=\x00\x00\x01|\Z)", re.DOTALL)
_DIVX = re.compile(rb"\x00\x00\x01\xb2DivX\d+(?:Build|b)\d+(p?)")  # ends in "p" for a packed bitstream
_I, _B = 0, 2  # types of VOPs; the others, 1 and 3, are P-frames
_NO_FRAME = -1  # a VOP that is not coded, or a B-frame that is not between its anchors
_LEADING_ONES = np.array([8 - (byte ^ 255).bit_length() for byte in range(256)])
_TICKS = 0xFFFF  # the decoder keeps differences of times in 16 bits: they wrap where a file repeats a part of itself
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
        self._headers: list[bytes] = []  # 8 bytes of each VOP, after its start code
        self._packets = 0
        self._pairs: set[int] = set()  # packets with two VOPs
        self._short: set[int] = set()  # packets that the decoder does not search for a VOP to hold
        self._sequences: set[int] = set()  # packets that start a sequence
        self._groups: dict[int, int] = {}  # time in seconds of the groups that start with a VOP
        self._packed: bool | None = None
        self._layer: bytes | None = None  # the header that describes the stream
        self._resolution = 0  # ticks per second; 0: unknown
        self._read_headers(extradata)

    def feed(self, content: bytes) -> bool:
        """Take the next packet."""
        start = content.find(_VOP)
        if start:
            if start < 0 or not self._read_headers(content[:start]):
                return False
            if content.find(_START) == content.find(_SEQUENCE):
                self._sequences.add(self._packets)
        self._headers.append(content[start + 4 : start + 12].ljust(8, b"\0"))
        second = content.find(_VOP, start + 4)
        if second >= 0:
            # What the decoder makes of a short VOP depends on where it stops reading the previous one.
            if not self._packed or len(content) - second <= _SHORT or content.find(_VOP, second + 4) >= 0:
                return False
            self._headers.append(content[second + 4 : second + 12].ljust(8, b"\0"))
            self._pairs.add(self._packets)
        elif len(content) <= _SHORT:
            self._short.add(self._packets)
        self._packets += 1
        return True

    def frames(self, packets: Packets, delay: int) -> Frames | None:
        """Return the frames: with a delay, an anchor comes out with the next anchor, a B-frame with its own packet."""
        kinds = self._decoded() if 0 < len(packets) == self._packets else None
        if kinds is None or kinds[-1] == _NO_FRAME:  # a frame is repeated at the end
            return None
        # The decoder drops a B-frame that does not follow two anchors; without a delay, it starts one at a B-frame.
        coded = [kind for kind in kinds if kind != _NO_FRAME]
        if coded[0] != _I or _B in (coded[:2] if delay else coded):
            return None
        shown, released = [], []  # the packets that hold each frame's VOP, and those with which it comes out
        waiting = -1  # the packet of the latest anchor
        for packet, kind in enumerate(kinds):
            if kind == _NO_FRAME:
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
                self._layer, self._resolution = layer[1], _resolution(layer[1])
            elif layer[1] != self._layer:
                return False
        group = headers.rfind(_GROUP)
        if group >= 0:
            code = int.from_bytes(headers[group + 4 : group + 7], "big")  # 5, 6 and 6 bits, a one before the last
            self._groups[len(self._headers)] = (code >> 19) * 3600 + (code >> 13 & 63) * 60 + (code >> 6 & 63)
        return True

    def _decoded(self) -> list[int] | None:
        """Return the type of the VOP that is decoded with each packet; None if the decoder would lose a coded VOP."""
        vops = _Vops(self._headers, self._resolution, self._groups)
        if not vops.readable:
            return None
        kinds: list[int] = []
        held: int | None = None  # the type of a VOP that is decoded with the next packet
        vop = 0
        for packet in range(self._packets):
            candidate = None  # a VOP that the decoder may hold
            if held is None:
                kinds.append(vops.kind(vop))
                if packet in self._pairs:
                    if kinds[-1] == _NO_FRAME:
                        return None
                    vop += 1
                    candidate = vop
            elif packet in self._pairs or packet in self._sequences:
                return None
            else:
                kinds.append(held)
                held = None
                if packet not in self._short:
                    candidate = vop
            if candidate is not None:
                holds = vops.types[candidate] in (_I, _B)  # the decoder tests only one bit of the type
                if holds != vops.coded[candidate]:
                    return None
                if holds:
                    held = vops.kind(candidate)
                    if held == _NO_FRAME:
                        return None
            vop += 1
        return kinds


class _Vops:
    """The headers of VOPs, and the times that follow from them.

    Args:
        headers: 8 bytes of each VOP.
        resolution: ticks per second.
        groups: time in seconds of the groups that start with a VOP.
    """

    def __init__(self, headers: list[bytes], resolution: int, groups: dict[int, int]) -> None:
        # Type: 2 bits; as many ones as seconds, a zero, a one; ticks, a one; whether it is coded.
        bits = np.frombuffer(b"".join(headers), ">u8").astype(np.uint64)
        seconds = _LEADING_ONES[bits >> np.uint64(54) & np.uint64(255)]
        length = max((resolution - 1).bit_length(), 1)
        ticks = bits >> (60 - length - seconds).astype(np.uint64)
        ones = bits >> (59 - length - seconds).astype(np.uint64) & np.uint64(1)
        coded = bits >> (58 - length - seconds).astype(np.uint64) & np.uint64(1)
        self.readable = resolution > 0 and bool(ones.all()) and bool((seconds < 8).all())
        self.types: list[int] = (bits >> np.uint64(62)).tolist()
        self.coded: list[bool] = coded.astype(bool).tolist()
        self._seconds: list[int] = seconds.tolist()
        self._ticks: list[int] = (ticks & np.uint64((1 << length) - 1)).tolist()
        self._resolution, self._groups = resolution, groups
        self._second = self._previous = 0  # of the latest anchor or group, and of the anchor before
        self._anchor = self._distance = 0  # time of the latest anchor in ticks, and since the one before

    def kind(self, vop: int) -> int:
        """Return the type of a VOP, or `_NO_FRAME`; to be called in the order of decoding."""
        kind = self.types[vop]
        if vop in self._groups:
            self._second = self._groups[vop]
        if kind == _B:
            time = (self._previous + self._seconds[vop]) * self._resolution + self._ticks[vop]
            between = 0 < (time - self._anchor + self._distance & _TICKS) < self._distance
            return _B if between and self.coded[vop] else _NO_FRAME
        self._previous = self._second
        self._second += self._seconds[vop]
        time = self._second * self._resolution + self._ticks[vop]
        self._distance, self._anchor = time - self._anchor & _TICKS, time
        return kind if self.coded[vop] else _NO_FRAME


def _resolution(layer: bytes) -> int:
    """Return the ticks per second of the time in a VOP, given the header of a layer; 0 if it cannot be read."""
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
    return resolution if place <= len(bits) else 0
