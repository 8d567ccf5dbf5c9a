"""`minibatch_stddev` on the Triton kernels, against the reference in float64."""

import pytest
import torch

from fused_inr import reference
from fused_inr._backends.triton.kernels import minibatch_stddev as stddev_kernels
from fused_inr.primitives.minibatch_stddev import minibatch_stddev

CASES = {
    "N8-C6-4x4-group4": ((8, 6, 4, 4), 4, 1),
    "N6-C6-3x5-group3-planes2": ((6, 6, 3, 5), 3, 2),
    "N4-C3-1x1-group4-planes3": ((4, 3, 1, 1), 4, 3),
    "N3-C63-9x11-group1": ((3, 63, 9, 11), 1, 1),
    "N64-C8-2x2-group64": ((64, 8, 2, 2), 64, 1),
    "N10-C100-1x3-group5-planes4": ((10, 100, 1, 3), 5, 4),
}


SETUPS = [
    pytest.param(case, where, dtype, id=f"{case}-{where}-{str(dtype)[6:]}")
    for case in CASES
    for where, dtype in (
        ("contiguous", torch.float32),
        ("channels_last", torch.bfloat16),
        ("strided", torch.float16),
    )
]


@pytest.mark.parametrize(("case", "where", "dtype"), SETUPS)
def test_values_and_gradients(case, where, dtype, lay_out, check, exactly):
    shape, group, planes = CASES[case]
    x = lay_out(torch.randn(shape).to(dtype), where).requires_grad_()
    wide = exactly(x)
    actual, exact = minibatch_stddev(x, group, planes), reference.minibatch_stddev(wide, group, planes)
    assert torch.equal(actual[:, : shape[1]], x)
    check("planes", actual[:, shape[1] :], exact[:, shape[1] :])
    for name in ("of all", "of the planes alone"):
        weight = 1 + torch.rand_like(actual)  # of one sign, so that sums over a plane do not cancel
        if name != "of all":
            weight[:, : shape[1]] = 0
        (dx,), (dx_exact,) = (
            torch.autograd.grad(y, t, weight.to(y.device, y.dtype), retain_graph=True)
            for y, t in ((actual, x), (exact, wide))
        )
        check(f"gradient {name}", dx, dx_exact)


def test_many_tiles_and_loops_over_them(check, exactly, monkeypatch, device):
    monkeypatch.setattr(stddev_kernels, "TILE_ELEMENTS", 8)
    monkeypatch.setattr(stddev_kernels, "MAX_AT_ONCE", 4)
    x = torch.randn(4, 6, 3, 5, device=device)
    check("y", minibatch_stddev(x, 2, 1), reference.minibatch_stddev(exactly(x), 2, 1))


@pytest.mark.parametrize("shape", [(0, 4, 3, 3), (4, 0, 3, 3), (4, 4, 0, 3)], ids=str)
def test_empty_tensors(shape, device):
    x = torch.zeros(shape, device=device, requires_grad=True)
    y = minibatch_stddev(x, max(1, min(2, shape[0])), 1)
    assert y.shape == (shape[0], shape[1] + 1, *shape[2:])
    expected = reference.minibatch_stddev(x.detach().cpu(), max(1, min(2, shape[0])), 1)  # NaN without channels
    torch.testing.assert_close(y.detach().cpu(), expected, rtol=0, atol=0, equal_nan=True)
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.shape == shape


def test_second_derivatives(assert_close, exactly, device):
    x, weight = (torch.randn(shape, device=device) for shape in ((8, 3, 2, 3), (8, 4, 2, 3)))

    def derivatives(function, x, weight) -> tuple[torch.Tensor, ...]:
        (dx,) = torch.autograd.grad(function(x, 4, 1), x, weight, create_graph=True)
        return torch.autograd.grad(dx.pow(3).sum(), [x, weight])

    exact = derivatives(reference.minibatch_stddev, exactly(x), exactly(weight))
    actual = derivatives(minibatch_stddev, x.requires_grad_(), weight.requires_grad_())
    for a, b in zip(actual, exact, strict=True):
        assert_close("derivative", b, a.cpu().double(), 2e-6)  # measured 1.1e-7 in the interpreter
