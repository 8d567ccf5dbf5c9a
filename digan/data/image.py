"""Convert a picture to RGB, rotate it, crop its central square and resize it; read picture files."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import BinaryIO

import av
import numpy as np
import torch
import torch.nn.functional as F
from av.video.reformatter import Interpolation, VideoReformatter
from PIL import Image, ImageOps, UnidentifiedImageError

from digan.config import RESIZES, TrainConfig

DEFAULT_RESIZE = TrainConfig.resize
# Pillow raises SyntaxError on a broken PNG, and refuses pictures of absurd sizes.
PICTURE_ERRORS = (OSError, ValueError, SyntaxError, EOFError, Image.DecompressionBombError)

# Options of swscale: interpolate chroma to full resolution, and round instead of truncating.
_FULL_CHROMA, _ACCURATE_ROUNDING = 0x2000, 0x40000


class RGBConverter:
    """Converts decoded frames to 8-bit RGB with swscale, by the colour matrix and range that the stream names.

    Without a named matrix BT.601 holds, and without a range the limited one, as in FFmpeg. Frames of 8 bits per
    component are converted as FFmpeg does by default, byte for byte. For more bits that default keeps the chroma at
    half resolution and truncates, which is 1.3 to 1.7 of 255 off the exact value on average and too dark; they are
    converted at full chroma resolution with rounding, which is 0.4 off (rounding alone is 0.25).
    """

    def __init__(self) -> None:
        self._reformatter = VideoReformatter()  # setting it up costs more than using it

    def rgb(self, frame: av.VideoFrame) -> np.ndarray:
        """Return a frame as uint8 RGB `[H, W, 3]`."""
        interpolation = int(Interpolation.BILINEAR)
        if max(component.bits for component in frame.format.components) > 8:
            interpolation |= _FULL_CHROMA | _ACCURATE_ROUNDING
        return self._reformatter.reformat(frame, format="rgb24", interpolation=interpolation, threads=1).to_ndarray()


def upright(picture: np.ndarray, rotation: int) -> np.ndarray:
    """Rotate `[H, W, C]` counter-clockwise by `rotation` degrees, a multiple of 90: `[H, W, C]` or `[W, H, C]`."""
    return np.rot90(picture, (rotation // 90) % 4)


def centre_square(picture: np.ndarray, pixel_aspect: float = 1.0) -> np.ndarray:
    """Return the largest centred square of `[H, W, C]`, as displayed.

    `pixel_aspect` is the width of a pixel divided by its height; where it is not 1, the crop is square on the screen
    but not in the array. An odd margin leaves the extra row or column at the bottom or right.
    """
    height, width = picture.shape[:2]
    side = min(width * pixel_aspect, height)
    crop_height = max(1, round(side))
    crop_width = max(1, min(width, round(side / pixel_aspect)))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return picture[top : top + crop_height, left : left + crop_width]


def to_square(
    picture: np.ndarray,
    resolution: int,
    rotation: int = 0,
    pixel_aspect: float = 1.0,
    resize: str = DEFAULT_RESIZE,
) -> np.ndarray:
    """Rotate a decoded picture upright, crop its central square and resize it bilinearly.

    With "antialias" the filter widens with the scale, so that shrinking averages instead of skipping pixels. PyTorch
    then resizes in integer arithmetic, which gives the same bytes on every vector instruction set and with any number
    of threads. (Pillow's bytes differ by at most 1, and it takes 4 to 10 times as long on AVX2. PyAV's scaler cannot
    crop, and its bytes depend on the processor.) With "bilinear" every pixel is interpolated between four pixels in
    float32, at any scale. The crop comes first, so that only the kept pixels are resized.

    Args:
        picture: uint8 RGB `[H, W, 3]` as decoded.
        resolution: the side R of the result.
        rotation: degrees counter-clockwise that make the picture upright, a multiple of 90.
        pixel_aspect: the width of a decoded pixel divided by its height.
        resize: a value of `digan.config.RESIZES`.

    Returns:
        uint8 RGB `[R, R, 3]`.
    """
    if (rotation // 90) % 2:
        pixel_aspect = 1 / pixel_aspect
    # PyTorch accepts neither negative strides nor read-only arrays.
    square = np.require(centre_square(upright(picture, rotation), pixel_aspect), requirements=("C", "W"))  # [S, S, 3]
    if square.shape[:2] == (resolution, resolution):
        return square
    image = torch.from_numpy(square)[None].permute(0, 3, 1, 2)  # [1, 3, S, S], channels_last
    size = (resolution, resolution)
    if resize == "antialias":
        image = F.interpolate(image, size=size, mode="bilinear", antialias=True)  # [1, 3, R, R]
    elif resize == "bilinear":
        image = F.interpolate(image.float(), size=size, mode="bilinear").round().to(torch.uint8)  # [1, 3, R, R]
    else:
        raise ValueError(f"resize {resize!r} is not one of {', '.join(RESIZES)}")
    return image[0].permute(1, 2, 0).contiguous().numpy()


@contextlib.contextmanager
def _picture(file: str | BinaryIO) -> Iterator[Image.Image]:
    """Open a picture with Pillow, and close it and its file afterwards."""
    with _closing(file):
        try:
            image = Image.open(file)
        except UnidentifiedImageError:  # its message would show the address of a file object
            raise UnidentifiedImageError("it is not a picture of a known format") from None
        with image:
            yield image


def read_picture(file: str | BinaryIO) -> np.ndarray:
    """Read a picture file as uint8 RGB `[H, W, 3]`: EXIF orientation applied, alpha dropped, 16 bits reduced to 8."""
    with _picture(file) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):
            grey = np.asarray(image).astype(np.int64) >> 8
            return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return np.asarray(image.convert("RGB"))


def read_animation(file: str | BinaryIO, indices: Sequence[int]) -> Iterator[np.ndarray]:
    """Yield frames of an animated picture, uint8 RGB `[H, W, 3]` with alpha dropped; the indices must not decrease."""
    with _picture(file) as image:
        first = _still_frames(image)
        for index in indices:
            image.seek(first + index)
            yield np.asarray(image.convert("RGB"))


def probe_animation(file: str | BinaryIO) -> tuple[int, int, int, float]:
    """Return the number of frames, the height, the width, and the frames per second of a picture, animated or not."""
    with _picture(file) as image:
        first = _still_frames(image)
        frames = getattr(image, "n_frames", 1) - first
        image.seek(first)
        image.load()
        milliseconds = float(image.info.get("duration", 0))  # of the first frame
        return frames, image.height, image.width, 1000 / milliseconds if milliseconds > 0 else 25.0


def _still_frames(image: Image.Image) -> int:
    """Return 1 if the first frame is a png's still picture, for programs that play no animations, else 0."""
    return int(bool(image.info.get("default_image")) and getattr(image, "n_frames", 1) > 1)


