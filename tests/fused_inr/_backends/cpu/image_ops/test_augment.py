"""augment on the CPU kernels: against the reference in float64, with derivatives; amounts of any value."""

import itertools
import math

import pytest
import torch

import fused_inr as fi

pytestmark = pytest.mark.usefixtures("compiled_library")

# Measured on every instruction set, with derivatives: 9.7e-8, 2.1e-3 and 2.9e-4 at most.
TOLERANCE = {torch.float32: 5e-7, torch.bfloat16: 4e-3, torch.float16: 5e-4}
ORDERS = pytest.mark.parametrize("color_last", [False, True], ids=["color-first", "color-last"])
AMOUNTS, PLACES = ("brightness", "saturation", "contrast"), ("translation", "cutout")

# Size of the clips, size of the hole.
CASES = {
    "N2-T2-C3-H20-W37": ((2, 2, 3, 20, 37), (10, 19)),
    "N3-T1-C1-H1-W1": ((3, 1, 1, 1, 1), (1, 1)),
    "N2-T3-C3-H3-W63": ((2, 3, 3, 3, 63), (2, 32)),
    "N1-T2-C5-H100-W3": ((1, 2, 5, 100, 3), (50, 2)),
    "N4-T1-C3-H2-W15": ((4, 1, 3, 2, 15), (0, 7)),
    "N2-T1-C2-H5-W16": ((2, 1, 2, 5, 16), (9, 30)),
}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0))


def draw_for(shape: tuple[int, ...], hole: tuple[int, int], reach: float = 0.7) -> dict:
    """Draw amounts for clips of a shape; shifts and holes are within `reach` times its sides."""
    generator = torch.Generator().manual_seed(1)
    drawn = {name: 2 * torch.rand(shape[0], generator=generator) for name in AMOUNTS}
    sides = torch.tensor(shape[3:])
    for name in PLACES:
        drawn[name] = (torch.empty(shape[0], 2).uniform_(-reach, reach, generator=generator) * sides).long()
    return drawn | {"cutout_size": hole}


def without(draw: dict, names: tuple[str, ...]) -> dict:
    return {name: value for name, value in draw.items() if name not in names}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=lambda dtype: str(dtype)[6:])
@ORDERS
@pytest.mark.parametrize("name", CASES)
def test_cases(instruction_set, name, color_last, dtype, check_derivatives):
    shape, hole = CASES[name]
    x = normal(*shape).to(dtype).requires_grad_()
    draw = draw_for(shape, hole)
    check_derivatives(lambda x: fi.augment(x, **draw, color_last=color_last), [x], 2, TOLERANCE[dtype])


@ORDERS
def test_skipped_steps(color_last, check_derivatives):
    shape, hole = CASES["N2-T2-C3-H20-W37"]
    draw, names = draw_for(shape, hole, 0.3), (*AMOUNTS, *PLACES)
    for left_out in itertools.chain(*(itertools.combinations(names, count) for count in range(1, len(names)))):
        kept = without(draw, left_out)
        check_derivatives(
            lambda x, kept=kept: fi.augment(x, **kept, color_last=color_last),
            [normal(*shape).requires_grad_()],
            1,
            5e-7,
        )


VIEWS = {
    "frames-first": lambda: normal(4, 2, 3, 5, 7).transpose(0, 1),
    "sliced": lambda: normal(4, 3, 3, 9, 20)[::2, 1:, :, ::2, 3:],
    "channels-last": lambda: normal(2, 2, 5, 7, 3).permute(0, 1, 4, 2, 3),
    "expanded": lambda: normal(2, 1, 3, 1, 7).expand(2, 4, 3, 5, 7),
    "time-plane-cut-off": lambda: normal(2, 7, 5, 6)[:, :6].unflatten(1, (2, 3)),
}


@pytest.mark.parametrize("name", VIEWS)
def test_layouts(name, check_derivatives):
    x = VIEWS[name]().requires_grad_()
    draw = draw_for(tuple(x.shape), (3, 3))
    check_derivatives(lambda x: fi.augment(x, **draw), [x], 2, TOLERANCE[torch.float32])
    with fi.backend("cpu"):
        assert fi.augment(x, **draw).is_contiguous()


@ORDERS
def test_adjoint_op(instruction_set, color_last):
    """<g, A x> = <A* g, x>, and the derivative of the adjoint is A itself, in direct calls of the op."""
    shape, hole = CASES["N2-T2-C3-H20-W37"]
    draw = draw_for(shape, hole)
    x, g = normal(2, *shape).unbind(0)
    options = [None, draw["saturation"], draw["contrast"], draw["translation"], draw["cutout"], hole, color_last]
    ax, adjoint = (torch.ops.fused_inr.augment(*t) for t in ((x, *options, False), (g, *options, True)))
    forward, backward = (g.double() * ax.double()).sum(), (adjoint.double() * x.double()).sum()
    # Measured: 5.2e-10.
    assert (forward - backward).abs() <= 1e-8 * ax.norm() * g.norm()
    leaf = g.clone().requires_grad_()
    (again,) = torch.autograd.grad(torch.ops.fused_inr.augment(leaf, *options, True), leaf, x)
    assert torch.equal(again, ax)


