"""Writing frames: mp4 videos that browsers play, gifs and png images."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from digan.files import atomic_path

MAX_PIXELS = 8192  # maximum width and height of a video that players accept
Frames = torch.Tensor | np.ndarray
# CRF 18 is visually lossless; the usual range is 18 to 28 (visibly compressed). The thread count is fixed and the
# macroblock tree is off so that equal frames give equal files: the output depends on the number of threads, and the
# macroblock tree reads uninitialised memory if the width is not a multiple of 128 (x264 core 165).
_X264 = {"crf": "18", "threads": "4", "mbtree": "0"}
# Fixed quantiser of the mpeg4 fallback, in units of FF_QP2LAMBDA = 118 (libavutil/avutil.h); 2 is the best of 2..31.
_MPEG4_QUALITY = 2 * 118
_GIF_TIME = Fraction(1, 100)  # seconds, the unit of the format
_GIF_MAX_FPS = 50  # players show a frame shorter than two units for ten units
_PALETTE_FRAMES = 16
# Colours are rounded to six bits per channel before the palette look-up, which bounds the look-up table.
_COARSE = np.float32(63 / 255)
_BAYER = np.array([[0, 8, 2, 10], [12, 4, 14, 6], [3, 11, 1, 9], [15, 7, 13, 5]], dtype=np.float32) / 16 + 1 / 32


def to_uint8(frames: torch.Tensor) -> torch.Tensor:
    """Convert frames in [-1, 1], of any shape and float dtype, to uint8 in 0..255, the inverse of x / 127.5 - 1.

    Values outside the range are clamped; NaN becomes 0, so that a diverged network still gives an image.
    """
    if not frames.is_floating_point():
        raise ValueError(f"to_uint8 takes float frames in [-1, 1], not {frames.dtype}")
    return (frames.float() * 127.5 + 127.5).nan_to_num(nan=0.0).round_().clamp_(0, 255).to(torch.uint8)


def write_video(path: str | os.PathLike, frames: Frames | Iterable[Frames], fps: float = 8) -> None:
    """Write an mp4 that plays in a browser (H.264, yuv420p, index at the front of the file), atomically.

    Odd sizes are padded to even ones by repeating the last row and column. If FFmpeg was built without x264, MPEG-4
    part 2 is written instead.

    Args:
        path: file to write; its name ends in .mp4.
        frames: uint8 [T, H, W, 3], tensor or array, or any iterable of uint8 [H, W, 3]. Each frame is written as it is
            produced, so a long video needs memory for one frame only.
        fps: frames per second.

    Raises:
        ValueError: the suffix is not .mp4, a frame is not uint8 [H, W, 3] of the first one's size, there are no
            frames, or the frame rate is not positive.
    """
    path = Path(path)
    _check_target(path, ".mp4", fps)
    with atomic_path(path) as temporary:
        _encode(path, temporary, frames, Fraction(fps).limit_denominator(1001))


def _encode(path: Path, target: Path, frames: Iterable[Frames], rate: Fraction) -> None:
    frames = iter(frames)
    first = next(frames, None)
    if first is None:
        raise ValueError(f"{path}: there are no frames to write")
    height, width = _pixels(path, first).shape[:2]
    with av.open(str(target), "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = _open_stream(container, rate)
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        # swscale converts with BT.601. Without this tag, players guess the matrix from the frame size.
        stream.codec_context.colorspace = Colorspace.ITU601
        stream.codec_context.color_range = ColorRange.MPEG
        for index, frame in enumerate(_chain(first, frames)):
            pixels = _pixels(path, frame)
            _check_size(path, index, pixels, height, width)
            padded = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(_picture(padded, index, 1 / rate)))
        container.mux(stream.encode())


def _chain(first: Frames, rest: Iterator[Frames]) -> Iterator[Frames]:
    yield first
    yield from rest


def _open_stream(container: av.container.OutputContainer, rate: Fraction) -> av.VideoStream:
    """Add an x264 stream, or an mpeg4 stream with a fixed quantiser if FFmpeg was built without x264."""
    if "libx264" in av.codecs_available:
        return container.add_stream("libx264", rate=rate, options=_X264)
    return container.add_stream("mpeg4", rate=rate, options={"flags": "+qscale", "global_quality": str(_MPEG4_QUALITY)})


def _pixels(path: Path, image: Frames) -> np.ndarray:
    """Return one image as a contiguous uint8 array [H, W, 3] in host memory."""
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        shape = list(array.shape)
        raise ValueError(
            f"{path}: an image must be uint8 [H,W,3], not {array.dtype} {shape}; to_uint8 converts [-1, 1]"
        )
    return np.ascontiguousarray(array)


def write_gif(path: str | os.PathLike, frames: Frames | Sequence[Frames], fps: float = 8) -> None:
    """Write a gif that repeats forever, with one palette of 256 colours for all frames, atomically.

    A gif counts time in hundredths of a second, and players do not honour a frame duration below two of them. Above 50
    frames per second, only every second (or third, ...) frame is therefore written.

    Args:
        path: file to write; its name ends in .gif.
        frames: as for `write_video`, but a sequence: the palette is computed first, from evenly spaced frames.
        fps: frames per second.

    Raises:
        ValueError: as for `write_video`.
    """
    path = Path(path)
    _check_target(path, ".gif", fps)
    if not len(frames):
        raise ValueError(f"{path}: there are no frames to write")
    stride = math.ceil(fps / _GIF_MAX_FPS)
    height, width = _pixels(path, frames[0]).shape[:2]
    spaced = np.linspace(0, len(frames) - 1, min(len(frames), _PALETTE_FRAMES)).round().astype(int)
    colours = _Colours(_palette(height, width, (_pixels(path, frames[t]) for t in spaced.tolist())))
    with atomic_path(path) as temporary, av.open(str(temporary), "w", format="gif") as container:
        stream = container.add_stream("gif", rate=Fraction(fps / stride).limit_denominator(1001))
        stream.height, stream.width, stream.pix_fmt = height, width, "pal8"
        stream.codec_context.time_base = _GIF_TIME
        for t in range(0, len(frames), stride):
            pixels = _pixels(path, frames[t])
            _check_size(path, t, pixels, height, width)
            indexed = (colours.nearest(pixels), colours.palette)
            picture = av.VideoFrame.from_ndarray(indexed, format="pal8")  # type: ignore[arg-type] # a pair for pal8
            picture.pts, picture.time_base = round(t / (fps * _GIF_TIME)), _GIF_TIME
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _palette(height: int, width: int, frames: Iterable[np.ndarray]) -> np.ndarray:
    """Return a palette of 255 colours for these frames (FFmpeg's palettegen), uint8 [256, 4] in the order ARGB.

    The last colour is transparent: the encoder writes it where a frame does not differ from the previous one.
    """
    graph = av.filter.Graph()
    source = graph.add_buffer(width=width, height=height, format=av.VideoFormat("rgb24"), time_base=_GIF_TIME)
    sink = graph.add("buffersink")
    graph.link_nodes(source, graph.add("format", "bgra"), graph.add("palettegen"), sink).configure()
    for index, pixels in enumerate(frames):
        coarse = (np.rint(pixels * _COARSE) / _COARSE).round().astype(np.uint8)
        source.push(_picture(coarse, index, _GIF_TIME))
    source.push(None)
    palette = cast(av.VideoFrame, sink.pull())  # 16x16
    return np.ascontiguousarray(palette.to_ndarray(format="argb").reshape(256, 4))


class _Colours:
    """Look up the nearest palette colours of pixels, computing each colour of six bits per channel only once.

    Rounding to six bits uses ordered dithering: its pattern stays in place from frame to frame, whereas error diffusion
    would shimmer.
    """

    def __init__(self, palette: np.ndarray) -> None:
        self.palette = palette
        opaque = palette[palette[:, 0] == 255, 1:]
        self._colours = torch.from_numpy(opaque.astype(np.float32))  # [255, 3]
        self._nearest = np.full(1 << 18, -1, dtype=np.int16)  # by 18-bit code; -1 is not computed yet

    def nearest(self, pixels: np.ndarray) -> np.ndarray:
        """Return the palette indices, uint8 [H, W], of pixels uint8 [H, W, 3]."""
        height, width = pixels.shape[:2]
        noise = np.tile(_BAYER, (-(-height // 4), -(-width // 4)))[:height, :width, None]
        levels = np.minimum(pixels * _COARSE + noise, 63).astype(np.int32)  # [H, W, 3], 0..63
        codes = (levels[..., 0] << 12) | (levels[..., 1] << 6) | levels[..., 2]  # [H, W]
        new = np.unique(codes[self._nearest[codes] < 0])
        for chunk in np.array_split(new, 1 + len(new) // 16384):  # bounds the memory of the distances
            colours = np.stack([chunk >> 12, chunk >> 6 & 63, chunk & 63], axis=1) / _COARSE  # [n, 3]
            distances = torch.cdist(torch.from_numpy(colours.astype(np.float32)), self._colours)  # [n, 255]
            self._nearest[chunk] = distances.argmin(dim=1).numpy()
        return self._nearest[codes].astype(np.uint8)


def _check_target(path: Path, suffix: str, fps: float) -> None:
    if path.suffix.lower() != suffix:
        raise ValueError(f"{path}: the file is written as {suffix[1:]}; give it a name that ends in {suffix}")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"{path}: the frame rate must be positive and finite, not fps={fps}")


def _check_size(path: Path, index: int, pixels: np.ndarray, height: int, width: int) -> None:
    if pixels.shape[:2] != (height, width):
        size = f"{pixels.shape[0]}x{pixels.shape[1]}"
        raise ValueError(f"{path}: frame {index} is {size}, but the first frame is {height}x{width}")


def _picture(pixels: np.ndarray, pts: int, time_base: Fraction) -> av.VideoFrame:
    picture = av.VideoFrame.from_ndarray(pixels, format="rgb24")
    picture.pts, picture.time_base = pts, time_base
    return picture


def write_png(path: str | os.PathLike, image: Frames) -> None:
    """Write an image, uint8 [H, W, 3] as a tensor or an array, as a png, atomically."""
    pixels = _pixels(Path(path), image)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")
