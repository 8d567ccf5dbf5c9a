"""`augment` on the Triton kernels, against the reference in float64."""

import itertools

import pytest
import torch

from fused_inr import reference
from fused_inr._backends.triton.kernels import augment as augment_kernels
from fused_inr.primitives.augment import augment

# Shape of the clips, and the hole.
CASES = {
    "N3-T2-C3-7x5": ((3, 2, 3, 7, 5), (3, 2)),
    "N2-T1-C1-1x1": ((2, 1, 1, 1, 1), (1, 1)),
    "N2-T1-C3-63x100": ((2, 1, 3, 63, 100), (32, 50)),
    "N1-T2-C5-3x1": ((1, 2, 5, 3, 1), (2, 9)),
}
SETUPS = [
    pytest.param(case, where, dtype, id=f"{case}-{where}-{str(dtype)[6:]}")
    for case in CASES
    for where, dtype in (("contiguous", torch.float32), ("strided", torch.bfloat16), ("contiguous", torch.float16))
]
ORDERS = pytest.mark.parametrize("color_last", [False, True], ids=["color-first", "color-last"])


def draw_for(shape: tuple[int, ...], device: str, reach: float = 0.6) -> list[torch.Tensor]:
    """Draw brightness, saturation, contrast, offset and hole for clips of a shape."""
    amounts = [0.3 + torch.rand(shape[0], device=device) for _ in range(3)]
    sides = torch.tensor(shape[3:])
    places = [(torch.empty(shape[0], 2).uniform_(-reach, reach) * sides).long().to(device) for _ in range(2)]
    return amounts + places


@pytest.fixture
def compare(check, exactly):
    """Compare the value, its gradient for a weight, and the directional derivative of that with the reference."""

    def compare(x, draw, hole, color_last):
        weight, direction = torch.randn_like(x), torch.randn_like(x)

        def run(function, x, draw, weight, direction) -> list[torch.Tensor]:
            y = function(x, *draw, hole, color_last)
            (dx,) = torch.autograd.grad(y, x, weight, create_graph=True)
            (again,) = torch.autograd.grad(dx, weight, direction)
            return [y, dx, again]

        on_cpu = [None if t is None else t.cpu() for t in draw]
        exact = run(reference.augment, exactly(x), on_cpu, exactly(weight), exactly(direction))
        actual = run(augment, x.detach().requires_grad_(), draw, weight.requires_grad_(), direction)
        for name, a, b in zip(("y", "dx", "derivative of dx"), actual, exact, strict=True):
            check(name, a, b)

    return compare


@ORDERS
@pytest.mark.parametrize(("case", "where", "dtype"), SETUPS)
def test_values_and_derivatives(case, where, dtype, color_last, lay_out, compare, device):
    shape, hole = CASES[case]
    compare(lay_out(torch.randn(shape).to(dtype), where), draw_for(shape, device), hole, color_last)


@ORDERS
def test_one_change_alone_or_left_out(color_last, compare, device):
    shape, hole = CASES["N3-T2-C3-7x5"]
    draw = draw_for(shape, device, 0.3)
    for kept in itertools.product([False, True], repeat=5):
        if sum(kept) in (1, 4):
            partial_draw = [t if keep else None for t, keep in zip(draw, kept, strict=True)]
            compare(torch.randn(shape, device=device), partial_draw, hole, color_last)


def test_many_tiles_and_loops_over_their_sums(monkeypatch, compare, device):
    monkeypatch.setattr(augment_kernels, "_TILE_PIXELS", 8)
    monkeypatch.setattr(augment_kernels, "_MAX_SUMS", 4)
    shape, hole = CASES["N3-T2-C3-7x5"]
    for color_last in (False, True):
        compare(torch.randn(shape, device=device), draw_for(shape, device), hole, color_last)


@pytest.mark.parametrize("hole", [(0, 0), (9, 9), (2**62, 2**62)], ids=lambda hole: f"hole{hole[0]}")
def test_extreme_places(hole, device):
    extremes = torch.tensor([-(2**63), -(2**40), -9, -1, 0, 8, 2**40, 2**63 - 1])
    n = len(extremes)
    x = torch.randn(n, 1, 1, 8, 8)
    for turn in range(0, n, 3):
        translation = extremes[:, None].expand(n, 2).contiguous()
        first = extremes.roll(turn)
        cutout = first[:, None].expand(n, 2).contiguous()
        for adjoint in (False, True):
            arguments = [None, None, None, translation, cutout, hole, False, adjoint]
            moved = torch.ops.fused_inr.augment(
                x.to(device), *(t.to(device) if isinstance(t, torch.Tensor) else t for t in arguments)
            )
            small = translation.clamp(-8, 8)
            # Clamping the ends of a hole to the frame does not change the pixels that it covers.
            ends = [(first.double() + side).clamp(0, 8) for side in hole]
            begin = first.clamp(0, 8)
            for clip in range(n):
                mask = torch.ones(8, 8, dtype=torch.float64)
                mask[int(begin[clip]) : int(ends[0][clip]), int(begin[clip]) : int(ends[1][clip])] = 0
                image, by = x[clip : clip + 1].double(), small[clip : clip + 1]
                if adjoint:
                    exact = reference.translate(image * mask, -by)
                else:
                    exact = reference.translate(image, by) * mask
                assert torch.equal(moved[clip : clip + 1].cpu().double(), exact)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4, 4), (2, 0, 3, 4, 4), (2, 2, 0, 4, 4), (2, 2, 3, 4, 0)], ids=str)
def test_empty_clips(shape, device):
    x = torch.zeros(shape, device=device, requires_grad=True)
    y = augment(x, *draw_for(shape, device), (2, 2), False)
    assert y.shape == torch.autograd.grad(y.sum(), x)[0].shape == x.shape
