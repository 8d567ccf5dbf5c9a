"""Small synthetic videos whose pictures encode their frame number."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

BITS = 8


def numbered_picture(number: int, width: int = 64, height: int = 48) -> np.ndarray:
    """Draw the number as black and white bars on the central square, lowest bit on the left: uint8 `[H, W, 3]`."""
    side = min(width, height)
    left = (width - side) // 2
    bits = (np.clip((np.arange(width) - left) * BITS // side, 0, BITS - 1)).astype(int)
    row = np.where(number >> bits & 1, 235, 20).astype(np.uint8)
    return np.broadcast_to(row[None, :, None], (height, width, 3)).copy()


def number_of(picture: np.ndarray) -> int:
    """Read the number from a decoded, cropped and resized picture, uint8 `[3, R, R]`."""
    row = picture.astype(float).mean((0, 1))  # [R]
    bars = row.reshape(BITS, -1).mean(1) > 128
    return int((bars << np.arange(BITS)).sum())


def write_video(
    path: Path,
    count: int = 40,
    width: int = 64,
    height: int = 48,
    codec: str = "libx264",
    pix_fmt: str = "yuv420p",
    gop: int = 12,
    b_frames: int | None = None,
    options: dict[str, str] | None = None,
    durations: list[int] | None = None,
    rotation: int | None = None,
    first: int = 0,
    container: dict[str, str] | None = None,
    packed: bool = False,
) -> Path:
    """Write a video of numbered pictures.

    `durations` in ms, used in turn, make a variable frame rate; `packed` makes an AVI of MPEG-4 a packed bitstream.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with av.open(str(path), "w", options=container or {}) as output:
        stream = output.add_stream(codec, rate=25, options=options or {})
        stream.width, stream.height, stream.pix_fmt = width, height, pix_fmt
        stream.codec_context.gop_size = gop
        stream.codec_context.thread_count = 1
        if b_frames is not None:
            stream.codec_context.max_b_frames = b_frames
        if durations:
            stream.codec_context.time_base = Fraction(1, 1000)
        if rotation is not None:
            stream.set_display_rotation(rotation)
        time = 0
        for number in range(count):
            frame = av.VideoFrame.from_ndarray(numbered_picture(first + number, width, height), format="rgb24")
            if durations:
                frame.pts, frame.time_base = time, Fraction(1, 1000)
                time += durations[number % len(durations)]
            output.mux(stream.encode(frame))
        output.mux(stream.encode())
    if packed:
        write_packets(path, pack(read_packets(path)))
    return path


VOP = b"\0\0\1\xb6"
NOT_CODED = VOP + b"\x50\x4f"  # a P-frame without a picture, at 25 frames per second


def read_packets(path: Path) -> list[bytes]:
    """Return the contents of the packets of a video."""
    with av.open(str(path)) as container:
        return [bytes(packet) for packet in container.demux(video=0) if packet.size]


def write_packets(path: Path, packets: list[bytes]) -> None:
    """Replace the packets of an AVI of MPEG-4."""
    copy = path.with_name(f"copy-{path.name}")
    with av.open(str(path)) as template, av.open(str(copy), "w") as output:
        stream = output.add_stream_from_template(template.streams.video[0])
        for number, content in enumerate(packets):
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = content[content.find(VOP) + 4] >> 6 == 0
            output.mux(packet)
    copy.replace(path)


def pack(packets: list[bytes]) -> list[bytes]:
    """Pack B-frames as XviD does: the first one goes into the packet of the anchor before it, a VOP without a picture
    follows the last one, and every keyframe says so."""
    places = [content.find(VOP) for content in packets]
    kinds = [content[place + 4] >> 6 for content, place in zip(packets, places, strict=True)]
    result: list[bytes] = []
    for i, (content, place, kind) in enumerate(zip(packets, places, kinds, strict=True)):
        if kind == 2 and kinds[i - 1] != 2:
            result[-1] += content
        else:
            result.append(content if kind else content[:place] + b"\0\0\1\xb2DivX503b1393p" + content[place:])
        if kind == 2 and kinds[i + 1 : i + 2] != [2]:
            result.append(NOT_CODED)
    return result


def write_frames(folder: Path, count: int = 20, suffix: str = ".png", **size: int) -> Path:
    """Write a frame folder of numbered pictures, named without leading zeros."""
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        Image.fromarray(numbered_picture(number, **size)).save(folder / f"frame_{number}{suffix}")
    return folder


@pytest.fixture(scope="session")
def video() -> Callable[..., Path]:
    return write_video


@pytest.fixture(scope="session")
def frame_folder() -> Callable[..., Path]:
    return write_frames


@pytest.fixture(scope="session")
def number() -> Callable[[np.ndarray], int]:
    return number_of


@pytest.fixture(scope="session")
def packets_of() -> tuple[Callable[[Path], list[bytes]], Callable[[Path, list[bytes]], None]]:
    """Return functions that read and replace the packets of an AVI of MPEG-4."""
    return read_packets, write_packets
