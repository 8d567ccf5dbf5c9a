"""fmm_weight: the official numbers, the formula, gradients of two orders, errors."""

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fused_inr as fi


def test_parity(parity, assert_close):
    weight, styles, x = parity["fmm.weight"][:, :, 0, 0], parity["fmm.styles"], parity["fmm.x"]
    (outputs, inputs), rank = weight.shape, 4
    left, right = styles.split([outputs * rank, rank * inputs], dim=1)
    modulated = fi.fmm_weight(weight, left.reshape(-1, outputs, rank), right.reshape(-1, rank, inputs))
    assert_close("y", parity["fmm.y"], torch.einsum("noi,nihw->nohw", modulated, x), 1e-5)


@pytest.mark.parametrize(
    ("n", "o", "i", "r"), [(1, 1, 1, 1), (3, 5, 63, 2), (2, 4, 3, 10)], ids=["tiny", "N3-O5-I63", "R10"]
)
def test_formula(n, o, i, r):
    weight, left, right = torch.randn(o, i).double(), torch.randn(n, o, r).double(), torch.randn(n, r, i).double()
    plain = fi.fmm_weight(weight, left, right, demodulate=False)
    expected = [
        [
            [weight[b, c] * (1 + sum(left[a, b, k] * right[a, k, c] for k in range(r)) / r**0.5) for c in range(i)]
            for b in range(o)
        ]
        for a in range(n)
    ]
    torch.testing.assert_close(plain, torch.tensor(expected, dtype=torch.float64))
    rows = fi.fmm_weight(weight, left, right).square().sum(dim=2)
    torch.testing.assert_close(rows, torch.ones_like(rows), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("demodulate", [True, False], ids=["demodulated", "plain"])
def test_gradients(demodulate):
    torch.manual_seed(0)
    shapes = (4, 3), (2, 4, 2), (2, 2, 3)
    leaves = [torch.randn(shape, dtype=torch.float64, requires_grad=True) for shape in shapes]
    assert gradcheck(lambda *tensors: fi.fmm_weight(*tensors, demodulate=demodulate), leaves)
    assert gradgradcheck(lambda *tensors: fi.fmm_weight(*tensors, demodulate=demodulate), leaves)


def test_autocast_and_half_precision_are_computed_in_float32():
    tensors = torch.randn(4, 3), torch.randn(2, 4, 2), torch.randn(2, 2, 3)
    exact = fi.fmm_weight(*tensors)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(fi.fmm_weight(*tensors), exact)
    assert fi.fmm_weight(*(tensor.bfloat16() for tensor in tensors)).dtype == torch.float32


def test_empty_batch():
    assert fi.fmm_weight(torch.randn(4, 3), torch.randn(0, 4, 2), torch.randn(0, 2, 3)).shape == (0, 4, 3)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        (((4, 3, 1), (2, 4, 2), (2, 2, 3)), r"weight must be floating point \[O, I\], not torch.float32 \[4, 3, 1\]"),
        (((4, 3), (2, 5, 2), (2, 2, 3)), r"must have shapes \[N, 4, R\] and \[N, R, 3\]"),
        (((4, 3), (2, 4, 2), (1, 2, 3)), r"not \[2, 4, 2\] and \[1, 2, 3\]"),
        (((4, 3), (2, 4, 0), (2, 0, 3)), "R >= 1"),
    ],
    ids=["rank", "outputs", "batch", "R0"],
)
def test_errors_are_one_sentence(shapes, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        fi.fmm_weight(*(torch.zeros(shape) for shape in shapes))
    assert str(caught.value).endswith(".")
