"""Grid, Fourier, Layer, Stage and INR: conventions, slices and error messages."""

import pytest
import torch

import fused_inr as fi
from fused_inr import reference


def planes(grid: fi.Grid, dtype: torch.dtype = torch.float64) -> tuple[torch.Tensor, torch.Tensor]:
    x, y = reference.coordinates(grid, dtype, torch.device("cpu"))
    return x.expand(grid.height, -1), y[:, None].expand(-1, grid.width)


def test_coordinates_are_those_of_the_official_model(parity):
    x, y = planes(fi.Grid(4, 4), torch.float32)
    assert torch.equal(torch.stack([x, y]), parity["coords4"])


def test_corners_are_half_open_and_the_top_row_has_the_largest_y():
    x, y = planes(fi.Grid(5, 4, x=(2.0, 4.0), y=(-3.0, 7.0)))
    assert (x[0, 0], y[0, 0]) == (2.0, 5.0)
    assert (x[0, -1], y[0, -1]) == (3.5, 5.0)
    assert (x[-1, 0], y[-1, 0]) == (2.0, -3.0)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (63, 100)], ids=lambda size: f"H{size[0]}-W{size[1]}")
def test_rows_keep_the_coordinates_of_their_pixels(size):
    grid = fi.Grid(*size, x=(-0.3, 1.7), y=(0.25, -1.5))
    x, y = planes(grid)
    for start in range(size[0]):
        for stop in (start + 1, size[0]):
            part_x, part_y = planes(grid.rows(start, stop))
            assert torch.equal(part_x, x[start:stop])
            # The range of the part is rounded once more, to float64.
            torch.testing.assert_close(part_y, y[start:stop], rtol=0, atol=1e-15)


def test_rows_of_a_scaled_grid_are_the_scaled_rows():
    part, whole = planes(fi.Grid(6, 3).rows(2, 5).scaled(4)), planes(fi.Grid(6, 3).scaled(4))
    torch.testing.assert_close(part[1], whole[1][8:20], rtol=0, atol=1e-15)


def test_sizes_of_an_inr(make_inr):
    inr = make_inr(2, 3)
    assert (inr.batch, inr.times, inr.channels, inr.dtype) == (2, 3, 3, torch.float64)
    assert make_inr(2, 3, rgb=False).channels == 5
    assert make_inr(0, 3).batch == 0
    assert make_inr(2, 3, dtype=torch.bfloat16).dtype == torch.float32


@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
@pytest.mark.parametrize("bias", ["O", "NO", "NTO"])
def test_slices_render_as_the_slices_of_the_frames(make_inr, bias, shared):
    inr, grid = make_inr(3, 4, bias=bias, shared=shared), fi.Grid(2, 3)
    frames = fi.render(inr, grid)
    for part, expected in [
        (inr.at_times(slice(1, 3)), frames[:, 1:3]),
        (inr.at_clips(slice(1, 3)), frames[1:3]),
        (inr.at_clips(slice(2, 3)), frames[2:3]),
        (inr.at_clips(slice(0, 0)), frames[:0]),
    ]:
        torch.testing.assert_close(fi.render(part, grid), expected, rtol=1e-12, atol=1e-12)


def test_slices_are_views(make_inr):
    inr = make_inr(3, 4)
    part = inr.at_clips(slice(1, 2)).at_times(slice(0, 2))
    assert part.stages[0].fourier.phase._base is inr.stages[0].fourier.phase


def layer(outputs: int, inputs: int, n: int = 2, **options) -> fi.Layer:
    return fi.Layer(torch.zeros(n, outputs, inputs), torch.zeros(outputs), **options)


def fourier(n: int = 2, t: int = 3, d: int = 2, **options) -> fi.Fourier:
    return fi.Fourier(torch.zeros(n, d, 2), torch.zeros(n, t, d), **options)


