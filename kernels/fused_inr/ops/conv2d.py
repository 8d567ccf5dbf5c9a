"""Convolution of images, for networks whose gradients are differentiated again."""

from torch import Tensor

from fused_inr.ops.dispatch import call
from fused_inr.primitives.conv2d import no_weight_gradients

__all__ = ["conv2d", "no_weight_gradients"]


def conv2d(x: Tensor, weight: Tensor, stride: int = 1, padding: int = 0) -> Tensor:
    """Correlate x with a weight, padding with zeros.

    The same numbers as `torch.nn.functional.conv2d`. Its derivatives of every order are convolutions of the same kind,
    where PyTorch's second derivative takes several times as long; `no_weight_gradients` leaves those of weights out.

    Args:
        x: [N, I, H, W] floating point.
        weight: [O, I, kh, kw], of the type of x.
        stride, padding: of both axes.

    Returns:
        [N, O, (H + 2 padding - kh) // stride + 1, (W + 2 padding - kw) // stride + 1] in the type and memory format of
        x, differentiable in both to any order.

    Raises:
        ValueError: tensors that do not fit together, or a stride or padding out of range.
    """
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1]:
        raise ValueError(
            f"conv2d takes x [N, I, H, W] and a weight [O, I, kh, kw], not {list(x.shape)} and {list(weight.shape)}."
        )
    if x.dtype != weight.dtype or not x.is_floating_point():
        raise ValueError(f"conv2d takes x and weight of one floating type, not {x.dtype} and {weight.dtype}.")
    if stride < 1 or padding < 0:
        raise ValueError(f"conv2d stride must be at least 1 and padding at least 0, not {stride} and {padding}.")
    if min(x.shape[2] - weight.shape[2], x.shape[3] - weight.shape[3]) + 2 * padding < 0:
        raise ValueError(
            f"conv2d kernel {list(weight.shape[2:])} is larger than the image {list(x.shape[2:])} with padding "
            f"{padding} on every side."
        )
    return call("conv2d", x.device.type, (x, weight, stride, padding))
