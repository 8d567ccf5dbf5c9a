"""`bias_act` and its slope on the Triton kernels, against the reference in float64."""

import math

import pytest
import torch

from fused_inr import reference
from fused_inr._backends.triton.kernels import bias_act as bias_act_kernels
from fused_inr.primitives import memory_format
from fused_inr.primitives.bias_act import PIECEWISE_LINEAR, Options, bias_act

ACTS = ("linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish")
TYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = [(1, 1, 1, 1), (1, 1, 63, 100), (3, 100, 1, 1), (2, 63, 3, 1), (2, 1, 5, 5), (0, 3, 4, 4)]


def name_of(value: object) -> str:
    return "x".join(map(str, value)) if isinstance(value, tuple) else str(value).removeprefix("torch.")


@pytest.fixture
def compare(check, exactly):
    """Compare the values, and all gradients of a weighted sum of them, with the reference."""

    def compare(x, bias, residual, act, clamp, dim):
        weight = torch.randn_like(x)
        tensors = (x, bias, residual)

        def run(function, leaves: list) -> list[torch.Tensor]:
            y = function(*leaves[:2], act, 0.3, 1.3, clamp, dim, residual=leaves[2])
            inputs = [leaf for leaf in leaves if leaf is not None]
            return [y, *torch.autograd.grad(y, inputs, weight.to(y.device, y.dtype))]

        actual = run(bias_act, [t if t is None else t.detach().requires_grad_() for t in tensors])
        exact = run(reference.bias_act, [t if t is None else exactly(t) for t in tensors])
        for index, (a, b) in enumerate(zip(actual, exact, strict=True)):
            check(f"result {index}", a, b)
        assert memory_format.format_of(actual[0]) == memory_format.format_of(memory_format.dense(x))

    return compare


@pytest.mark.parametrize("dtype", TYPES, ids=name_of)
@pytest.mark.parametrize("where", ["contiguous", "channels_last", "strided"])
@pytest.mark.parametrize("act", ACTS)
def test_values_and_gradients(act, where, dtype, lay_out, compare, check, exactly, device):
    x = lay_out((3 * torch.randn(2, 3, 7, 5)).to(dtype), where)
    bias, residual = torch.randn(3, device=device), torch.randn(2, 3, 7, 5).to(device, dtype)
    # Every type represents the limit exactly; otherwise rounding could move values across it.
    compare(x, bias, residual, act, 2.0, 1)
    options = (None, act, 0.3, 1.3, None, 1)
    check("without bias, residual and clamp", bias_act(x, *options), reference.bias_act(exactly(x), *options))


@pytest.mark.parametrize("where", ["contiguous", "channels_last"])
@pytest.mark.parametrize("shape", SHAPES, ids=name_of)
def test_odd_sizes(shape, where, lay_out, compare, device):
    x, bias = lay_out(torch.randn(shape), where), torch.randn(shape[1], device=device)
    compare(x, bias, None, "lrelu", 1.0, 1)
    compare(x, bias, None, "swish", None, 1)


@pytest.mark.parametrize(("shape", "dim"), [((5, 63), 1), ((100,), 0), ((3, 4, 5), 0), ((3, 4, 5), 2)], ids=name_of)
def test_bias_along_any_axis(shape, dim, compare, device):
    compare(torch.randn(shape, device=device), torch.randn(shape[dim], device=device), None, "lrelu", None, dim)


def test_scalar(device):
    assert bias_act(torch.tensor(2.0, device=device), None, "relu", 0.0, 3.0, None, 0) == 6


