"""Upsampling, FIR filtering and downsampling of images (StyleGAN2, CVPR 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fused_inr import checks
from fused_inr.ops.dispatch import call


def _pair(name: str, value: int | Sequence[int]) -> tuple[int, int]:
    x, y = checks.integers("upfirdn2d", name, value, 1, (2,), "an integer or a pair [x, y]")
    return x, y


def _padding(value: int | Sequence[int]) -> tuple[int, int, int, int]:
    expected = "an integer, [x, y] or [x0, x1, y0, y1]"
    sides = checks.integers("upfirdn2d", "padding", value, -checks.LARGEST, (2, 4), expected)
    x0, x1, y0, y1 = sides if len(sides) == 4 else (sides[0], *sides, sides[1])
    return x0, x1, y0, y1


def _filter_size(filter: Tensor | None) -> tuple[int, int]:
    """Check a filter, and return its width and height in taps.

    Raises:
        ValueError: it is neither None nor a tensor of real numbers `[h, w]` or `[n]`.
    """
    if filter is None:
        return 1, 1
    valid = isinstance(filter, Tensor) and filter.layout == torch.strided and filter.ndim in (1, 2) and filter.numel()
    if not valid or filter.dtype not in (*checks.FLOATING_TYPES, *checks.INTEGER_TYPES):
        raise ValueError(
            "upfirdn2d filter must be a tensor of real numbers with shape [h, w], or [n] if separable, "
            f"not {checks.described(filter)}."
        )
    return filter.shape[-1], filter.shape[0]


def upfirdn2d(
    x: Tensor,
    filter: Tensor | None,
    up: int | Sequence[int] = 1,
    down: int | Sequence[int] = 1,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Upsample by inserting zeros, pad or crop, filter, and downsample every channel (StyleGAN2, CVPR 2020).

    The steps, in this order:

    1. Insert `up` - 1 zeros after every pixel.
    2. Pad the sides with `padding` zeros; a negative number crops.
    3. Filter, keeping only the positions where the filter lies entirely inside the image.
    4. Keep every `down`-th pixel, starting with the first.

    Differentiable in x to any order.

    Args:
        x: `[N, C, H, W]` floating point.
        filter: taps `[h, w]`, or `[n]` for a separable n x n filter; None for a single tap of 1.
        up, down: integer >= 1, or a pair (x, y).
        padding: integer, (x, y) or (x0, x1, y0, y1) (left, right, top, bottom), in pixels of the upsampled image.
        flip_filter: False convolves, True correlates.
        gain: factor applied to the result.

    Returns:
        `[N, C, (H up_y + y0 + y1 - h) // down_y + 1, (W up_x + x0 + x1 - w) // down_x + 1]` with the dtype of x.

    Raises:
        ValueError: an argument has the wrong form, or the padded image is smaller than the filter.
    """
    checks.floating("upfirdn2d", "x", x, "N, C, H, W")
    up, down, padding = _pair("up", up), _pair("down", down), _padding(padding)
    flip_filter = checks.flag("upfirdn2d", "flip_filter", flip_filter)
    gain = checks.number("upfirdn2d", "gain", gain)
    size = _filter_size(filter)
    taps = torch.ones([1, 1], dtype=x.dtype, device=x.device) if filter is None else filter
    checks.on_one_device("upfirdn2d", x=x, filter=taps)
    padded = (x.shape[3] * up[0] + padding[0] + padding[1], x.shape[2] * up[1] + padding[2] + padding[3])
    if padded[0] < size[0] or padded[1] < size[1]:
        raise ValueError(
            f"upfirdn2d: the padded image, {padded[1]} x {padded[0]} (height x width), is smaller than the filter, "
            f"{size[1]} x {size[0]}; use a larger padding or a smaller filter."
        )
    checks.result("upfirdn2d", (*x.shape[:2], *padded), x.dtype, "up or padding")
    return call("upfirdn2d", x.device.type, (x, taps, up, down, padding, flip_filter, gain))


def downsample2d(
    x: Tensor,
    filter: Tensor | None,
    down: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Filter and keep every `down`-th pixel, padded so that `[N, C, H, W]` becomes `[N, C, H/down, W/down]`.

    Each output pixel is centered on the input pixels it replaces, as in StyleGAN2. Arguments and errors are those of
    `upfirdn2d`, except that `padding` is added to the padding that yields this size.
    """
    down_x, down_y = _pair("down", down)
    x0, x1, y0, y1 = _padding(padding)
    width, height = _filter_size(filter)
    sides = (
        x0 + (width - down_x + 1) // 2,
        x1 + (width - down_x) // 2,
        y0 + (height - down_y + 1) // 2,
        y1 + (height - down_y) // 2,
    )
    return upfirdn2d(x, filter, down=(down_x, down_y), padding=sides, flip_filter=flip_filter, gain=gain)


def upsample2d(
    x: Tensor,
    filter: Tensor | None,
    up: int | Sequence[int] = 2,
    padding: int | Sequence[int] = 0,
    flip_filter: bool = False,
    gain: float = 1,
) -> Tensor:
    """Insert zeros and filter, padded so that `[N, C, H, W]` becomes `[N, C, H*up, W*up]`.

    A gain of up_x * up_y makes up for the inserted zeros, so that the image keeps its brightness, as in StyleGAN2.
    Arguments and errors are those of `upfirdn2d`, except that `padding` is added to the padding that yields this size,
    and `gain` multiplies the gain above.
    """
    up_x, up_y = _pair("up", up)
    gain = checks.number("upfirdn2d", "gain", gain)
    x0, x1, y0, y1 = _padding(padding)
    width, height = _filter_size(filter)
    sides = (
        x0 + (width + up_x - 1) // 2,
        x1 + (width - up_x) // 2,
        y0 + (height + up_y - 1) // 2,
        y1 + (height - up_y) // 2,
    )
    return upfirdn2d(x, filter, up=(up_x, up_y), padding=sides, flip_filter=flip_filter, gain=gain * up_x * up_y)
