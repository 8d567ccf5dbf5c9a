"""Colour conversion, resizing, and picture files."""

from __future__ import annotations

import io

import av
import numpy as np
import pytest
import torch
from PIL import Image

from digan.config import RESIZES
from digan.data.image import RGBConverter, is_animated, probe_animation, read_animation, read_picture, to_square

# Weights of red and blue in luma (ITU-R BT.601, BT.709, BT.2020), and the number of the matrix in a stream's tags.
MATRICES = {"bt601": (0.299, 0.114, 6), "bt709": (0.2126, 0.0722, 1), "bt2020": (0.2627, 0.0593, 9)}


def smooth_picture(height: int = 96, width: int = 128) -> np.ndarray:
    """Return a picture without hard edges, so that the resolution of chroma has no effect: float64 RGB in [0, 1]."""
    y, x = np.meshgrid(np.linspace(0, 1, height), np.linspace(0, 1, width), indexing="ij")
    return np.stack([0.1 + 0.8 * x, 0.15 + 0.7 * y, 0.3 + 0.6 * (1 - x) * y], -1)


def encoded_frame(rgb: np.ndarray, bits: int, chroma: str, matrix: str | None, full: bool) -> av.VideoFrame:
    """Convert RGB in [0, 1] to a YUV frame by the equations of the ITU-R recommendations; None writes no matrix."""
    red, blue, number = MATRICES[matrix or "bt601"]
    luma = rgb @ np.array([red, 1 - red - blue, blue])
    differences = (rgb[..., 2] - luma) / (2 * (1 - blue)), (rgb[..., 0] - luma) / (2 * (1 - red))  # in [-0.5, 0.5]
    step, top = 1 << (bits - 8), (1 << bits) - 1
    planes = [luma * top if full else (16 + 219 * luma) * step]
    planes += [128 * step + d * (top if full else 224 * step) for d in differences]
    if chroma == "420":
        planes[1:] = [p.reshape(p.shape[0] // 2, 2, p.shape[1] // 2, 2).mean((1, 3)) for p in planes[1:]]
    depth = "" if bits == 8 else f"{bits}le"
    frame = av.VideoFrame(rgb.shape[1], rgb.shape[0], f"yuv{chroma}p{depth}")
    for plane, values in zip(frame.planes, planes, strict=True):
        data = np.round(values).astype(np.uint8 if bits == 8 else np.uint16)
        rows = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        rows[:, : data.shape[1] * data.itemsize] = np.ascontiguousarray(data).view(np.uint8)
    if matrix is not None:
        frame.colorspace = number
    frame.color_range = 2 if full else 1
    return frame


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", [*MATRICES, None])
@pytest.mark.parametrize("chroma", ["444", "420"])
@pytest.mark.parametrize("bits", [8, 10, 12])
def test_frames_are_converted_by_their_matrix_and_range(bits, chroma, matrix, full):
    rgb = smooth_picture()
    converted = RGBConverter().rgb(encoded_frame(rgb, bits, chroma, matrix, full)).astype(float)
    # Rounding to 8 bits costs 0.25 on average. Measured: 0.26 to 0.49 at full chroma; with halved chroma 0.4 to 0.7 for
    # more than 8 bits, and up to 1.3 for 8 bits, where FFmpeg's default conversion truncates. A wrong matrix or range
    # costs more than 4.
    limit = 0.6 if chroma == "444" else 1.4 if bits == 8 else 0.8
    assert abs(converted - 255 * rgb).mean() < limit
    if bits > 8:
        assert abs((converted - 255 * rgb).mean((0, 1))).max() < 0.7  # nor too dark, nor of another hue


def test_frames_of_8_bits_are_converted_as_by_default():
    frame = encoded_frame(smooth_picture(), 8, "420", "bt709", False)
    np.testing.assert_array_equal(RGBConverter().rgb(frame), frame.to_ndarray(format="rgb24"))


def test_resize_names_two_filters():
    picture = np.random.default_rng(0).integers(0, 256, (96, 128, 3), dtype=np.uint8)
    square = torch.from_numpy(picture[:, 16:112]).permute(2, 0, 1)[None].float()
    for resize, antialias, tolerance in (("antialias", True, 1), ("bilinear", False, 0.5)):
        expected = torch.nn.functional.interpolate(square, (40, 40), mode="bilinear", antialias=antialias)[0]
        difference = to_square(picture, 40, resize=resize) - expected.permute(1, 2, 0).numpy()
        assert abs(difference).max() <= tolerance + 1e-4  # rounded once in float, after each direction in integers
    assert (to_square(picture, 40, resize="bilinear") != to_square(picture, 40)).any()
    with pytest.raises(ValueError, match="'nearest' is not one of antialias, bilinear"):
        to_square(picture, 40, resize="nearest")


@pytest.mark.parametrize("resize", RESIZES)
def test_a_square_of_the_right_size_is_not_resized(resize):
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    np.testing.assert_array_equal(to_square(picture, 40, resize=resize), picture[:, 10:50])


@pytest.fixture
def animation(tmp_path):
    """Write an animated or still picture of 6 grey levels, and return its path."""

    def write(suffix: str, frames: int = 6) -> str:
        images = [Image.new("RGB", (24, 16), (30 * i,) * 3) for i in range(frames)]
        path = tmp_path / f"a{frames}.{suffix}"
        more = dict(save_all=True, append_images=images[1:], duration=50) if frames > 1 else {}
        images[0].save(path, lossless=True, **more)
        return str(path)

    return write


def test_the_still_picture_of_an_animation_is_not_played(tmp_path):
    images = [Image.new("RGB", (24, 16), (30 * i,) * 3) for i in range(4)]
    path = str(tmp_path / "a.png")
    images[3].save(path, save_all=True, append_images=images[:3], duration=50, default_image=True)
    assert probe_animation(path) == (3, 16, 24, 20.0)
    assert [p[3, 5].tolist() for p in read_animation(path, [0, 2])] == [[0] * 3, [60] * 3]


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_animated_pictures_are_played(animation, suffix):
    path = animation(suffix)
    assert is_animated(path)
    with open(path, "rb") as file:
        assert is_animated(io.BytesIO(file.read()))
    assert probe_animation(path) == (6, 16, 24, 20.0)
    assert [p[3, 5].tolist() for p in read_animation(path, [0, 2, 2, 5])] == [[0] * 3, [60] * 3, [60] * 3, [150] * 3]


@pytest.mark.parametrize("suffix", ["webp", "png"])
def test_still_and_broken_pictures_are_not_animated(animation, tmp_path, suffix):
    assert not is_animated(animation(suffix, frames=1))
    assert not is_animated(str(tmp_path / "absent.webp"))
    for content in (b"", b"RIFF", b"\x89PNG\r\n\x1a\n", b"\x89PNG\r\n\x1a\n\xff\xff\xff\xffabcd"):
        assert not is_animated(io.BytesIO(content))
    with open(animation(suffix), "rb") as file:
        start = file.read(20)
    for size in range(len(start) + 1):  # before the flags of webp, and the chunks of png
        assert not is_animated(io.BytesIO(start[:size]))


def test_what_is_no_picture_is_refused_without_the_address_of_an_object():
    with pytest.raises(OSError, match=r"^it is not a picture of a known format$"):
        read_picture(io.BytesIO(b"nothing"))
