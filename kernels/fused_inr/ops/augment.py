"""Color, translation and cutout of clips (DiffAugment, NeurIPS 2020)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fused_inr import checks
from fused_inr.ops.dispatch import call


def augment(
    x: Tensor,
    *,
    brightness: Tensor | None = None,
    saturation: Tensor | None = None,
    contrast: Tensor | None = None,
    translation: Tensor | None = None,
    cutout: Tensor | None = None,
    cutout_size: tuple[int, int] | None = None,
    color_last: bool = False,
) -> Tensor:
    """Augment clips, every frame of a clip by the same amounts (DiffAugment, NeurIPS 2020).

    The steps, in this order; a step whose amount is None is skipped:

    1. brightness: x + b
    2. saturation: (x - m) s + m, with m the mean over the channels of a pixel
    3. contrast: (x - M) k + M, with M the mean over a frame
    4. translation: shift the frame; pixels from outside are 0
    5. cutout: set a rectangle to 0

    Means are computed in at least float32. Differentiable in x to any order. The amounts are random draws, for which
    the kernels compute no gradients; if one of them requires gradients, the reference serves the call. They may have
    any value and are not read on the host.

    Args:
        x: `[N, T, C, H, W]` floating point.
        brightness, saturation, contrast: b, s and k of each clip, `[N]` floating point.
        translation: pixels to shift down and right, `[N, 2]` integers of any sign.
        cutout: first row and first column of the rectangle, `[N, 2]` integers; it may extend beyond the frame.
        cutout_size: (rows, columns) of the rectangle, both >= 0; required with `cutout`.
        color_last: apply translation and cutout before brightness, saturation and contrast, which then also change the
            zeros and include them in M.

    Returns:
        `[N, T, C, H, W]` with the dtype of x; x itself if every step is skipped.

    Raises:
        ValueError: an argument has the wrong shape, dtype or device, or `cutout_size` is missing or negative.
    """
    checks.floating("augment", "x", x, "N, T, C, H, W")
    amounts = {"brightness": brightness, "saturation": saturation, "contrast": contrast}
    positions = {"translation": translation, "cutout": cutout}
    for name, value in (amounts | positions).items():
        if value is not None:
            _check(name, value, x, integer=name in positions)
    checks.on_one_device("augment", x=x, **amounts, **positions)
    size = (0, 0)
    if cutout is not None or cutout_size is not None:
        if not isinstance(cutout_size, Sequence):
            raise ValueError(f"augment cutout_size must be (rows, columns), not {checks.described(cutout_size)}.")
        expected = "(rows, columns)"
        rows, columns = checks.integers("augment", "cutout_size", cutout_size, 0, (2,), expected, high=2**63 - 1)
        size = (rows, columns)
    color_last = checks.flag("augment", "color_last", color_last)
    if all(value is None for value in (amounts | positions).values()):
        return x
    return call("augment", x.device.type, (x, *amounts.values(), *positions.values(), size, color_last))


def _check(name: str, value: Tensor, x: Tensor, integer: bool) -> None:
    shape = [x.shape[0], 2] if integer else [x.shape[0]]
    dtypes = checks.INTEGER_TYPES if integer else checks.FLOATING_TYPES
    valid = isinstance(value, Tensor) and value.layout == torch.strided and value.dtype in dtypes
    if not valid or list(value.shape) != shape:
        kind = "integer" if integer else "floating point"
        raise ValueError(f"augment {name} must be {kind} {shape}, not {checks.described(value)}.")
