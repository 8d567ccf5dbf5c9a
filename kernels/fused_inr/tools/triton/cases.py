"""The calls whose kernels are compiled ahead of time: one for every configuration that the project uses.

Triton compiles a kernel for each configuration of tensor types, layout, block sizes and options; sizes matter only if
they are 1 or divisible by 16.
"""

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from fused_inr._backends.triton.kernels import augment as augment_kernels
from fused_inr._backends.triton.kernels import bias_act as bias_act_kernels
from fused_inr._backends.triton.kernels import minibatch_stddev as stddev_kernels
from fused_inr._backends.triton.kernels import upfirdn2d as upfirdn_kernels
from fused_inr._backends.triton.kernels.launch import Launch
from fused_inr.primitives import augment, bias_act, upfirdn2d
from fused_inr.reference import LRELU_SLOPE
from fused_inr.tools.triton import cases_networks, cases_render, cases_render_backward
from fused_inr.tools.triton.case import Case

_TYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_CURVED = ("tanh", "sigmoid", "elu", "selu", "softplus", "swish")
_HALF = ("bfloat16", "float16")


def _image(dtype: str, channels_last: bool, channels: int = 128, size: int = 128) -> Tensor:
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return torch.empty(8, channels, size, size, dtype=_TYPES[dtype], device="meta").to(memory_format=layout)


def _numbers(*shape: int) -> Tensor:
    return torch.empty(shape, device="meta")


def _bias_act(dtype: str, channels_last: bool, act: str) -> list[Launch]:
    x = _image(dtype, channels_last)
    return bias_act_kernels.forward(x, _numbers(128), x, bias_act.Options(act, LRELU_SLOPE, 2**0.5, 256.0, 1))[1]


def _slope(dtype: str, channels_last: bool, act: str, from_output: bool) -> list[Launch]:
    x = _image(dtype, channels_last)
    options = bias_act.Options(act, LRELU_SLOPE, 1.0, 256.0, 1)
    first = bias_act_kernels.backward(x, None, x, _numbers(128), from_output, True, options)[-1]
    second = bias_act_kernels.backward(x, _numbers(128), x, None, from_output, True, options)[-1]
    return first if act in _CURVED else [*first, *second]


def _upfirdn2d(dtype: str, channels_last: bool, up: int, down: int, taps: int) -> list[Launch]:
    size = 128 * up // down
    options = upfirdn2d.Options([up, up], [down, down], [taps // 2, taps // 2], [size, size])
    return upfirdn_kernels.forward(_image(dtype, channels_last), _numbers(taps, taps), options)[1]


def _minibatch_stddev(dtype: str) -> list[Launch]:
    x = _image(dtype, False, 512, 4)
    gradient = torch.empty(8, 513, 4, 4, dtype=x.dtype, device="meta")
    return [*stddev_kernels.forward(x, 4, 1)[1], *stddev_kernels.backward(gradient, x, 4, 1)[1]]


def _augment(dtype: str, cutout: bool, color_last: bool, adjoint: bool) -> list[Launch]:
    x = torch.empty(8, 2, 3, 128, 128, dtype=_TYPES[dtype], device="meta")
    brightness = None if adjoint else _numbers(8)
    place = torch.empty(8, 2, dtype=torch.int64, device="meta")
    options = augment.Options(
        brightness, _numbers(8), _numbers(8), place, place if cutout else None, [64, 64], color_last, adjoint
    )
    return augment_kernels.forward(x, options)[1]


def _cases() -> Iterator[Case]:
    for dtype in _TYPES:
        for channels_last in (False, True):
            where = f"{dtype}-{'channels_last' if channels_last else 'contiguous'}"
            acts = ("lrelu", "linear", "relu", *_CURVED) if where == "float32-contiguous" else ("lrelu",)
            for act in acts:
                arguments = (dtype, channels_last, act)
                yield Case(f"bias_act-{act}-{where}", partial(_bias_act, *arguments))
                slope_arguments = (*arguments, act not in _CURVED)
                yield Case(f"bias_act_slope-{act}-{where}", partial(_slope, *slope_arguments))
            for up, down, taps in ((1, 2, 4), (2, 1, 4), (1, 1, 4)):
                rates = (dtype, channels_last, up, down, taps)
                yield Case(f"upfirdn2d-up{up}-down{down}-{where}", partial(_upfirdn2d, *rates))
        yield Case(f"minibatch_stddev-{dtype}", partial(_minibatch_stddev, dtype))
        yield Case(f"augment-{dtype}", partial(_augment, dtype, False, False, False))
        yield Case(f"augment-adjoint-{dtype}", partial(_augment, dtype, False, False, True))
    yield Case("augment-cutout-float32", lambda: _augment("float32", True, False, False))
    yield Case("augment-cutout-color-last-float32", lambda: _augment("float32", True, True, False))


CASES: list[Case] = [*_cases(), *cases_render.CASES, *cases_render_backward.CASES, *cases_networks.CASES]
