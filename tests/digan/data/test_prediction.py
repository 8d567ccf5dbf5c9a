"""Frames predicted from packets: VOPs written bit by bit, and the conditions under which there is no prediction."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from digan.data.prediction import Frames, IntraOnly, Mpeg4, Packets, prediction

START = b"\0\0\1"
CODES = "IPBS"


def packed_bits(bits: str) -> bytes:
    bits += "0" * (-len(bits) % 8)
    return bytes(int(bits[i : i + 8], 2) for i in range(0, len(bits), 8))


def layer(resolution=25, version=False, aspect=False, control="", shape=0) -> bytes:
    """Return a header that describes a stream whose times count `resolution` ticks per second."""
    bits = "0" + "00000001"
    bits += "1" + "0010" + "001" if version else "0"
    bits += "1111" + "00001100" + "00001011" if aspect else "0001"
    bits += {"": "0", "delay": "1" + "01" + "0" + "0", "buffers": "1" + "01" + "0" + "1" + "1" * 79}[control]
    return START + b"\x20" + packed_bits(f"{bits}{shape:02b}1{resolution:016b}1") + b"\xff\xff"


def vop(kind: str, time: int, coded=True, second=0, resolution=25, size=40) -> bytes:
    """Return a VOP shown `time` ticks into a second that is `second` seconds after the reference."""
    count = max((resolution - 1).bit_length(), 1)
    bits = f"{CODES.index(kind):02b}" + "1" * second + "01" + f"{time:0{count}b}" + "1" + ("1" if coded else "0")
    content = START + b"\xb6" + packed_bits(bits)
    return content + b"\xff" * (size - len(content)) if coded else content


PACKED = START + b"\xb2DivX503b1393p"
UNPACKED = START + b"\xb2DivX503b1393"


def predicted(packets: list[bytes], extradata: bytes | None = None, delay: int = 1) -> list[tuple] | None:
    """Return (packet whose picture it is, packet with which it comes out, whether it is a keyframe) of each frame."""
    model = Mpeg4(layer() if extradata is None else extradata)
    if not all(model.feed(content) for content in packets):
        return None
    numbers = list(range(len(packets)))
    frames = model.frames(Packets(pts=numbers, dts=numbers), delay)
    if frames is None:
        return None
    return [(p, d, i in frames.keys) for i, (p, d) in enumerate(zip(frames.pts, frames.dts, strict=True))]


def test_an_anchor_comes_out_with_the_next_anchor():
    packets = [vop("I", 0), vop("P", 3), vop("B", 1), vop("B", 2), vop("I", 5), vop("B", 4), vop("S", 6)]
    expected = [(0, 1, True), (2, 2, False), (3, 3, False), (1, 4, False), (5, 5, False), (4, 6, True)]
    expected.append((6, None, False))
    assert predicted(packets) == expected


def test_without_a_delay_each_packet_is_a_frame():
    packets = [vop("I", 0), vop("P", 1), vop("S", 2), vop("I", 3)]
    assert predicted(packets, delay=0) == [(0, 0, True), (1, 1, False), (2, 2, False), (3, 3, True)]
    assert predicted([*packets, vop("B", 2)], delay=0) is None


@pytest.mark.parametrize("control", ["", "delay", "buffers"])
@pytest.mark.parametrize("aspect", [False, True])
@pytest.mark.parametrize("version", [False, True])
@pytest.mark.parametrize("resolution", [1, 2, 3, 25, 32, 33, 30000, 32767])
def test_the_time_of_a_vop_is_read_with_any_header(resolution, version, aspect, control):
    header = layer(resolution, version, aspect, control)
    last = resolution - 1
    packets = [vop("I", last, resolution=resolution), vop("P", last, second=2, resolution=resolution)]
    for time, second, shown in [(last, 1, True), (last, 0, False), (last, 2, False), (0, 1, resolution > 1 or None)]:
        b = vop("B", time, second=second, resolution=resolution)
        frames = predicted([*packets, b, vop("P", last, second=1, resolution=resolution)], header)
        # Seconds count from the anchor before: a B-frame is shown after that one and before the next.
        if shown is not None:
            assert [p for p, _, _ in frames] == ([0, 2, 1, 3] if shown else [0, 1, 3])


def group(hours: int, minutes: int, seconds: int) -> bytes:
    return START + b"\xb3" + packed_bits(f"{hours:05b}{minutes:06b}1{seconds:06b}")


def test_seconds_count_from_the_start_of_a_group():
    start = [group(1, 2, 3) + vop("I", 5), vop("P", 4, second=1)]  # a second less a tick later
    b_frames = [vop("B", 4), vop("B", 5), vop("B", 6), vop("B", 3, second=1), vop("B", 4, second=1)]
    frames = predicted([*start, *b_frames, vop("P", 6)])
    assert [p for p, _, _ in frames] == [0, 4, 5, 1, 7]
    later = (1 * 60 + 2) * 60 + 3 + 1
    hours, minutes, seconds = later // 3600, later // 60 % 60, later % 60
    frames = predicted([*start, group(hours, minutes, seconds) + vop("I", 5), vop("B", 5), vop("B", 4), vop("P", 6)])
    assert [p for p, _, _ in frames] == [0, 1, 2, 5]  # the keyframe is shown one tick after the anchor before


def test_times_that_go_back_wrap():
    # The latest anchor is 5 ticks before the one before it, and B-frames are taken up to 5 ticks before it.
    packets = [vop("I", 0), vop("P", 10), vop("P", 5), vop("B", 4), vop("B", 5), vop("B", 7), vop("P", 20)]
    assert [p for p, _, _ in predicted(packets)] == [0, 1, 3, 2, 6]


def test_a_packed_b_frame_is_decoded_with_the_next_packet():
    packets = [
        PACKED + vop("I", 0),
        vop("P", 3) + vop("B", 1),
        vop("B", 2),
        vop("P", 0, coded=False),
        vop("I", 5) + vop("B", 4),
        vop("P", 5, coded=False),
        vop("P", 6),
    ]
    expected = [(0, 1, True), (2, 2, False), (3, 3, False), (1, 4, False), (5, 5, False), (4, 6, True)]
    expected.append((6, None, False))
    assert predicted(packets) == expected
    assert predicted([UNPACKED + packets[0][len(PACKED) :], *packets[1:]]) is None
    assert predicted(packets[:-2]) == [*expected[:4], (4, None, True)]  # the last B-frame is not decoded
    assert predicted([*packets[:4], PACKED + vop("I", 5), packets[-1]]) is not None
    assert predicted([*packets[:4], UNPACKED + vop("I", 5), packets[-1]]) is None


def test_a_vop_that_is_not_coded_makes_no_frame():
    packets = [vop("I", 0), vop("P", 1, coded=False), vop("P", 4), vop("P", 5, coded=False), vop("P", 6)]
    assert predicted(packets) == [(0, 2, True), (2, 4, False), (4, None, False)]
    assert predicted(packets, delay=0) == [(0, 0, True), (2, 2, False), (4, 4, False)]
    assert predicted(packets[:-1]) is None  # the decoder repeats the last frame


@pytest.mark.parametrize("packed", [PACKED, UNPACKED])
def test_the_time_of_a_vop_that_is_not_coded_counts(packed):
    packets = [packed + vop("I", 0), vop("P", 2, coded=False), vop("P", 6), vop("B", 2), vop("B", 3), vop("P", 7)]
    assert [p for p, _, _ in predicted([*packets[:1], *packets[2:]])] == [0, 2, 3, 1, 4]
    assert [p for p, _, _ in predicted(packets)] == [0, 4, 2, 5]


KEY, P, B = vop("I", 0), vop("P", 3), vop("B", 1)
LOST = {  # the decoder would lose a VOP, or what it does is not known
    "no VOP": [KEY, P, b"\xff" * 40],
    "empty": [KEY, P, b""],
    "cut off": [KEY, P, START + b"\xb6"],
    "no one after the time": [KEY, P, START + b"\xb6" + b"\x90" + bytes(30)],
    "two anchors in a packet": [PACKED + KEY, P + vop("P", 4)],
    "three VOPs in a packet": [PACKED + KEY, P + B + vop("B", 2)],
    "two VOPs in a packet that is not packed": [KEY, P + B],
    "two VOPs while one is held": [PACKED + KEY, P + B, vop("B", 2) + vop("B", 2)],
    "an anchor while a VOP is held": [PACKED + KEY, P + B, vop("P", 4)],
    "a sequence while a VOP is held": [PACKED + KEY, P + B, START + b"\xb0\xf5" + vop("I", 4)],
    "a long B-frame without a picture while a VOP is held": [
        PACKED + KEY,
        P + B,
        vop("B", 2, coded=False) + b"\xff\xff",
    ],
    "a packed B-frame outside its anchors": [PACKED + KEY, P + vop("B", 4)],
    "a short second VOP": [PACKED + KEY, P + vop("B", 1, size=7)],
    "a VOP after one without a picture": [PACKED + KEY, vop("P", 2, coded=False) + B],
    "another layer": [KEY, P, layer(30) + vop("I", 4)],
    "no keyframe first": [P, P],
    "a B-frame after one anchor": [vop("I", 5), vop("B", 1), vop("P", 6)],
    "another shape": [layer(shape=1) + KEY, P],
}


@pytest.mark.parametrize("name", LOST)
def test_there_is_no_prediction_where_the_decoder_would_lose_frames(name):
    extradata = b"" if name == "another shape" else None
    assert predicted(LOST[name], extradata) is None


def test_limits_of_sizes():
    assert predicted([PACKED + KEY, P + vop("B", 1, size=8)]) is not None
    assert predicted([PACKED + KEY, P + B, vop("P", 3, coded=False) + b"\xff" * 2, vop("P", 4)]) is not None
    assert predicted([PACKED + KEY, P + B, vop("B", 2, coded=False) + b"\xff", vop("P", 4)]) is not None


def test_headers_may_be_repeated_and_come_with_the_first_packet():
    expected = [(0, 1, True), (1, 2, False), (2, None, True)]
    packets = [layer() + KEY, P, layer() + vop("I", 4)]
    assert predicted(packets, b"") == predicted(packets) == expected
    assert predicted(packets[1:], b"") is None
    assert predicted([KEY, P], b"") is None


def test_packets_that_were_not_followed_are_not_predicted():
    model = Mpeg4(layer())
    assert model.frames(Packets(), 1) is None
    assert model.feed(KEY)
    assert model.frames(Packets(pts=[0, 1], dts=[0, 1]), 1) is None


def context(name: str, intra_only: bool = False) -> SimpleNamespace:
    return SimpleNamespace(name=name, codec=SimpleNamespace(intra_only=intra_only), extradata=None)


def test_avi_files_of_mpeg4_and_of_intra_only_codecs_are_predicted():
    assert isinstance(prediction("avi", context("mpeg4")), Mpeg4)
    assert isinstance(prediction("avi", context("mjpeg", True)), IntraOnly)
    assert prediction("avi", context("h264")) is None
    assert prediction("mpegts", context("mpeg4")) is None


def test_packets_of_an_intra_only_codec_are_keyframes():
    model = IntraOnly()
    assert model.feed(b"anything")
    packets = Packets(pts=[0, 1, 2], dts=[5, 6, 7])
    assert model.frames(packets, 0) == Frames([0, 1, 2], [5, 6, 7], [0, 1, 2])
    assert model.frames(packets, 1) is None


def test_the_first_frames():
    frames = Frames([3, 4, 5], [0, 1, None], [0, 2])
    assert (len(frames), frames.first(2)) == (3, Frames([3, 4], [0, 1], [0]))
    assert frames.first(3) == frames
