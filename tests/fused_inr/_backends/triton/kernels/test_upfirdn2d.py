"""`upfirdn2d` on the Triton kernels, against the reference in float64."""

import pytest
import torch

from fused_inr import reference
from fused_inr.primitives import memory_format
from fused_inr.primitives.upfirdn2d import upfirdn2d

RATES = {
    "filter": ((1, 1), (1, 1), (2, 1, 2, 1)),
    "down2": ((1, 1), (2, 2), (1, 1, 1, 1)),
    "up2": ((2, 2), (1, 1), (2, 1, 2, 1)),
    "up2x3-down3x2": ((2, 3), (3, 2), (5, 2, 4, 7)),
    "cropped": ((1, 2), (2, 1), (-1, 9, 6, -2)),
    "sparse": ((5, 1), (1, 4), (9, 9, 9, 9)),
}
LAYOUTS = ("contiguous", "channels_last")
FILTERS = {"4": (4,), "3x5": (3, 5), "1x1": (1, 1), "12": (12,)}


def image(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape).to(dtype)


SETUPS = [
    *((rates, taps, where, torch.float32) for rates in RATES for taps in ("4", "3x5") for where in LAYOUTS),
    *(("down2", "4", where, dtype) for where in LAYOUTS for dtype in (torch.bfloat16, torch.float16)),
    ("up2x3-down3x2", "3x5", "strided", torch.float32),
]


@pytest.mark.parametrize(("rates", "taps", "where", "dtype"), SETUPS, ids=lambda value: str(value).split(".")[-1])
def test_values_and_gradients(rates, taps, where, dtype, lay_out, check, exactly, device):
    x = lay_out(image(2, 3, 13, 11, dtype=dtype), where).requires_grad_()
    wide, taps = exactly(x), torch.randn(FILTERS[taps])
    options = (*RATES[rates], True, 1.5)
    actual, exact = upfirdn2d(x, taps.to(device), *options), reference.upfirdn2d(wide, taps.double(), *options)
    check("y", actual, exact)
    assert memory_format.format_of(actual) == memory_format.format_of(memory_format.dense(x))
    weight = torch.randn_like(actual)
    (dx,) = torch.autograd.grad(actual, x, weight)
    (dx_exact,) = torch.autograd.grad(exact, wide, weight.cpu().double())
    check("dx", dx, dx_exact)


@pytest.mark.parametrize("where", LAYOUTS)
@pytest.mark.parametrize("taps", ["4", "1x1"])
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (3, 1, 63, 3), (1, 66, 3, 1), (2, 2, 3, 30)], ids=str)
def test_odd_sizes(shape, taps, where, lay_out, check, exactly, device):
    x, taps = lay_out(image(*shape), where), torch.randn(FILTERS[taps])
    for up, down in (((1, 1), (2, 2)), ((2, 2), (1, 1))):
        options = (up, down, (6, 6, 6, 6), False, 1.0)
        exact = reference.upfirdn2d(exactly(x), taps.double(), *options)
        check(f"up {up}", upfirdn2d(x, taps.to(device), *options), exact)


@pytest.mark.parametrize("where", LAYOUTS)
def test_many_taps(where, lay_out, check, exactly, device):
    x, taps = lay_out(image(2, 3, 7, 5), where), torch.randn(12)
    for up, down in (((1, 1), (2, 2)), ((2, 2), (1, 1))):
        options = (up, down, (6, 6, 6, 6), False, 1.0)
        exact = reference.upfirdn2d(exactly(x), taps.double(), *options)
        check(f"up {up}", upfirdn2d(x, taps.to(device), *options), exact)


@pytest.mark.parametrize("shape", [(0, 3, 4, 4), (2, 0, 4, 4), (2, 3, 0, 4)], ids=str)
def test_empty_tensors(shape, device):
    x = image(*shape).to(device).requires_grad_()
    y = upfirdn2d(x, torch.ones(4, device=device), (1, 1), (2, 2), (2, 2, 2, 2), False, 1.0)
    assert y.shape == (*shape[:2], (shape[2] + 4 - 4) // 2 + 1, 3)
    assert not y.any()
    (dx,) = torch.autograd.grad(y.sum(), x)
    assert dx.shape == x.shape


def test_derivatives_of_any_order(check, exactly, device):
    """Check third derivatives: the op is linear, so its gradient is the op again and all orders are exact."""
    x, taps = image(1, 2, 7, 5), torch.randn(3, 4)
    options = ((1, 2), (2, 1), (3, 2, 1, 4), False, 2.0)

    def third(function, x, taps) -> torch.Tensor:
        total = function(x, taps, *options).pow(4).sum()
        for _ in range(3):
            (dx,) = torch.autograd.grad(total, x, create_graph=True)
            total = dx.square().sum()
        return dx

    actual = third(upfirdn2d, x.to(device).requires_grad_(), taps.to(device))
    check("dx", actual, third(reference.upfirdn2d, exactly(x), taps.double()))
