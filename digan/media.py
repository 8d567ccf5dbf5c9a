"""Frames out: videos a browser plays, png images, and grids of clips to look at."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.video.reformatter import ColorRange, Colorspace
from PIL import Image

from digan.files import atomic_path

Frames = torch.Tensor | np.ndarray
# Visually lossless for x264; the usual range is 18 (this) to 28 (visibly compressed).
_CRF = 18
# Fixed quantiser of the mpeg4 fallback, in units of FF_QP2LAMBDA = 118 (libavutil/avutil.h); 2 is the best of 2..31.
_MPEG4_QUALITY = 2 * 118


def to_uint8(frames: torch.Tensor) -> torch.Tensor:
    """Frames in [-1, 1], any shape and float dtype, to uint8 in 0..255. Inverse of x / 127.5 - 1.

    Values outside are clamped; NaN becomes 0, so that a diverged network still gives a picture.
    """
    if not frames.is_floating_point():
        raise ValueError(f"to_uint8 takes float frames in [-1, 1], not {frames.dtype}")
    return (frames.float() * 127.5 + 127.5).nan_to_num(nan=0.0).round_().clamp_(0, 255).to(torch.uint8)


def write_video(path: str | os.PathLike, frames: Frames | Iterable[Frames], fps: float = 8) -> None:
    """Write an mp4 that plays in a browser (H.264, yuv420p, index at the front of the file).

    frames: uint8 [T,H,W,3], tensor or array, or any iterable of uint8 [H,W,3], which is written as it is
    produced, so that a long video needs the memory of a frame. Odd sizes are padded to even ones by repeating the last
    row and column. Where FFmpeg was built without x264, MPEG-4 part 2 is written instead. The file appears whole or
    not at all.

    Raises ValueError for another suffix than .mp4, a frame that is not uint8 [H,W,3] of the first one's size, no frame
    at all, or a frame rate that is not positive.
    """
    path = Path(path)
    if path.suffix.lower() != ".mp4":
        raise ValueError(f"{path}: videos are written as mp4; give the file a name that ends in .mp4")
    if not (math.isfinite(fps) and fps > 0):
        raise ValueError(f"{path}: a video needs a positive frame rate, not fps={fps}")
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
        # Untagged, a player guesses the matrix by the size of the picture; swscale converts with BT.601.
        stream.codec_context.colorspace = Colorspace.ITU601
        stream.codec_context.color_range = ColorRange.MPEG
        for index, frame in enumerate(_chain(first, frames)):
            pixels = _pixels(path, frame)
            if pixels.shape[:2] != (height, width):
                size = f"{pixels.shape[0]}x{pixels.shape[1]}"
                raise ValueError(f"{path}: frame {index} is {size}, but the first frame is {height}x{width}")
            padded = np.pad(pixels, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
            picture = av.VideoFrame.from_ndarray(padded, format="rgb24")
            picture.pts, picture.time_base = index, 1 / rate
            container.mux(stream.encode(picture))
        container.mux(stream.encode())


def _chain(first: Frames, rest: Iterator[Frames]) -> Iterator[Frames]:
    yield first
    yield from rest


def _open_stream(container: av.container.OutputContainer, rate: Fraction) -> av.VideoStream:
    """The encoder: x264, or FFmpeg's own mpeg4 at a fixed quantiser where the build has no x264."""
    if "libx264" in av.codecs_available:
        return container.add_stream("libx264", rate=rate, options={"crf": str(_CRF)})
    return container.add_stream("mpeg4", rate=rate, options={"flags": "+qscale", "global_quality": str(_MPEG4_QUALITY)})


def _pixels(path: Path, image: Frames) -> np.ndarray:
    """One image as a contiguous uint8 array [H,W,3] in host memory."""
    array = image.detach().cpu().numpy() if isinstance(image, torch.Tensor) else np.asarray(image)
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3 or 0 in array.shape:
        shape = list(array.shape)
        raise ValueError(
            f"{path}: an image must be uint8 [H,W,3], not {array.dtype} {shape}; to_uint8 converts [-1, 1]"
        )
    return np.ascontiguousarray(array)


def write_png(path: str | os.PathLike, image: Frames) -> None:
    """Write a png. image: uint8 [H,W,3], tensor or array. The file appears whole or not at all."""
    pixels = _pixels(Path(path), image)
    with atomic_path(path) as temporary:
        Image.fromarray(pixels).save(temporary, format="PNG")


def video_grid(frames: Frames, columns: int | None = None) -> torch.Tensor:
    """Clips side by side as one video.

    frames: [N,T,3,H,W], uint8 or float in [-1, 1]. columns: clips per row; the default makes the grid about square.
    Returns uint8 [T, rows*H, columns*W, 3] on the CPU, clip i in row i // columns; cells past the last clip are black.
    """
    clips = _clips(frames)
    count, times, channels, height, width = clips.shape
    columns = math.ceil(math.sqrt(count)) if columns is None else columns
    if columns < 1:
        raise ValueError(f"a grid needs at least one column, not columns={columns}")
    rows = math.ceil(count / columns)
    cells = clips.new_zeros(rows * columns, times, channels, height, width)
    cells[:count] = clips
    cells = cells.view(rows, columns, times, channels, height, width).permute(2, 0, 4, 1, 5, 3)  # [T,rows,H,cols,W,3]
    return cells.reshape(times, rows * height, columns * width, channels)


def contact_sheet(frames: Frames, columns: int = 8, separator: int = 2) -> torch.Tensor:
    """Clips as one still image: a row per clip, evenly spaced frames from the first to the last along it.

    frames: [N,T,3,H,W], uint8 or float in [-1, 1]. columns: frames shown of a clip, all of them if it has fewer.
    separator: width in pixels of the white lines between the cells. Returns uint8 [H',W',3] on the CPU.
    """
    clips = _clips(frames)
    if columns < 1 or separator < 0:
        raise ValueError(f"a sheet needs columns >= 1 and separator >= 0, not {columns} and {separator}")
    count, times, channels, height, width = clips.shape
    columns = min(columns, times)
    chosen = torch.linspace(0, times - 1, columns).round().long()
    cells = clips.new_full((count, columns, channels, height + separator, width + separator), 255)
    cells[..., :height, :width] = clips[:, chosen]
    sheet = cells.permute(0, 3, 1, 4, 2).reshape(count * (height + separator), columns * (width + separator), channels)
    return sheet[: sheet.shape[0] - separator, : sheet.shape[1] - separator].contiguous()


def _clips(frames: Frames) -> torch.Tensor:
    """[N,T,3,H,W], uint8 or float, as uint8 on the CPU."""
    clips = torch.as_tensor(frames).detach()
    if clips.ndim != 5 or clips.shape[2] != 3 or 0 in clips.shape:
        raise ValueError(f"clips must be [N,T,3,H,W] with at least one frame, not {list(clips.shape)}")
    return (clips if clips.dtype == torch.uint8 else to_uint8(clips)).cpu()
