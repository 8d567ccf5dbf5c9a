"""One picture: rotation, centre crop to a square, resize."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps


def upright(picture: np.ndarray, rotation: int) -> np.ndarray:
    """Turns [H,W,C] by `rotation` degrees counter-clockwise, a multiple of 90: [H,W,C] or [W,H,C]."""
    return np.rot90(picture, (rotation // 90) % 4)


def centre_square(picture: np.ndarray, pixel_aspect: float = 1.0) -> np.ndarray:
    """The largest centred square of [H,W,C], as it is displayed.

    `pixel_aspect` is the width of a pixel over its height; where it is not 1, the crop is a square on the screen and
    not in the array. An odd margin leaves the extra row or column at the bottom or right.
    """
    height, width = picture.shape[:2]
    side = min(width * pixel_aspect, height)
    crop_height = max(1, round(side))
    crop_width = max(1, min(width, round(side / pixel_aspect)))
    top, left = (height - crop_height) // 2, (width - crop_width) // 2
    return picture[top : top + crop_height, left : left + crop_width]


def to_square(picture: np.ndarray, resolution: int, rotation: int = 0, pixel_aspect: float = 1.0) -> np.ndarray:
    """uint8 RGB [H,W,3] as decoded -> uint8 RGB [R,R,3]: upright, centre-cropped, bilinear with antialiasing.

    Pillow does the resize: its integer arithmetic gives the same bytes on every machine, and its bilinear filter widens
    with the scale, so that shrinking averages instead of skipping pixels. (PyAV's scaler is faster, but its bytes
    depend on the processor's vector instructions, and it cannot crop.) Cropping first resizes only what is kept.
    """
    if (rotation // 90) % 2:
        pixel_aspect = 1 / pixel_aspect
    square = np.ascontiguousarray(centre_square(upright(picture, rotation), pixel_aspect))
    if square.shape[:2] == (resolution, resolution):
        return square
    image = Image.fromarray(square).resize((resolution, resolution), Image.Resampling.BILINEAR)
    return np.asarray(image)


def read_picture(file: str | BinaryIO) -> np.ndarray:
    """A picture file as uint8 RGB [H,W,3]: EXIF orientation applied, transparency dropped, 16 bits cut to 8."""
    with Image.open(file) as image:
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):
            grey = np.asarray(image).astype(np.int64) >> 8
            return np.repeat(grey.clip(0, 255).astype(np.uint8)[..., None], 3, axis=2)
        return np.asarray(image.convert("RGB"))