ERRORS = {
    "grid-size": (lambda: fi.Grid(0, 4), "Grid height must be an integer of at least 1, not 0"),
    "grid-range": (lambda: fi.Grid(4, 4, x=(0.0, float("nan"))), "Grid x must be a finite number, not nan"),
    "grid-rows": (lambda: fi.Grid(4, 4).rows(2, 2), "Grid rows must satisfy 0 <= start < stop <= 4"),
    "frequency": (lambda: fi.Fourier(torch.zeros(2, 4), torch.zeros(2, 3, 4)), r"must have shape \[N, 4, 2\]"),
    "phase": (
        lambda: fi.Fourier(torch.zeros(2, 4, 2), torch.zeros(2, 4)),
        r"Fourier phase must have shape \[N, T, D\]",
    ),
    "integer": (
        lambda: fi.Fourier(torch.zeros(2, 4, 2, dtype=torch.int64), torch.zeros(2, 3, 4)),
        "Fourier frequency must be a floating-point tensor, not torch.int64",
    ),
    "parts": (lambda: fourier(parts="cos"), "Fourier parts must be one of sincos, sin, not 'cos'"),
    "weight": (lambda: fi.Layer(torch.zeros(5, 4), torch.zeros(5)), r"Layer weight must have shape \[N, O, I\]"),
    "bias": (lambda: fi.Layer(torch.zeros(2, 5, 4), torch.zeros(2, 4)), r"Layer bias must have shape \[N, 5\]"),
    "bias-rank": (lambda: fi.Layer(torch.zeros(2, 5, 4), torch.zeros(())), "Layer bias must have shape"),
    "activation": (lambda: layer(5, 4, activation="gelu"), "Layer activation must be one of .*, not 'gelu'"),
    "to-rgb": (
        lambda: layer(5, 4, to_rgb=(torch.zeros(2, 3, 4), torch.zeros(3))),
        r"Layer to_rgb weight must have shape \[N, C, 5\], not \[2, 3, 4\]",
    ),
    "scale": (lambda: fi.Stage(0, [layer(5, 4)]), "Stage scale must be an integer of at least 1, not 0"),
    "no-layers": (lambda: fi.Stage(1, []), "Stage layers must hold at least one Layer"),
    "chain": (lambda: fi.Stage(1, [layer(5, 4), layer(5, 6)]), "Stage layer 1 takes 6 channels but layer 0 outputs 5"),
    "no-stages": (lambda: fi.INR([]), "INR stages must hold at least one Stage"),
    "no-features": (lambda: fi.INR([fi.Stage(1, [layer(5, 4)])]), "first Stage of an INR needs Fourier features"),
    "inputs": (lambda: fi.INR([fi.Stage(1, [layer(5, 3)], fourier())]), "gets 0 from the previous stage and 4 Fourier"),
    "scales": (
        lambda: fi.INR([fi.Stage(2, [layer(5, 4)], fourier()), fi.Stage(3, [layer(5, 5)])]),
        "Stage 1 has scale 3, which must be a multiple of the previous scale, 2",
    ),
    "batches": (lambda: fi.INR([fi.Stage(1, [layer(5, 4, n=3)], fourier())]), r"must agree in N .* not have \[2, 3\]"),
    "times": (
        lambda: fi.INR([fi.Stage(1, [layer(5, 4)], fourier()), fi.Stage(1, [layer(5, 9)], fourier(t=1))]),
        r"must agree in T, not have \[1, 3\]",
    ),
    "colours": (
        lambda: fi.INR(
            [
                fi.Stage(
                    1,
                    [
                        layer(5, 4, to_rgb=(torch.zeros(1, 3, 5), torch.zeros(3))),
                        layer(5, 5, to_rgb=(torch.zeros(1, 1, 5), torch.zeros(1))),
                    ],
                    fourier(),
                )
            ]
        ),
        r"must agree in C, not have \[1, 3\]",
    ),
    "devices": (
        lambda: fi.INR([fi.Stage(1, [fi.Layer(torch.zeros(2, 5, 4, device="meta"), torch.zeros(5))], fourier())]),
        r"on one device, not \['cpu', 'meta'\]",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_sentence(case):
    make, sentence = ERRORS[case]
    with pytest.raises(ValueError, match=sentence) as caught:
        make()
    assert "\n" not in str(caught.value)
    assert str(caught.value).endswith(".")
