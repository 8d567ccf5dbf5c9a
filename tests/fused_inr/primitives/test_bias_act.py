"""`bias_act` and its slope: shapes and memory formats on "meta" tensors, unsupported calls, derivatives in float32."""

import pytest
import torch

import fused_inr as fi
from fused_inr import reference
from fused_inr.primitives import bias_act

X = (3, 4, 5)  # the bias lies along axis 1
OPTIONS = bias_act.Options("lrelu", 0.2, 1.0, None, 1)


def test_bias_act(layout, dtype, make_image):
    x = make_image(layout, dtype)
    for bias in (None, torch.empty(6, device="meta")):
        y = bias_act.bias_act(x, bias, *OPTIONS)
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
    monkeypatch.setattr(bias_act._forward, "_overload", lambda *arguments: calls.append(arguments))
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

    def overload(x, *arguments):
        calls.append((list(x.shape), arguments[-1]))
        return x

    monkeypatch.setattr(bias_act._forward, "_overload", overload)
    for shape in ((), (3,), (3, 4, 5)):
        bias_act.bias_act(torch.empty(shape, device="meta"), None, *OPTIONS._replace(dim=2))
    assert calls == [([1], 0), ([3], 0), ([3, 4, 5], 1)]


def leaves(dtype, with_bias, with_shift):
    """The arguments gradient, shift, x and bias of the slope op, and directions for its two results."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(shape, dtype=torch.float64, generator=generator).to(dtype)

    gradient, shift, x, bias = normal(*X), normal(4), normal(*X), normal(4)
    arguments = [gradient, shift if with_shift else None, x, bias if with_bias else None]
    for tensor in arguments:
        if tensor is not None:
            tensor.requires_grad_()
    return arguments, (normal(*X), normal(4))


def slope(gradient, shift, x, bias, with_sums, options):
    """The slope op by its definition: the gradients of x and of a bias for the upstream gradient + shift."""
    zero = torch.zeros(4, dtype=x.dtype, requires_grad=True) if bias is None else bias
    y = reference.bias_act(x, zero, *options)
    upstream = gradient if shift is None else gradient + shift[:, None]
    dx, sums = torch.autograd.grad(y, [x, zero], upstream, create_graph=True)
    return dx, sums if with_sums else None


@pytest.mark.skipif(fi.backends()["cpu"] != "ready", reason="the op has no kernel without a backend")
@pytest.mark.parametrize("act", reference.BIAS_ACTIVATIONS)
@pytest.mark.parametrize("with_sums", [True, False])
@pytest.mark.parametrize("with_shift", [True, False])
@pytest.mark.parametrize("with_bias", [True, False])
def test_slope_and_its_gradients(act, with_bias, with_shift, with_sums, assert_close):
    options, results = bias_act.Options(act, 0.3, 1.2, None, 1), []
    for dtype in (torch.float64, torch.float32):
        arguments, (along_x, along_sums) = leaves(dtype, with_bias, with_shift)
        gradient, shift, x, bias = arguments
        if dtype == torch.float64:
            dx, sums = slope(gradient, shift, x, bias, with_sums, options)
        else:
            dx, sums = torch.ops.fused_inr.bias_act_slope(gradient, shift, x, bias, False, with_sums, *options)
        total = (dx * along_x).sum() + ((sums * along_sums).sum() if with_sums else 0)
        inputs = [tensor for tensor in arguments if tensor is not None]
        gradients = torch.autograd.grad(total, inputs, allow_unused=True, materialize_grads=True)
        results.append([dx, *([sums] if with_sums else []), *gradients])
    for number, (exact, ours) in enumerate(zip(*results, strict=True)):
        assert_close(f"result {number}", exact.detach().float(), ours.detach(), 1e-5)
