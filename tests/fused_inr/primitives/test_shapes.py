"""Shapes, dtypes and memory formats of the image ops on "meta" tensors, and unsupported calls."""

import pytest
import torch

from fused_inr.primitives import augment, bias_act, conv2d, minibatch_stddev, upfirdn2d

FORMATS = pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
TYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)


def image(layout: torch.memory_format, dtype: torch.dtype) -> torch.Tensor:
    return torch.empty(4, 6, 8, 10, dtype=dtype, device="meta").contiguous(memory_format=layout)


@FORMATS
@TYPES
def test_bias_act(layout, dtype):
    x = image(layout, dtype)
    for bias in (None, torch.empty(6, device="meta")):
        y = bias_act.bias_act(x, bias, "lrelu", 0.2, 1.0, None, 1)
        assert (y.shape, y.dtype, y.stride()) == (x.shape, dtype, x.stride())
    options = bias_act.Options("lrelu", 0.2, 1.0, None, 1)
    dx, sums = torch.ops.fused_inr.bias_act_slope(x, None, y, None, True, True, *options)
    assert (dx.shape, dx.dtype, dx.stride()) == (x.shape, dtype, x.stride())
    assert (list(sums.shape), sums.dtype) == ([6], torch.float32)
    assert bias_act.supports(x, None, *options)[0]
    assert not bias_act.supports(x, None, "lrelu", -0.2, 1.0, None, 1)[0]


@FORMATS
@TYPES
def test_upfirdn2d(layout, dtype):
    x, taps = image(layout, dtype), torch.empty(4, device="meta")
    y = upfirdn2d.upfirdn2d(x, taps, (2, 1), (1, 2), (1, 2, 0, 3), False, 1.0)
    assert (list(y.shape), y.dtype) == ([4, 6, (8 + 3 - 4) // 2 + 1, 20 + 3 - 4 + 1], dtype)
    assert y.is_contiguous(memory_format=layout)
    assert upfirdn2d.supports(x, taps)[0]
    assert not upfirdn2d.supports(x, taps.requires_grad_())[0]
    with torch.no_grad():
        assert upfirdn2d.supports(x, taps)[0]


@TYPES
def test_minibatch_stddev(dtype):
    x = image(torch.contiguous_format, dtype)
    y = minibatch_stddev.minibatch_stddev(x, 2, 3)
    assert (list(y.shape), y.dtype) == ([4, 9, 8, 10], dtype)
    dx = torch.ops.fused_inr.minibatch_stddev_backward(y, x, 2, 3)
    assert (dx.shape, dx.dtype) == (x.shape, dtype)


@TYPES
def test_augment(dtype):
    x, amount = torch.empty(2, 3, 3, 8, 8, dtype=dtype, device="meta"), torch.empty(2, device="meta")
    place = torch.empty(2, 2, dtype=torch.int64, device="meta")
    y = augment.augment(x, amount, None, amount, place, place, (4, 4), False)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    assert augment.supports(x, amount, None, None)[0]
    assert not augment.supports(x, amount.requires_grad_(), None, None)[0]


@FORMATS
@TYPES
def test_conv2d_weight(layout, dtype):
    x, dy = image(layout, dtype), torch.empty(4, 5, 8, 10, dtype=dtype, device="meta").contiguous(memory_format=layout)
    dw = torch.ops.fused_inr.conv2d_weight(x, dy, [3, 3], 1, 1)
    assert (list(dw.shape), dw.dtype) == ([5, 6, 3, 3], dtype)
    assert dw.is_contiguous(memory_format=layout)
    assert conv2d.supports(x, dw, 1, 1) == (True, "")
