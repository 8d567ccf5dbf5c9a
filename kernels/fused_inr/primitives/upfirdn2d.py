"""Upsampling by zeros, FIR filtering and downsampling as one op, whose adjoint is the same op with other arguments.

Along each axis, for an output pixel o, taps j = 0 ... n-1 and the image z, which is x with up - 1 zeros after every
pixel:

    y[o] = sum_j taps[j] z[o down + j - pad]

Let w be the gradient of y with down - 1 zeros after every pixel. The gradient of x at pixel i is then
sum_j taps[n-1-j] w[i up + j - (n-1-pad)]: the taps are flipped, and `up` and `down` are swapped.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_inr import composed, reference
from fused_inr.primitives import memory_format
from fused_inr.primitives.transforms import Op, folded, transforming

torch.library.define(
    "fused_inr::upfirdn2d",
    "(Tensor x, Tensor taps, int[2] up, int[2] down, int[2] pad, SymInt[2] size) -> Tensor",
)


class Options(NamedTuple):
    """The arguments of the op after x and the taps."""

    up: list[int]  # [x, y]
    down: list[int]  # [x, y]
    pad: list[int]  # [left, top]
    size: list[int]  # [height, width] of the output


def upfirdn2d(
    x: Tensor,
    filter: Tensor,
    up: tuple[int, int],
    down: tuple[int, int],
    padding: tuple[int, int, int, int],
    flip_filter: bool,
    gain: float,
) -> Tensor:
    """Resample and filter; arguments as for `reference.upfirdn2d`.

    Kernels get a dense x and taps `[h, w]` float32, which are correlated with x and include the gain. They get only the
    left and top padding, because the size of the output determines the right and bottom padding.
    """
    taps = filter.float() * gain
    if taps.ndim == 1:
        taps = torch.outer(taps, filter.float())
    if not flip_filter:
        taps = taps.flip([0, 1])
    height = (x.shape[2] * up[1] + padding[2] + padding[3] - taps.shape[0]) // down[1] + 1
    width = (x.shape[3] * up[0] + padding[0] + padding[1] - taps.shape[1]) // down[0] + 1
    return _upfirdn2d(x, taps, up, down, (padding[0], padding[2]), (height, width))


def supports(x: Tensor, filter: Tensor, *others: Any) -> tuple[bool, str]:
    """Return whether the kernels of all backends support a call, and if not, why."""
    if torch.is_grad_enabled() and filter.requires_grad:
        return False, "it has no gradient for the filter"
    return memory_format.supports(x)


@torch.library.register_fake("fused_inr::upfirdn2d")
def _(x: Tensor, taps: Tensor, *options: Any) -> Tensor:
    return output(x, Options(*options).size)


def output(x: Tensor, size: list[int]) -> Tensor:
    """Allocate the result of the op with the dtype and memory format of x."""
    shape = [*x.shape[:2], *size]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format.format_of(x))


def _prepare(x: Tensor, *others: Any) -> tuple:
    return memory_format.dense(x), *others


def _composed(x: Tensor, taps: Tensor, *others: Any) -> Tensor:
    """Return what the op returns, as a composition of PyTorch calls."""
    (up_x, up_y), (down_x, down_y), (left, top), size = Options(*others)
    right = (size[1] - 1) * down_x + taps.shape[1] - x.shape[3] * up_x - left
    bottom = (size[0] - 1) * down_y + taps.shape[0] - x.shape[2] * up_y - top
    y = reference.upfirdn2d(x.float(), taps, (up_x, up_y), (down_x, down_y), (left, right, top, bottom), True, 1.0)
    return y.to(x.dtype)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, taps, *options = inputs
    ctx.options = Options(*options)
    ctx.size = x.shape[2:]
    ctx.memory_format = None if transforming() else memory_format.format_of(x)
    ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, taps)


def _backward(ctx: Any, gradient: Tensor) -> tuple:
    x, taps = ctx.saved_tensors
    up, down, pad, _ = ctx.options
    dx = dtaps = None
    if ctx.needs_input_grad[0]:
        pad = (taps.shape[1] - 1 - pad[0], taps.shape[0] - 1 - pad[1])
        if ctx.memory_format is not None and not transforming():
            gradient = gradient.contiguous(memory_format=ctx.memory_format)  # dx then has the format of x
        dx = _upfirdn2d(gradient, taps.flip([0, 1]), down, up, pad, ctx.size)
    if ctx.needs_input_grad[1]:
        (dtaps,) = composed.vjp(lambda taps: _composed(x, taps, *ctx.options), [taps], gradient, [True])
    return dx, dtaps, None, None, None, None


def _batch(op: Op, size: int, dims: tuple, x: Tensor, taps: Tensor, *options: Any) -> tuple[Tensor, int]:
    if dims[1] is not None:  # kernels take one filter for all images
        return torch.vmap(lambda x, taps: _composed(x, taps, *options), dims[:2])(x, taps), 0
    images = folded(x, dims[0], size)
    return op(images, taps, *options).unflatten(0, (size, len(images) // size)), 0


_upfirdn2d = Op(torch.ops.fused_inr.upfirdn2d.default, _save, _backward, _batch, _composed, _prepare)
