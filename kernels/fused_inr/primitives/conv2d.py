"""Convolution whose derivatives of every order are convolutions.

Both gradients of y = conv(x, w) are bilinear maps, and the derivatives of these maps are again one of the three maps
conv, back and weight:

    dx = back(dy, w)      has the derivatives   d dy = conv(ddx, w)    and  dw = weight(ddx, dy)
    dw = weight(x, dy)    has the derivatives   dx = back(dy, ddw)     and  d dy = conv(x, ddw)

PyTorch's own second derivative of a convolution uses the images themselves as kernels of further convolutions, which
takes several times as long, and gradient penalties depend on it. A backend may supply a kernel for `weight`.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.grad import conv2d_input, conv2d_weight

from fused_inr.primitives import memory_format
from fused_inr.primitives.transforms import forward_mode

torch.library.define(
    "fused_inr::conv2d_weight", "(Tensor x, Tensor gradient, SymInt[] kernel, int stride, int padding) -> Tensor"
)
_weight_gradient = torch.ops.fused_inr.conv2d_weight.default


def conv2d(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    """Convolve; arguments as for `reference.conv2d`."""
    return _convolve(x, weight, stride, padding)


def supports(x: Tensor, weight: Tensor, stride: int, padding: int) -> tuple[bool, str]:
    """Return (True, ""), because PyTorch's convolutions support every floating-point dtype."""
    return True, ""


def pytorch_weight(x: Tensor, gradient: Tensor, kernel: list[int], stride: int, padding: int) -> Tensor:
    """Return the gradient of the weight, `[O, I, kh, kw]`, as PyTorch computes it."""
    like = weight_like(x, gradient, kernel)
    if x.device.type == "cpu" and x.dtype == torch.float32:
        # oneDNN 3.7's gradient of a float32 weight takes 1.3 to 3.5 times as long in channels_last.
        x, gradient = x.contiguous(), gradient.contiguous()
    result = _pytorch_gradient(gradient, x, like, stride, padding, of_x=False)
    return result.contiguous(memory_format=memory_format.format_of(like))


torch.library.impl("fused_inr::conv2d_weight", "CompositeExplicitAutograd", pytorch_weight)


@torch.library.register_fake("fused_inr::conv2d_weight")
def _(x: Tensor, gradient: Tensor, kernel: list[int], stride: int, padding: int) -> Tensor:
    return weight_like(x, gradient, kernel)


def weight_like(x: Tensor, gradient: Tensor, kernel: list[int]) -> Tensor:
    """Allocate the gradient of a weight, `[O, I, kh, kw]`, with the dtype and memory format of x."""
    shape = [gradient.shape[1], x.shape[1], *kernel]
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format.format_of(x))


_weight_gradients = True  # a plain global, because the threads of a GPU's backward pass must see it
_open_blocks: dict[object, None] = {}  # of all threads


@contextlib.contextmanager
def no_weight_gradients() -> Iterator[None]:
    """Skip the weight gradients of `conv2d` in backward passes inside the `with` block.

    Meant for the inner backward pass of a gradient penalty, which needs gradients of images only. PyTorch does not tell
    a Python autograd function which gradients were requested, only which inputs require them, so that they would be
    computed otherwise. The setting applies to all threads.
    """
    global _weight_gradients
    key = object()
    _open_blocks[key] = None
    _weight_gradients = False
    try:
        yield
    finally:
        del _open_blocks[key]
        _weight_gradients = not _open_blocks


def _pytorch_gradient(gradient: Tensor, x: Tensor, weight: Tensor, stride: int, padding: int, of_x: bool) -> Tensor:
    """Return the gradient of x or of the weight; of that tensor only the shape, dtype and memory format are used."""
    dilation, transposed, output_padding, groups = [1, 1], False, [0, 0], 1
    geometry = ([stride, stride], [padding, padding], dilation, transposed, output_padding, groups)
    output_mask = [of_x, not of_x, False]
    dx, dw, _ = torch.ops.aten.convolution_backward(gradient, x, weight, None, *geometry, output_mask)
    return dx if of_x else dw