@pytest.mark.parametrize("with_shift", [False, True], ids=["plain", "shift"])
@pytest.mark.parametrize("where", ["contiguous", "channels_last"])
def test_sums_of_many_stretches(where, with_shift, lay_out, check, monkeypatch, device):
    """Sum in programs that process several tiles, the last program fewer than the others."""
    monkeypatch.setattr(bias_act_kernels, "_SUMMING_PROGRAMS", 2)
    monkeypatch.setattr(bias_act_kernels, "TILE_ELEMENTS", 256)
    x = lay_out(torch.randn(3, 5, 11, 35), where)
    gradient, shift = torch.randn_like(x), torch.randn(5, device=device) if with_shift else None
    out, partial, (launch,) = bias_act_kernels.backward(
        gradient, shift, x, None, False, True, Options("lrelu", 0.3, 1.3, None, 1)
    )
    assert launch.arguments["steps"] > 1
    assert partial.shape[0] > 1
    launch.run()
    exact = gradient.cpu().double() + (0 if shift is None else shift.cpu().double()[:, None, None])
    exact *= torch.where(x.cpu() > 0, 1.3, 1.3 * 0.3).double()
    check("dx", out, exact)
    check("sums", partial.sum(0), exact.sum((0, 2, 3)))


@pytest.mark.parametrize("act", ACTS)
def test_higher_derivatives(act, assert_close, exactly, device):
    x, bias, weight = (torch.randn(shape, device=device) for shape in ((2, 3, 5, 4), (3,), (2, 3, 5, 4)))
    probes = torch.randn(2, 3, 5, 4), torch.randn(3)

    def derivatives(function, *leaves: torch.Tensor) -> list[torch.Tensor]:
        """Return derivatives of a sum of squares of first derivatives, and of a sum of squares of those."""
        y = function(*leaves[:2], act, 0.3, 1.3, 2.0, 1)
        first = torch.autograd.grad(y, leaves[:2], leaves[2], create_graph=True)
        total = sum((a.square() * b.to(a)).sum() for a, b in zip(first, probes, strict=True))
        second = torch.autograd.grad(total, leaves, create_graph=True, allow_unused=True)
        again = sum(t.square().sum() for t in second if t is not None)
        return [*second, *torch.autograd.grad(again, leaves, allow_unused=True)]

    actual = derivatives(bias_act, *(t.requires_grad_() for t in (x, bias, weight)))
    exact = derivatives(reference.bias_act, *map(exactly, (x, bias, weight)))
    for index, (a, b) in enumerate(zip(actual, exact, strict=True)):
        if a is not None or b is not None:
            a, b = (
                torch.zeros(c.shape, dtype=torch.float64) if t is None else t.detach().cpu().double()
                for t, c in ((a, b), (b, a))
            )
            assert_close(f"derivative {index}", b, a, 5e-6)  # measured 6.3e-7 in the interpreter


def test_piecewise_linear_derivatives_stay_on_the_kernels(monkeypatch, device):
    called = []
    slope = bias_act_kernels.backward
    monkeypatch.setattr(bias_act_kernels, "backward", lambda *args: called.append(args) or slope(*args))
    x = torch.randn(2, 3, 4, 4, device=device).requires_grad_()
    for number, act in enumerate(PIECEWISE_LINEAR):
        (dx,) = torch.autograd.grad(bias_act(x, None, act, 0.2, 1.0, None, 1).square().sum(), x, create_graph=True)
        assert len(called) == 3 * number + 1
        torch.autograd.grad(dx.square().sum(), x)
        assert len(called) == 3 * number + 3  # through the slope and through y


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=name_of)
def test_a_rounded_limit_still_stops_gradients(dtype, device):
    x = torch.linspace(-2, 2, 41).to(device, dtype).requires_grad_()
    (dx,) = torch.autograd.grad(bias_act(x, None, "linear", 0.0, 1.0, 0.7, 0).sum(), x)
    assert torch.equal(dx, (x.detach().abs() < 0.69).to(dtype))


def test_clamp_keeps_nan(device):
    limited = bias_act(torch.tensor([math.nan, math.inf, -math.inf], device=device), None, "linear", 0, 1, 3.0, 0)
    assert limited[0].isnan()
    assert limited[1:].tolist() == [3, -3]
