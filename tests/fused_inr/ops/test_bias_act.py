"""bias_act: the official numbers to second order, defaults, axes, gradients, errors."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fused_inr as fi

ACTS = ["linear", "relu", "lrelu", "tanh", "sigmoid", "elu", "selu", "softplus", "swish"]


@pytest.mark.parametrize("case", [f"bias_act{k}" for k in range(10)])
def test_parity(parity, assert_close, case):
    options = {name: parity.cases[case][name] for name in ("act", "alpha", "gain", "clamp")}
    x, bias = parity[f"{case}.x"].requires_grad_(), parity[f"{case}.b"].requires_grad_()
    y = fi.bias_act(x, bias, **options)
    dx, db = torch.autograd.grad((y * parity[f"{case}.w"]).sum(), [x, bias], create_graph=True)
    for name, value in (("y", y), ("dx", dx), ("db", db)):
        assert_close(name, parity[f"{case}.{name}"], value.detach(), 1e-5)
    # The official ddx is of sum(dx^2); a linear op, whose dx does not depend on x, has none.
    assert (f"{case}.ddx" in parity) == (options["act"] != "linear")
    if f"{case}.ddx" in parity:
        ddx = torch.autograd.grad(dx.square().sum(), x, allow_unused=True)[0]
        assert_close("ddx", parity[f"{case}.ddx"], torch.zeros_like(x) if ddx is None else ddx, 1e-5)


@pytest.mark.parametrize("clamp", [None, 0.7], ids=["free", "clamped"])
@pytest.mark.parametrize("act", ACTS)
def test_gradients(act, clamp):
    torch.manual_seed(0)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(3, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x, bias: fi.bias_act(x, bias, act, clamp=clamp), (x, bias))
    assert gradgradcheck(lambda x, bias: fi.bias_act(x, bias, act, clamp=clamp), (x, bias))


@pytest.mark.parametrize("dim", [0, 1, 2, -1])
def test_bias_along_any_axis(dim):
    x = torch.randn(2, 3, 5)
    bias = torch.randn(x.shape[dim])
    expected = (x.movedim(dim, -1) + bias).movedim(-1, dim)
    assert torch.equal(fi.bias_act(x, bias, dim=dim), expected)


def test_defaults_keep_the_variance_of_rectifiers():
    x = torch.tensor([-1.0, 2.0])
    for act in ("relu", "lrelu", "swish"):
        torch.testing.assert_close(fi.bias_act(x, act=act), fi.bias_act(x, act=act, gain=1) * 2**0.5)
    assert torch.equal(fi.bias_act(x, act="lrelu", gain=1), torch.tensor([-0.2, 2.0]))
    assert torch.equal(fi.bias_act(x, gain=3, clamp=4), torch.tensor([-3.0, 4.0]))


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (1, 3, 1, 1), (2, 3, 63, 1)], ids=str)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_keeps_shape_type_and_layout(shape, dtype):
    x = torch.randn(shape).to(dtype).to(memory_format=torch.channels_last)
    y = fi.bias_act(x, torch.randn(3), "lrelu", clamp=1.0)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    assert y.is_contiguous(memory_format=torch.channels_last) or not x.numel()


X = torch.zeros(2, 3, 4)
ERRORS = {
    "act": (lambda: fi.bias_act(X, act="gelu"), "bias_act act must be one of .*, not 'gelu'"),
    "alpha": (lambda: fi.bias_act(X, act="relu", alpha=0.1), "alpha is the slope of act='lrelu'"),
    "clamp": (lambda: fi.bias_act(X, clamp=-1), "clamp must be at least 0, not -1"),
    "type": (lambda: fi.bias_act(X.long()), "x must be a floating-point tensor, not torch.int64"),
    "dim": (lambda: fi.bias_act(X, torch.zeros(4), dim=3), "dim must be an axis of x, which has 3, not 3"),
    "bias": (lambda: fi.bias_act(X, torch.zeros(4)), r"bias must have shape \[3\], the size of axis 1 of x, not \[4\]"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_sentence(case):
    make, sentence = ERRORS[case]
    with pytest.raises(ValueError, match=sentence) as caught:
        make()
    assert str(caught.value).endswith(".")