EXTREMES = [-(2**63), -(2**40), -21, -20, -1, 0, 1, 19, 20, 21, 2**40, 2**63 - 1]


@ORDERS
@pytest.mark.parametrize("hole", [(0, 0), (7, 7), (41, 41), (2**62, 2**62)], ids=lambda hole: f"hole{hole[0]}")
def test_positions_of_any_value(instruction_set, hole, color_last, check_derivatives):
    """Includes numbers whose sum overflows; the reference cannot compute the largest hole."""
    n = len(EXTREMES)
    x = normal(n, 1, 2, 20, 20).requires_grad_()
    for turn in range(0, n, 5):
        translation = torch.tensor(EXTREMES)[:, None].expand(n, 2)
        cutout = torch.tensor(EXTREMES).roll(turn)[:, None].expand(n, 2)
        if hole[0] < 2**40:
            for places in ({"translation": translation}, {"translation": translation.clamp(-50, 50), "cutout": cutout}):
                check_derivatives(
                    lambda x, places=places: fi.augment(x, **places, cutout_size=hole, color_last=color_last),
                    [x],
                    1,
                    0,
                )
        with fi.backend("cpu"):
            y = fi.augment(x, cutout=cutout, cutout_size=hole)
        first = cutout[:, 0].double()
        alone = (first >= 20) | (first + hole[0] <= 0)
        assert torch.equal(y[alone], x[alone])
        covered = (first <= 0) & (first + hole[0] >= 20)
        assert not y[covered].any()


@ORDERS
def test_invisible_pixels_have_no_effect(instruction_set, color_last):
    """Pixels shifted out, and gradients in the hole, may be NaN or infinite if color does not mix pixels."""
    x = normal(1, 1, 1, 5, 40)
    x[..., 3:, :] = math.nan
    places = {"translation": torch.tensor([[2, 0]]), "cutout": torch.tensor([[0, 5]]), "cutout_size": (4, 20)}
    leaf = x.requires_grad_()
    with fi.backend("cpu"):
        y = fi.augment(leaf, **places)
        gradient = torch.full_like(y, math.inf).masked_fill(y != 0, 1.0)
        (dx,) = torch.autograd.grad(y, leaf, gradient)
        assert y.isfinite().all()
        assert dx.isfinite().all()
        assert dx.sum() == (y != 0).sum() > 0
        if color_last:
            seen = fi.augment(leaf, **places, contrast=torch.tensor([0.5]), color_last=True)
            assert seen.isfinite().all()


def test_identities_keep_the_bits(instruction_set):
    x = torch.tensor([math.nan, math.inf, -0.0, 1e-45, 3.0]).repeat(8).view(1, 1, 1, 2, 20)
    with fi.backend("cpu"):
        y = fi.augment(x, translation=torch.zeros(1, 2, dtype=torch.int32))
    assert torch.equal(y.view(torch.int32), x.view(torch.int32))


@ORDERS
def test_large_means_lose_no_precision(instruction_set, color_last):
    x = 1000 + normal(2, 1, 3, 64, 64)
    contrast = torch.tensor([0.5, 1.5])
    with fi.backend("cpu"):
        actual = fi.augment(x, contrast=contrast, color_last=color_last)
    exact = fi.augment(x.double(), contrast=contrast, color_last=color_last)
    # Measured: 8.6e-5, for numbers with a unit in the last place of 6.1e-5.
    assert (actual - exact).abs().max() <= 1.3e-4


def test_color_last_has_the_bits_of_two_calls(instruction_set):
    """Color last equals color applied to the shifted frame, including its mean."""
    shape, hole = CASES["N2-T2-C3-H20-W37"]
    draw, x = draw_for(shape, hole, 0.3), normal(*shape)
    with fi.backend("cpu"):
        at_once = fi.augment(x, **draw, color_last=True)
        in_turn = fi.augment(fi.augment(x, **without(draw, AMOUNTS)), **without(draw, PLACES))
    assert torch.equal(at_once, in_turn)


@pytest.mark.parametrize("shape", [(0, 2, 3, 4, 4), (2, 0, 3, 4, 4), (2, 2, 0, 4, 4), (2, 2, 3, 0, 4)], ids=str)
def test_empty_clips(shape):
    draw = draw_for(shape, (2, 2))
    x = torch.zeros(shape, requires_grad=True)
    with fi.backend("cpu"):
        y = fi.augment(x, **draw)
    assert y.shape == torch.autograd.grad(y.sum(), x)[0].shape == x.shape


def test_gradients_of_the_amounts_are_not_served():
    x, leaf = normal(2, 1, 3, 4, 4), torch.ones(2, requires_grad=True)
    why = "^Backend 'cpu' was requested but cannot run this augment: it has no gradient for the amounts.$"
    with fi.backend("cpu"), pytest.raises(RuntimeError, match=why):
        fi.augment(x, contrast=leaf)
    with fi.backend("cpu"), torch.no_grad():
        assert torch.equal(fi.augment(x, translation=torch.zeros(2, 2).long()), x)
        fi.augment(x, contrast=leaf)
