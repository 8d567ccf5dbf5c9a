"""Rotate a picture, crop its central square and resize it; read picture files."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageOps


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


def to_square(picture: np.ndarray, resolution: int, rotation: int = 0, pixel_aspect: float = 1.0) -> np.ndarray:
    """Rotate a decoded picture upright, crop its central square and resize it bilinearly with antialiasing.

    PyTorch resizes in integer arithmetic, which gives the same bytes on every vector instruction set and with any
    number of threads, and widens the filter with the scale, so that shrinking averages instead of skipping pixels.
    (Pillow's bytes differ by at most 1, and it takes 4 to 10 times as long on AVX2. PyAV's scaler cannot crop, and its
    bytes depend on the processor.) The crop comes first, so that only the kept pixels are resized.

    Args:
        picture: uint8 RGB `[H, W, 3]` as decoded.
        resolution: the side R of the result.
        rotation: degrees counter-clockwise that make the picture upright, a multiple of 90.
        pixel_aspect: the width of a decoded pixel divided by its height.

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
    image = F.interpolate(image, size=(resolution, resolution), mode="bilinear", antialias=True)  # [1, 3, R, R]
    return image[0].permute(1, 2, 0).contiguous().numpy()


def read_picture(file: str | BinaryIO) -> np.ndarray:
    """Read a picture file as uint8 RGB `[H, W, 3]`: EXIF orientation applied, alpha dropped, 16 bits reduced to 8."""
    with Image.open(file) as opened:
        image = ImageOps.exif_transpose(opened)
        if image.mode.startswith("I"):
            grey = np.asarray(image).astype(np.int64) >> 8
            return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return np.asarray(image.convert("RGB"))