# In forward mode the three maps are PyTorch's own, because Dynamo refuses autograd functions with a `jvp`.
# Their derivatives are the same, only slower.


def _convolve(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    map_ = _pytorch_convolve if forward_mode() else _Convolution.apply
    return map_(x, weight, stride, padding)


def _back(dy: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    map_ = _pytorch_back if forward_mode() else _Back.apply
    return map_(dy, weight, shape, stride, padding)


def _weight(x: Tensor, dy: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    map_ = _pytorch_weight if forward_mode() else _Weight.apply
    return map_(x, dy, shape, stride, padding)


def _pytorch_convolve(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
    return F.conv2d(x, weight, stride=stride, padding=padding)


def _pytorch_back(dy: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    return conv2d_input(shape, weight, dy, stride, padding)


def _pytorch_weight(x: Tensor, dy: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
    return conv2d_weight(x, shape, dy, stride, padding)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    a, b, *ctx.options = inputs
    ctx.save_for_backward(a, b)


class _Convolution(torch.autograd.Function):
    setup_context = staticmethod(_save)

    @staticmethod
    def forward(x: Tensor, weight: Tensor, stride: int, padding: int) -> Tensor:
        return _pytorch_convolve(x, weight, stride, padding)

    @staticmethod
    def backward(ctx: Any, dy: Tensor) -> tuple:
        x, weight = ctx.saved_tensors
        dx = _back(dy, weight, x.shape, *ctx.options) if ctx.needs_input_grad[0] else None
        with_weight = ctx.needs_input_grad[1] and _weight_gradients
        dw = _weight(x, dy, weight.shape, *ctx.options) if with_weight else None
        return dx, dw, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple, x: Tensor, weight: Tensor, *options: int) -> tuple[Tensor, int]:
        return torch.vmap(lambda x, weight: _pytorch_convolve(x, weight, *options), dims[:2])(x, weight), 0


class _Back(torch.autograd.Function):
    setup_context = staticmethod(_save)

    @staticmethod
    def forward(dy: Tensor, weight: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
        x = torch.empty(shape, dtype=dy.dtype, device=dy.device, memory_format=memory_format.format_of(dy))
        return _pytorch_gradient(dy, x, weight, stride, padding, of_x=True)

    @staticmethod
    def backward(ctx: Any, ddx: Tensor) -> tuple:
        (dy, weight), (_, *options) = ctx.saved_tensors, ctx.options
        d_dy = _convolve(ddx, weight, *options) if ctx.needs_input_grad[0] else None
        dw = _weight(ddx, dy, weight.shape, *options) if ctx.needs_input_grad[1] else None
        return d_dy, dw, None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple, dy: Tensor, weight: Tensor, *options: Any) -> tuple[Tensor, int]:
        return torch.vmap(lambda dy, weight: _pytorch_back(dy, weight, *options), dims[:2])(dy, weight), 0


class _Weight(torch.autograd.Function):
    setup_context = staticmethod(_save)

    @staticmethod
    def forward(x: Tensor, dy: Tensor, shape: torch.Size, stride: int, padding: int) -> Tensor:
        return _weight_gradient(x, dy, shape[2:], stride, padding)

    @staticmethod
    def backward(ctx: Any, ddw: Tensor) -> tuple:
        (x, dy), (_, *options) = ctx.saved_tensors, ctx.options
        dx = _back(dy, ddw, x.shape, *options) if ctx.needs_input_grad[0] else None
        d_dy = _convolve(x, ddw, *options) if ctx.needs_input_grad[1] else None
        return dx, d_dy, None, None, None

    @staticmethod
    def vmap(info: Any, dims: tuple, x: Tensor, dy: Tensor, *options: Any) -> tuple[Tensor, int]:
        return torch.vmap(lambda x, dy: _pytorch_weight(x, dy, *options), dims[:2])(x, dy), 0
