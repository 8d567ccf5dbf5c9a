"""Convolution of images, for networks whose gradients are themselves differentiated."""

from torch import Tensor

from fused_inr import checks
from fused_inr.ops.dispatch import call
from fused_inr.primitives.conv2d import no_weight_gradients

__all__ = ["conv2d", "no_weight_gradients"]


def conv2d(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Cross-correlate x with a weight, padding with zeros.

    The result is that of `torch.nn.functional.conv2d`. Its derivatives of every order are convolutions of the same
    kind, whereas PyTorch's second derivative takes several times as long. `no_weight_gradients` skips the gradients of
    weights. Differentiable in x and weight to any order.

    Args:
        x: `[N, I, H, W]` floating point.
        weight: `[O, I, kh, kw]` with the dtype of x.
        stride: integer >= 1, for both axes.
        padding: zeros on every side, integer >= 0.

    Returns:
        `[N, O, (H + 2 padding - kh) // stride + 1, (W + 2 padding - kw) // stride + 1]` with the dtype and memory
        format of x.

    Raises:
        ValueError: the shapes or dtypes of x and weight do not match, the stride or padding is out of range, or the
            kernel is larger than the padded image.
    """
    checks.floating("conv2d", "x", x, "N, I, H, W")
    checks.floating("conv2d", "weight", weight, "O, I, kh, kw")
    if x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"conv2d takes x [N, I, H, W] and a weight [O, I, kh, kw], not {list(x.shape)} and {list(weight.shape)}."
        )
    if x.dtype != weight.dtype:
        raise ValueError(f"conv2d takes x and weight of one floating type, not {x.dtype} and {weight.dtype}.")
    checks.on_one_device("conv2d", x=x, weight=weight)
    stride, padding = (
        checks.integer("conv2d", "stride", stride, 1),
        checks.integer("conv2d", "padding", padding, 0),
    )
    for name, sizes in (("x", x.shape[1:]), ("weight", weight.shape)):
        if 0 in sizes:  # PyTorch refuses them, some of them only in the backward pass
            raise ValueError(f"conv2d {name} has the sizes {list(sizes)}, none of which may be 0; only N may be empty.")
    if min(x.shape[2] - weight.shape[2], x.shape[3] - weight.shape[3]) + 2 * padding < 0:
        raise ValueError(
            f"conv2d kernel {list(weight.shape[2:])} is larger than the image {list(x.shape[2:])} with padding "
            f"{padding} on every side."
        )
    size = ((x.shape[axis] + 2 * padding - weight.shape[axis]) // stride + 1 for axis in (2, 3))
    checks.result("conv2d", (x.shape[0], weight.shape[0], *size), x.dtype, "x or padding")
    return call("conv2d", x.device.type, (x, weight, stride, padding))
