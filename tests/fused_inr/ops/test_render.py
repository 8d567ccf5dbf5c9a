"""render: values against a loop over pixels, conventions, types, shared tensors and gradients of two orders."""

import math

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fused_inr as fi


def pixel_loop(inr: fi.INR, grid: fi.Grid) -> torch.Tensor:
    """Return the frames computed from the definitions, one pixel at a time, in Python's float64."""

    def of_video(tensor, n):
        return tensor[0 if tensor.shape[0] == 1 else n].tolist()

    def apply(weight, bias, x):
        return [math.fsum(w * v for w, v in zip(row, x, strict=True)) + b for row, b in zip(weight, bias, strict=True)]

    def act(layer, v):
        if layer.activation == "sine":
            return layer.gain * math.sin(layer.omega * v)
        slope = {"linear": 1.0, "relu": 0.0, "lrelu": 0.2}[layer.activation]
        return layer.gain * (v if v > 0 else slope * v)

    def bias_of(bias, n, t):
        if bias.ndim == 1:
            return bias.tolist()
        return of_video(bias, n) if bias.ndim == 2 else of_video(bias, n)[t]

    def pixel(n, t, i, j):
        """Return the output and the image at pixel (i, j) of the last stage."""
        last, x, image = inr.stages[-1].scale, [], None
        for stage in inr.stages:
            height, width = grid.height * stage.scale, grid.width * stage.scale
            row, column = i * stage.scale // last, j * stage.scale // last
            if stage.fourier is not None:
                px = grid.x[0] + (grid.x[1] - grid.x[0]) * column / width
                py = grid.y[0] + (grid.y[1] - grid.y[0]) * (height - 1 - row) / height
                frequency, phase = of_video(stage.fourier.frequency, n), of_video(stage.fourier.phase, n)[t]
                angles = [f[0] * px + f[1] * py + p for f, p in zip(frequency, phase, strict=True)]
                x = x + [math.sin(a) for a in angles]
                x = x + ([math.cos(a) for a in angles] if stage.fourier.parts == "sincos" else [])
            for layer in stage.layers:
                x = [act(layer, v) for v in apply(of_video(layer.weight, n), bias_of(layer.bias, n, t), x)]
                if layer.to_rgb is not None:
                    rgb = apply(of_video(layer.to_rgb[0], n), layer.to_rgb[1].tolist(), x)
                    image = rgb if image is None else [a + b for a, b in zip(image, rgb, strict=True)]
        return x if image is None else image

    scale = inr.stages[-1].scale
    frames = torch.empty(inr.batch, inr.times, inr.channels, grid.height * scale, grid.width * scale).double()
    for n, t, i, j in torch.cartesian_prod(*(torch.arange(s) for s in (*frames.shape[:2], *frames.shape[3:]))).tolist():
        frames[n, t, :, i, j] = torch.tensor(pixel(n, t, i, j), dtype=torch.float64)
    return frames


LOOP_CASES = {
    "B2-T3-scales1,2": {},
    "B1-T1-scale1": {"n": 1, "t": 1, "scales": (1,)},
    "scales2,2,6": {"scales": (2, 2, 6)},
    "scales1,3-biasO": {"scales": (1, 3), "bias": "O"},
    "biasNTO": {"bias": "NTO"},
    "shared": {"shared": True},
    "shared-biasNTO": {"shared": True, "bias": "NTO"},
    "sines-only": {"parts": "sin"},
    "no-rgb": {"rgb": False},
    "sine": {"activation": "sine"},
    "relu": {"activation": "relu"},
    "linear": {"activation": "linear"},
}


@pytest.mark.parametrize("case", LOOP_CASES)
def test_equals_a_loop_over_pixels(make_inr, assert_close, case):
    inr, grid = make_inr(**LOOP_CASES[case]), fi.Grid(2, 3, x=(-1.0, 0.7), y=(-2.0, 1.0))
    assert_close("frames", pixel_loop(inr, grid), fi.render(inr, grid), 1e-13)


@pytest.mark.parametrize("size", [(1, 1), (3, 1), (1, 63)], ids=lambda size: f"H{size[0]}-W{size[1]}")
def test_odd_sizes(make_inr, assert_close, size):
    inr = make_inr(1, 1)
    assert_close("frames", pixel_loop(inr, fi.Grid(*size)), fi.render(inr, fi.Grid(*size)), 1e-13)


def test_a_stage_without_features_and_an_early_read_out(make_inr, assert_close):
    base = make_inr(2, 2)
    bare = fi.Stage(6, [fi.Layer(torch.ones(1, 4, 5, dtype=torch.float64), torch.zeros(4, dtype=torch.float64))])
    inr = fi.INR([*base.stages, bare])
    frames = fi.render(inr, fi.Grid(2, 1))
    assert frames.shape == (2, 2, 3, 12, 6)
    assert_close("frames", pixel_loop(inr, fi.Grid(2, 1)), frames, 1e-13)


def test_float32_agrees_with_float64(make_inr, assert_close):
    grid = fi.Grid(16, 16)
    single = fi.render(make_inr(dtype=torch.float32), grid)
    # Measured on an AVX-512 CPU: 1.2e-7.
    assert_close("frames", fi.render(make_inr(), grid).float(), single, 1e-6)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, 1e-2), (torch.float16, 2e-3)])
def test_products_in_half_precision(make_inr, assert_close, dtype, tolerance):
    inr, grid = make_inr(dtype=torch.float32), fi.Grid(16, 16)
    exact, half = fi.render(inr, grid), fi.render(inr, grid, dtype=dtype)
    # Measured on an AVX-512 CPU: 2.8e-3 for bfloat16, 3.9e-4 for float16.
    assert_close("frames", exact, half, tolerance)
    assert not torch.equal(exact, half), "the products were not computed in the requested type"


