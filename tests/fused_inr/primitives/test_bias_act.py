"""Shapes, dtypes and memory formats of `bias_act` and its slope on "meta" tensors, and unsupported calls."""

import torch

from fused_inr.primitives import bias_act

OPTIONS = bias_act.Options("lrelu", 0.2, 1.0, None, 1)


def test_bias_act(layout, dtype, make_image):
    x = make_image(layout, dtype)
    y = bias_act.bias_act(x, torch.empty(6, device="meta"), *OPTIONS)
    assert (y.shape, y.dtype, y.stride()) == (x.shape, dtype, x.stride())
    dx, sums = torch.ops.fused_inr.bias_act_slope(x, None, y, None, True, True, *OPTIONS)
    assert (dx.shape, dx.dtype, dx.stride()) == (x.shape, dtype, x.stride())
    assert (list(sums.shape), sums.dtype) == ([6], torch.float32)


def test_supports(layout, dtype, make_image):
    x = make_image(layout, dtype)
    assert bias_act.supports(x, None, *OPTIONS)[0]
    reason = "with a negative slope the output does not determine the sign of the input"
    assert bias_act.supports(x, None, *OPTIONS._replace(alpha=-0.2)) == (False, reason)
    assert not bias_act.supports(x.double(), None, *OPTIONS)[0]


def test_kernels_get_dense_tensors_and_a_float32_bias(dtype, monkeypatch):
    calls = []
    monkeypatch.setattr(bias_act, "_forward", lambda *arguments: calls.append(arguments))
    strided = torch.empty(4, 6, 8, 20, dtype=dtype, device="meta")[..., ::2]
    residual = strided.contiguous(memory_format=torch.channels_last)
    bias_act.bias_act(strided, torch.empty(12, dtype=dtype, device="meta")[::2], *OPTIONS, residual=residual)
    x, bias, residual, *options = calls.pop()
    assert x.is_contiguous()
    assert residual.is_contiguous()
    assert (bias.dtype, bias.is_contiguous()) == (torch.float32, True)
    assert options == list(OPTIONS)


def test_without_a_bias_the_axis_exists(monkeypatch):
    calls = []
    monkeypatch.setattr(bias_act, "_forward", lambda *arguments: calls.append(arguments[-1]))
    for shape in ((), (3,), (3, 4, 5)):
        bias_act.bias_act(torch.empty(shape, device="meta"), None, *OPTIONS._replace(dim=2))
    assert calls == [0, 0, 1]
