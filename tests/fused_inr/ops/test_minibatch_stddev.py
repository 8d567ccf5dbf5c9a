"""minibatch_stddev: the official numbers, grouping, gradients of two orders, errors."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fused_inr as fi


def test_parity(parity, assert_close):
    assert_close("y", parity["mbstd.y"], fi.minibatch_stddev(parity["mbstd.x"]), 1e-5)


@pytest.mark.parametrize(("n", "group", "channels"), [(8, 4, 1), (6, 2, 2), (3, 4, 4), (1, 4, 1)])
def test_formula(n, group, channels):
    x = torch.randn(n, 4, 3, 2).double()
    y = fi.minibatch_stddev(x, group, channels)
    assert y.shape == (n, 4 + channels, 3, 2)
    assert torch.equal(y[:, :4], x)
    groups = n // min(group, n)
    for i in range(n):
        members = x[i % groups :: groups]
        deviation = (members.var(dim=0, unbiased=False) + 1e-8).sqrt()
        expected = torch.stack([part.mean() for part in deviation.chunk(channels)])
        torch.testing.assert_close(y[i, 4:], expected[:, None, None].expand(-1, 3, 2))


def test_gradients():
    x = torch.randn(4, 2, 2, 1, dtype=torch.float64, requires_grad=True)
    assert gradcheck(lambda x: fi.minibatch_stddev(x, 2, 2), x)
    assert gradgradcheck(lambda x: fi.minibatch_stddev(x, 2, 2), x)


@pytest.mark.parametrize("fixed", ["none", "probe", "x"])
def test_gradients_in_float32_are_those_of_float64(fixed, assert_close):
    results = []
    for dtype in (torch.float64, torch.float32):
        generator = torch.Generator().manual_seed(0)
        x, probe = (torch.randn(4, c, 3, 2, dtype=torch.float64, generator=generator).to(dtype) for c in (4, 6))
        x.requires_grad_()
        probe.requires_grad_(fixed != "probe")
        (dx,) = torch.autograd.grad((fi.minibatch_stddev(x, 4, 2) * probe).sum(), x, create_graph=True)
        leaves = [probe] if fixed == "x" else [x] if fixed == "probe" else [x, probe]
        direction = torch.randn(x.shape, dtype=torch.float64, generator=generator).to(dtype)
        results.append([dx.detach(), *torch.autograd.grad((dx * direction).sum(), leaves)])
    for exact, ours in zip(*results, strict=True):
        assert_close("gradient", exact.float(), ours, 1e-5)


def test_statistics_of_half_precision_are_float32():
    x = (300 + torch.randn(4, 2, 3, 3)).half()  # squares beyond float16's range
    y = fi.minibatch_stddev(x)
    assert y.dtype == torch.float16
    torch.testing.assert_close(y[:, 2:].float(), fi.minibatch_stddev(x.float())[:, 2:], rtol=1e-3, atol=0)


def test_empty_batch():
    assert fi.minibatch_stddev(torch.zeros(0, 4, 3, 3)).shape == (0, 5, 3, 3)


X = torch.zeros(6, 4, 3, 3)
ERRORS = {
    "batch": (lambda: fi.minibatch_stddev(X), "multiple of its group size 4, not 6 samples; change the batch"),
    "channels": (lambda: fi.minibatch_stddev(X, 2, 3), "channels must divide the 4 channels of x; 3 does not"),
    "group": (lambda: fi.minibatch_stddev(X, 0), "group_size must be an integer of at least 1, not 0"),
    "shape": (lambda: fi.minibatch_stddev(X[0]), r"x must be floating point \[N, C, H, W\]"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_sentence(case):
    make, sentence = ERRORS[case]
    with pytest.raises(ValueError, match=sentence) as caught:
        make()
    assert str(caught.value).endswith(".")