def test_large_phases_are_not_rounded_to_the_type_of_the_products(make_inr, with_tensors, tensors_of, assert_close):
    inr, grid = make_inr(1, 1, scales=(1,), dtype=torch.float32), fi.Grid(8, 8)
    frequency, phase, *others = tensors_of(inr)
    moved = with_tensors(inr, (frequency, phase + 200, *others))  # near 200 the spacing of bfloat16 is 1
    # Measured on an AVX-512 CPU: 2.5e-3.
    assert_close("frames", fi.render(moved, grid), fi.render(moved, grid, dtype=torch.bfloat16), 1e-2)


def test_autocast_chooses_the_type_of_the_products(make_inr):
    inr, grid = make_inr(dtype=torch.float32), fi.Grid(4, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed, exact = fi.render(inr, grid), fi.render(inr, grid, dtype=torch.float32)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, fi.render(inr, grid, dtype=torch.bfloat16))
    assert torch.equal(exact, fi.render(inr, grid))


def test_half_precision_weights_are_multiplied_as_such_and_summed_in_float32(make_inr):
    inr, grid = make_inr(dtype=torch.bfloat16), fi.Grid(4, 4)
    frames = fi.render(inr, grid)
    assert frames.dtype == torch.float32
    assert torch.equal(frames, fi.render(inr, grid, dtype=torch.bfloat16))
    assert not torch.equal(frames, fi.render(inr, grid, dtype=torch.float32))


def test_unsupported_types_are_refused(make_inr):
    with pytest.raises(ValueError, match=r"dtype must be float64 or None for float64 tensors, not torch\.bfloat16"):
        fi.render(make_inr(), fi.Grid(2, 2), dtype=torch.bfloat16)
    with pytest.raises(ValueError, match=r"dtype must be float32, bfloat16, float16 or None, not torch\.int8"):
        fi.render(make_inr(dtype=torch.float32), fi.Grid(2, 2), dtype=torch.int8)


@pytest.mark.parametrize(("n", "t"), [(0, 2), (2, 0)], ids=["B0-T2", "B2-T0"])
def test_empty_batches(make_inr, with_tensors, tensors_of, n, t):
    inr = make_inr(n, t, scales=(1, 2, 4))
    leaves = [tensor.requires_grad_() for tensor in tensors_of(inr)]
    frames = fi.render(with_tensors(inr, leaves), fi.Grid(3, 2))
    assert frames.shape == (n, t, 3, 12, 8)
    frames.sum().backward()
    assert all(leaf.grad is None or leaf.grad.abs().sum() == 0 for leaf in leaves)


def test_zoom_is_a_window_of_the_larger_image(make_inr, assert_close):
    inr = make_inr(1, 2, scales=(1,))  # without upsampling every pixel depends on its own coordinates only
    whole = fi.render(inr, fi.Grid(8, 8))
    window = fi.render(inr, fi.Grid(4, 4, x=(-1.0, 0.0), y=(0.0, 1.0)))
    assert_close("window", whole[..., :4, :4], window, 1e-13)
    bands = [fi.render(inr, fi.Grid(8, 8).rows(start, stop)) for start, stop in ((0, 1), (1, 6), (6, 8))]
    assert_close("bands", whole, torch.cat(bands, dim=3), 1e-13)


def test_denser_grid_passes_through_the_coarse_pixels(make_inr, assert_close):
    inr = make_inr(1, 1, scales=(1,))
    coarse, fine = fi.render(inr, fi.Grid(5, 6)), fi.render(inr, fi.Grid(15, 18))
    # Rows are half open: the lowest of each three has the Y of the coarse row.
    assert_close("frames", coarse, fine[..., 2::3, ::3], 1e-13)


@pytest.mark.parametrize("bias", ["O", "NO", "NTO"])
@pytest.mark.parametrize("shared", [False, True], ids=["own", "shared"])
def test_gradients(make_inr, tensors_of, with_tensors, bias, shared):
    # sine is smooth, so finite differences are valid everywhere
    inr = make_inr(2, 2, activation="sine", bias=bias, shared=shared)
    leaves = tuple(tensor.requires_grad_() for tensor in tensors_of(inr))
    assert gradcheck(lambda *tensors: fi.render(with_tensors(inr, tensors), fi.Grid(1, 2)), leaves, fast_mode=True)
    assert gradgradcheck(lambda *tensors: fi.render(with_tensors(inr, tensors), fi.Grid(1, 2)), leaves, fast_mode=True)


@pytest.mark.parametrize("activation", ["lrelu", "relu", "linear"])
def test_gradients_of_the_other_activations(make_inr, tensors_of, with_tensors, activation):
    inr = make_inr(1, 2, activation=activation, rgb=activation != "linear")
    leaves = tuple(tensor.requires_grad_() for tensor in tensors_of(inr))
    assert gradcheck(lambda *tensors: fi.render(with_tensors(inr, tensors), fi.Grid(2, 1)), leaves, fast_mode=True)
    assert gradgradcheck(lambda *tensors: fi.render(with_tensors(inr, tensors), fi.Grid(2, 1)), leaves, fast_mode=True)


def test_non_contiguous_tensors(make_inr, tensors_of, with_tensors):
    inr, grid = make_inr(), fi.Grid(3, 3)
    strided = [tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor for tensor in tensors_of(inr)]
    assert not strided[0].is_contiguous()
    assert torch.equal(fi.render(with_tensors(inr, strided), grid), fi.render(inr, grid))