def is_animated(file: str | BinaryIO) -> bool:
    """Return whether a webp or png file is animated, by its first chunks; False if it cannot be read."""
    with contextlib.suppress(OSError, ValueError), _closing(file), _opened(file) as stream:
        start = stream.read(8)
        if start == b"\x89PNG\r\n\x1a\n":
            return _has_animation_chunk(stream)
        # RIFF, size, WEBP, then an extended header, whose flags hold the animation bit
        extended = stream.read(13)
        whole = len(extended) == 13 and start[:4] == b"RIFF" and extended[:8] == b"WEBPVP8X"
        return whole and bool(extended[12] & 2)
    return False


def _has_animation_chunk(stream: BinaryIO) -> bool:
    """Return whether a png's chunk acTL comes before its picture data, as it must."""
    while len(header := stream.read(8)) == 8 and header[4:] not in (b"IDAT", b"IEND"):
        if header[4:] == b"acTL":
            return True
        stream.seek(int.from_bytes(header[:4], "big") + 4, 1)  # skip the content and its checksum
    return False


def _opened(file: str | BinaryIO) -> contextlib.AbstractContextManager[BinaryIO]:
    return open(file, "rb") if isinstance(file, str) else contextlib.nullcontext(file)


def _closing(file: str | BinaryIO) -> contextlib.AbstractContextManager:
    """Return a context that closes an open file at its end."""
    return contextlib.nullcontext() if isinstance(file, str) else contextlib.closing(file)
