"""Color, translation and cutout of clips (DiffAugment, NeurIPS 2020)."""

from torch import Tensor

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
    """Augment clips, every frame of a clip by the same amounts; changes that are None are skipped.

    In this order: brightness, x + b; saturation, (x - m) s + m with m the mean over the channels of a pixel; contrast,
    (x - M) k + M with M the mean over a frame; translation, pixels from outside being 0; cutout, a rectangle set to 0.
    Means are at least float32. Differentiable to any order in x. The amounts are a draw, which needs no gradient: where
    one of them requires it the reference serves the call. They may have any value, and are not read on the host.

    Args:
        x: [N, T, C, H, W] floating point.
        brightness, saturation, contrast: b, s and k of each clip, [N] floating point.
        translation: rows that pixels move down and columns that they move right, [N, 2] integers of any sign.
        cutout: first row and first column of the rectangle, which may reach beyond the frame, [N, 2] integers.
        cutout_size: rows and columns of the rectangle, >= 0; needed with `cutout`.
        color_last: translation and cutout come before brightness, saturation and contrast, which then change the zeros
            too and count them in M.

    Returns:
        [N, T, C, H, W] in the type of x; x itself where all are None.

    Raises:
        ValueError: an argument has the wrong shape, type or device, or `cutout_size` is missing or negative.
    """
    if x.ndim != 5 or not x.is_floating_point():
        raise ValueError(f"augment x must be floating point [N, T, C, H, W], not {x.dtype} {list(x.shape)}.")
    amounts = {"brightness": brightness, "saturation": saturation, "contrast": contrast}
    places = {"translation": translation, "cutout": cutout}
    for name, value in (amounts | places).items():
        if value is not None:
            _check(name, value, x, integer=name in places)
    if cutout is not None and (cutout_size is None or len(cutout_size) != 2 or min(cutout_size) < 0):
        raise ValueError(f"augment cutout_size must be (rows, columns), both at least 0, not {cutout_size}.")
    if all(value is None for value in (amounts | places).values()):
        return x
    size = (0, 0) if cutout is None else (cutout_size[0], cutout_size[1])
    return call("augment", x.device.type, (x, *amounts.values(), *places.values(), size, color_last))


def _check(name: str, value: Tensor, x: Tensor, integer: bool) -> None:
    shape = [x.shape[0], 2] if integer else [x.shape[0]]
    of_kind = not (value.is_floating_point() or value.is_complex()) if integer else value.is_floating_point()
    if list(value.shape) != shape or not of_kind:
        kind = "integer" if integer else "floating point"
        raise ValueError(f"augment {name} must be {kind} {shape}, not {value.dtype} {list(value.shape)}.")
    if value.device != x.device:
        raise ValueError(f"augment {name} must be on {x.device} as x is, not on {value.device}.")
