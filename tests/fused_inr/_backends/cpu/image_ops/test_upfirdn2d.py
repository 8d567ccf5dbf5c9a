"""upfirdn2d on the CPU kernels: against the reference in float64, with derivatives, in every layout."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch

import fused_inr as fi

pytestmark = pytest.mark.usefixtures("compiled_library")

# Measured on every instruction set: 2.0e-7, 2.7e-3 and 2.9e-4 at most.
TOLERANCE = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}
LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}
by_layout = pytest.mark.parametrize("layout", LAYOUTS)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def taps(*shape: int) -> torch.Tensor:
    return normal(*shape, seed=1)


FIR = torch.tensor([1.0, 3.0, 3.0, 1.0])
FIR = torch.outer(FIR, FIR) / FIR.sum() ** 2  # the filter with which a discriminator downsamples

# Shape of x, filter, options.
CASES = {
    "N2-C3-H63-W100-fir-pad2": ((2, 3, 63, 100), FIR, dict(padding=2)),
    "N2-C3-H63-W100-fir-down2-pad1": ((2, 3, 63, 100), FIR, dict(down=2, padding=1)),
    "N1-C2-H31-W17-fir-up2": ((1, 2, 31, 17), FIR, dict(up=2, padding=[2, 1, 2, 1], gain=4)),
    "N2-C3-H1-W1-fir-up2": ((2, 3, 1, 1), FIR, dict(up=2, padding=[2, 1, 2, 1])),
    "N2-C3-H1-W1-pad3-down3": ((2, 3, 1, 1), taps(4, 4), dict(down=3, padding=3)),
    "N1-C1-H1-W63-row": ((1, 1, 1, 63), taps(1, 5), dict(down=[2, 1], padding=[1, 3, 0, 0])),
    "N1-C1-H63-W1-column": ((1, 1, 63, 1), taps(5, 1), dict(down=[1, 2], padding=[0, 0, 1, 3])),
    "N1-C17-H9-W11-taps3x2": ((1, 17, 9, 11), taps(3, 2), {}),
    "N1-C17-H9-W11-taps3x2-flip-gain": ((1, 17, 9, 11), taps(3, 2), dict(flip_filter=True, gain=-1.7)),
    "N1-C5-H9-W40-taps[4]-up3": ((1, 5, 9, 40), taps(4), dict(up=3, padding=4)),
    "N1-C5-H9-W70-taps[3]-down3-flip-gain": ((1, 5, 9, 70), taps(3), dict(down=3, flip_filter=True, gain=-0.3)),
    "N1-C2-H20-W37-taps[12]-down2": ((1, 2, 20, 37), taps(12), dict(down=2, padding=5)),
    "N1-C2-H15-W37-taps12x12-up2": ((1, 2, 15, 37), taps(12, 12), dict(up=2, padding=6)),
    "N1-C3-H12-W11-up2-down3": ((1, 3, 12, 11), taps(5, 4), dict(up=2, down=3, padding=2)),
    "N1-C3-H12-W11-up3-down2": ((1, 3, 12, 11), taps(4, 5), dict(up=3, down=2, padding=3)),
    "N1-C3-H12-W50-up3x2-down2x3": ((1, 3, 12, 50), taps(4, 5), dict(up=[3, 2], down=[2, 3], padding=[1, 4, 2, 0])),
    "N1-C3-H12-W50-crop": ((1, 3, 12, 50), taps(3, 3), dict(padding=[-5, -7, -2, -1])),
    "N1-C3-H12-W50-crop-up3-down2": ((1, 3, 12, 50), taps(2, 4), dict(up=3, down=2, padding=[-7, 4, 5, -8])),
    "N2-C700-H5-W63-many-tiles": ((2, 700, 5, 63), FIR, dict(down=2, padding=[2, 1, 1, 2])),
    "N1-C300-H3-W63-many-tiles-taps4x3-up2": ((1, 300, 3, 63), taps(4, 3), dict(up=2, padding=2)),
    "N2-C5-H6-W7-no-filter-down3": ((2, 5, 6, 7), None, dict(down=3, gain=2)),
    "N2-C5-H6-W7-no-filter-up2": ((2, 5, 6, 7), None, dict(up=2, padding=[1, 0, -1, 2])),
}


def resampler(filter: torch.Tensor | None, options: dict) -> Callable[[torch.Tensor], torch.Tensor]:
    return lambda x: fi.upfirdn2d(x, filter, **options)


@by_layout
@pytest.mark.parametrize("name", CASES)
def test_cases(instruction_set, name, layout, check_derivatives):
    shape, filter, options = CASES[name]
    x = normal(*shape).to(memory_format=LAYOUTS[layout]).requires_grad_()
    check_derivatives(resampler(filter, options), [x], 2, TOLERANCE[torch.float32])


HALVES = ("fir-down2-pad1", "fir-up2", "taps3x2", "down3-flip-gain", "taps12x12-up2", "up3x2-down2x3", "many-tiles")


@by_layout
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("name", [name for name in CASES if name.endswith(HALVES)])
def test_cases_in_half_precision(instruction_set, name, dtype, layout, check_derivatives):
    shape, filter, options = CASES[name]
    x = normal(*shape).to(dtype).to(memory_format=LAYOUTS[layout]).requires_grad_()
    check_derivatives(resampler(filter, options), [x], 2, TOLERANCE[dtype])


# Padding that crops more on one side than the width or height of the image, which takes PyTorch two steps.
CROPS = {
    "left-and-top": ((2, 1, 4, 3), 2, [-8, 5, -9, 4]),
    "right-and-bottom": ((1, 2, 4, 3), 2, [5, -8, 4, -9]),
    "right-up9": ((1, 1, 1, 1), 9, [20, -12, 20, -12]),
    "right-up200": ((1, 1, 1, 1), 200, [300, -300, 1, 0]),
}


@by_layout
@pytest.mark.parametrize("name", CROPS)
def test_crops_beyond_the_image(instruction_set, name, layout):
    shape, up, padding = CROPS[name]
    x, filter = normal(*shape), taps(2, 2)
    with fi.backend("reference"):
        padded = fi.upfirdn2d(x, None, up, padding=[max(0, side) for side in padding])
        expected = fi.upfirdn2d(padded, filter, padding=[min(0, side) for side in padding])
    with fi.backend("cpu"):
        actual = fi.upfirdn2d(x.to(memory_format=LAYOUTS[layout]), filter, up, padding=padding)
    torch.testing.assert_close(actual, expected)


VIEWS = {
    "sliced": lambda: normal(2, 6, 9, 30)[:, 1::2, ::2, 3:-2],
    "permuted": lambda: normal(20, 2, 9, 3).permute(1, 3, 2, 0),
    "expanded": lambda: normal(2, 1, 7, 1).expand(2, 5, 7, 20),
    "turned": lambda: normal(2, 3, 9, 20).mT,
    "half-of-channels_last": lambda: normal(2, 6, 9, 20).to(memory_format=torch.channels_last)[:, :3],
    "N1-C1-channels_last": lambda: normal(1, 1, 9, 20).to(memory_format=torch.channels_last),
}


@pytest.mark.parametrize("name", VIEWS)
def test_images_that_are_not_dense(instruction_set, name, check_derivatives):
    x = VIEWS[name]().requires_grad_()
    check_derivatives(resampler(taps(3, 4), dict(up=2, down=3, padding=2)), [x], 2, TOLERANCE[torch.float32])


@pytest.mark.parametrize(
    "filter",
    [taps(4, 4).T, taps(8)[::2], taps(1, 4).expand(3, 4), taps(4, 4).double(), FIR.bfloat16(), torch.zeros(3, 3)],
    ids=["transposed", "sliced", "expanded", "float64", "bfloat16", "zeros"],
)
@by_layout
def test_filters(layout, filter, check_derivatives):
    x = normal(2, 3, 9, 20).to(memory_format=LAYOUTS[layout]).requires_grad_()
    check_derivatives(resampler(filter, dict(down=2, padding=3)), [x], 2, TOLERANCE[torch.float32])


@by_layout
def test_gradients_through_other_ops_to_third_order(layout, check_derivatives):
    x = normal(2, 3, 6, 7).to(memory_format=LAYOUTS[layout]).requires_grad_()

    def function(x: torch.Tensor) -> torch.Tensor:
        return fi.upsample2d(fi.downsample2d(x.tanh(), FIR).tanh(), FIR).square()

    check_derivatives(function, [x], 3, TOLERANCE[torch.float32])


@by_layout
@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (2, 3, 0, 8), (2, 3, 8, 0)], ids=str)
def test_empty_images(shape, layout, check_derivatives):
    x = torch.zeros(shape).to(memory_format=LAYOUTS[layout]).requires_grad_()
    check_derivatives(resampler(FIR, dict(down=2, padding=2)), [x], 2, 0)


def run(x: torch.Tensor, direction: torch.Tensor) -> Sequence[torch.Tensor]:
    """Return y and the gradient of x along a direction."""
    with fi.backend("cpu"):
        y = fi.upfirdn2d(x, FIR, down=2, padding=1)
    return y, *torch.autograd.grad(y, x, direction)


@pytest.mark.parametrize("gradient", ["contiguous", "channels_last", "expanded"])
@by_layout
def test_results_and_gradients_have_the_layout_of_the_input(layout, gradient, assert_close):
    direction = normal(2, 3, 1, 1).expand(2, 3, 4, 5) if gradient == "expanded" else normal(2, 3, 4, 5, seed=1)
    if gradient == "channels_last":
        direction = direction.to(memory_format=torch.channels_last)
    actual = run(normal(2, 3, 8, 10).to(memory_format=LAYOUTS[layout]).requires_grad_(), direction)
    assert all(tensor.is_contiguous(memory_format=LAYOUTS[layout]) for tensor in actual)
    for name, a, b in zip(("y", "dx"), run(normal(2, 3, 8, 10).requires_grad_(), direction), actual, strict=True):
        assert_close(name, a, b, 1e-6)  # measured: 9e-8


@by_layout
@pytest.mark.parametrize("special", [math.nan, math.inf], ids=str)
def test_special_values_affect_only_pixels_under_the_filter(instruction_set, special, layout):
    x = normal(1, 2, 20, 40)
    x[0, 1, 9, 21] = special
    with fi.backend("cpu"):
        actual = fi.upfirdn2d(x.to(memory_format=LAYOUTS[layout]), FIR, down=2, padding=1)
    with fi.backend("reference"):
        expected = fi.upfirdn2d(x, FIR, down=2, padding=1)
    assert expected.isfinite().logical_not().sum() == 4
    torch.testing.assert_close(actual, expected, equal_nan=True)


@by_layout
def test_float16_overflows_to_infinity(instruction_set, layout):
    x = torch.full((1, 3, 4, 20), 60000.0, dtype=torch.float16).to(memory_format=LAYOUTS[layout])
    x[..., 10:] = 2.0**-20  # a subnormal number
    with fi.backend("cpu"):
        actual = fi.upfirdn2d(x, torch.ones(1, 2))
    assert (actual[..., :9] == math.inf).all()
    assert (actual[..., 10:] == 2.0**-19).all()


def test_filter_that_requires_gradients_is_left_to_the_reference():
    x, filter = normal(1, 2, 5, 5), FIR.clone().requires_grad_()
    (actual,) = torch.autograd.grad(fi.upfirdn2d(x, filter).sum(), filter)
    assert actual.shape == filter.shape
    why = "Backend 'cpu' was requested but cannot run this upfirdn2d: it has no gradient for the filter"
    with fi.backend("cpu"), pytest.raises(RuntimeError, match=why):
        fi.upfirdn2d(x, filter)
    with fi.backend("cpu"), torch.no_grad():
        assert fi.upfirdn2d(x, filter).shape == (1, 2, 2, 2)
