"""upfirdn2d, downsample2d, upsample2d: the official numbers, a loop over pixels, gradients of two orders, errors."""

import contextlib

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fused_inr as fi

FIR = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8


def run_case(parity, case, x):
    options = parity.cases[case]
    return fi.upfirdn2d(
        x,
        parity[f"{case}.f"],
        up=options["up"],
        down=options["down"],
        padding=options["padding_x0_x1_y0_y1"],
        flip_filter=options["flip_filter"],
        gain=options["gain"],
    )


@pytest.mark.parametrize("case", [f"upfirdn{k}" for k in range(5)])
def test_parity(parity, assert_close, case):
    x = parity[f"{case}.x"].requires_grad_()
    y = run_case(parity, case, x)
    (dx,) = torch.autograd.grad((y * parity[f"{case}.w"]).sum(), x)
    assert_close("y", parity[f"{case}.y"], y.detach(), 1e-5)
    assert_close("dx", parity[f"{case}.dx"], dx, 1e-5)


def pixel_loop(x, taps, up, down, padding, flip_filter, gain):
    """One channel from the definition: every output pixel is a sum over the taps."""
    (height, width), (taps_y, taps_x) = x.shape, taps.shape
    sizes = [
        (height * up[1] + padding[2] + padding[3] - taps_y) // down[1] + 1,
        (width * up[0] + padding[0] + padding[1] - taps_x) // down[0] + 1,
    ]
    y = torch.zeros(sizes, dtype=x.dtype)
    for i, j, a, b in torch.cartesian_prod(*(torch.arange(s) for s in (*sizes, taps_y, taps_x))).tolist():
        row, column = i * down[1] + a - padding[2], j * down[0] + b - padding[0]
        if row % up[1] or column % up[0] or not (0 <= row < height * up[1] and 0 <= column < width * up[0]):
            continue
        tap = taps[a, b] if flip_filter else taps[taps_y - 1 - a, taps_x - 1 - b]
        y[i, j] += gain * tap * x[row // up[1], column // up[0]]
    return y


CASES = {
    "plain": ((5, 7), (3, 2), (1, 1), (1, 1), (0, 0, 0, 0), False),
    "up2": ((3, 5), (4, 4), (2, 2), (1, 1), (2, 1, 2, 1), False),
    "down2": ((9, 7), (4, 4), (1, 1), (2, 2), (1, 1, 1, 1), True),
    "mixed-crop": ((6, 5), (2, 3), (2, 1), (1, 2), (-2, 1, 3, -1), False),
    "H1-W1": ((1, 1), (1, 3), (3, 1), (2, 2), (1, 1, 0, 0), True),
}


@pytest.mark.parametrize("case", CASES)
def test_equals_a_loop_over_pixels(assert_close, case):
    size, taps_size, up, down, padding, flip = CASES[case]
    x, taps = torch.randn(2, 3, *size).double(), torch.randn(taps_size).double()
    y = fi.upfirdn2d(x, taps, up, down, padding, flip, 1.7)
    for n, c in ((0, 0), (1, 2)):
        assert_close("y", pixel_loop(x[n, c], taps, up, down, padding, flip, 1.7), y[n, c], 1e-13)


def test_separable_and_absent_filters(assert_close):
    x, taps = torch.randn(2, 3, 8, 9).double(), torch.randn(4).double()
    for flip in (False, True):
        separable = fi.upfirdn2d(x, taps, 2, 3, 2, flip, gain=-2)
        assert_close("y", fi.upfirdn2d(x, torch.outer(taps, taps), 2, 3, 2, flip, gain=-2), separable, 1e-13)
    assert torch.equal(fi.upfirdn2d(x, None, down=2, gain=3), 3 * x[:, :, ::2, ::2])


def test_forms_of_the_arguments():
    x, taps = torch.randn(1, 2, 6, 6), torch.randn(3, 3)
    assert torch.equal(fi.upfirdn2d(x, taps, padding=[2, 1]), fi.upfirdn2d(x, taps, padding=[2, 2, 1, 1]))
    assert torch.equal(fi.upfirdn2d(x, taps, padding=1), fi.upfirdn2d(x, taps, padding=[1, 1, 1, 1]))
    assert torch.equal(fi.upfirdn2d(x, taps, up=2, down=3), fi.upfirdn2d(x, taps, up=[2, 2], down=[3, 3]))


@pytest.mark.parametrize("taps", [FIR, torch.outer(FIR, FIR), FIR[:3], None], ids=["1d", "2d", "odd", "none"])
@pytest.mark.parametrize("factor", [1, 2, (3, 1)], ids=str)
def test_resampling_scales_the_size(taps, factor):
    factor_x, factor_y = (factor, factor) if isinstance(factor, int) else factor
    x = torch.randn(2, 3, 4, 6)
    assert fi.upsample2d(x, taps, factor).shape == (2, 3, 4 * factor_y, 6 * factor_x)
    assert fi.downsample2d(fi.upsample2d(x, taps, factor), taps, factor).shape == x.shape


def test_resampling_keeps_brightness_and_place():
    flat = torch.ones(1, 1, 8, 8)
    torch.testing.assert_close(fi.upsample2d(flat, FIR)[..., 2:-2, 2:-2], torch.ones(1, 1, 12, 12))
    torch.testing.assert_close(fi.downsample2d(flat, FIR)[..., 1:-1, 1:-1], torch.ones(1, 1, 2, 2))
    ramp = torch.arange(8.0).expand(1, 1, 8, 8)  # pixel j has its centre at j + 1/2
    torch.testing.assert_close(fi.downsample2d(ramp, FIR)[0, 0, 1, 1:-1], torch.tensor([2.5, 4.5]))
    torch.testing.assert_close(fi.upsample2d(ramp, FIR)[0, 0, 4, 4:8], torch.tensor([1.75, 2.25, 2.75, 3.25]))


@pytest.mark.parametrize("case", ["2d", "separable", "crop"])
def test_gradients(case):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 4, 3, dtype=torch.float64, requires_grad=True)
    taps = torch.randn(3, dtype=torch.float64) if case == "separable" else torch.randn(2, 3, dtype=torch.float64)
    padding = (-1, 2, 0, -1) if case == "crop" else 1
    assert gradcheck(lambda x: fi.upfirdn2d(x, taps, 2, 3, padding), x)
    # The op is linear, so its second derivatives are those with respect to the incoming gradient.
    assert gradgradcheck(lambda x: fi.upfirdn2d(x, taps, 2, 3, padding), x)


def test_gradients_of_a_nonlinear_use():
    x = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)
    assert gradgradcheck(lambda x: fi.downsample2d(x.tanh(), FIR).tanh(), x)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["nchw", "channels_last"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_types_layouts_and_empty_batches(dtype, layout):
    x = torch.randn(2, 3, 6, 6).to(dtype)
    y = fi.downsample2d(x.to(memory_format=layout), FIR)
    assert y.dtype == dtype
    torch.testing.assert_close(y, fi.downsample2d(x, FIR))
    assert fi.downsample2d(x[:0], FIR).shape == (0, 3, 3, 3)


X = torch.zeros(1, 2, 4, 4)


@pytest.mark.parametrize("backend", [None, "reference"])
def test_a_crop_may_be_larger_than_the_image_before_padding(backend):
    x = torch.rand(1, 1, 4, 4)
    with fi.backend(backend) if backend else contextlib.nullcontext():
        assert torch.equal(fi.upfirdn2d(x, None, padding=(-5, 3, 0, 0)), torch.zeros(1, 1, 4, 2))
        assert torch.equal(fi.upfirdn2d(x, None, padding=(-3, 1, 0, 0))[..., :1], x[..., 3:])


@pytest.mark.parametrize(("shape", "factor"), [((1,), 4.0), ((1, 1), 2.0)], ids=["separable", "one by one"])
def test_a_single_tap_scales(shape, factor):
    x = torch.randn(2, 3, 4, 5)
    assert torch.equal(fi.upfirdn2d(x, torch.full(shape, 2.0)), factor * x)


def test_a_filter_as_large_as_the_padded_image_gives_one_pixel():
    low = fi.upfirdn2d(torch.ones(1, 1, 3, 4), torch.ones(5, 9), up=(2, 1), padding=(1, 0, 2, 0))
    assert low.tolist() == [[[[12.0]]]]
    narrow = fi.upfirdn2d(torch.ones(1, 1, 4, 3), torch.ones(9, 5), up=(1, 2), padding=(0, 2, 0, 1))
    assert narrow.tolist() == [[[[12.0]]]]


ERRORS = {
    "up": (lambda: fi.upfirdn2d(X, FIR, up=0), "up must be an integer of at least 1, not 0"),
    "down": (lambda: fi.upfirdn2d(X, FIR, down=[1, 2, 3]), r"down must be an integer .*, not \[1, 2, 3\]"),
    "padding": (lambda: fi.upfirdn2d(X, FIR, padding=[1, 2, 3]), r"padding must be an integer, \[x, y\] or"),
    "filter": (
        lambda: fi.upfirdn2d(X, torch.zeros(1, 1, 3, 3)),
        "filter must be a tensor of real numbers",
    ),
    "device": (lambda: fi.upfirdn2d(X, FIR.to("meta")), "filter is on meta but x on cpu; move it"),
    "empty": (lambda: fi.upfirdn2d(X, torch.zeros(0)), r"filter must"),
    "small": (lambda: fi.upfirdn2d(X, torch.zeros(5, 5)), r"padded image, 4 x 4 .*, is smaller than the filter, 5 x 5"),
    "low": (
        lambda: fi.upfirdn2d(torch.zeros(1, 1, 3, 9), torch.zeros(5, 2), padding=(1, 1, 1, 0)),
        r"padded image, 4 x 11 .*, is smaller than the filter, 5 x 2",
    ),
    "narrow": (
        lambda: fi.upfirdn2d(torch.zeros(1, 1, 9, 3), torch.zeros(2, 5), padding=(1, 0, 1, 1)),
        r"padded image, 11 x 4 .*, is smaller than the filter, 2 x 5",
    ),
    "shape": (lambda: fi.upfirdn2d(X[0], FIR), r"x must be floating point \[N, C, H, W\]"),
}


@pytest.mark.parametrize("case", ERRORS)
def test_errors_are_one_sentence(case):
    make, sentence = ERRORS[case]
    with pytest.raises(ValueError, match=sentence) as caught:
        make()
    assert str(caught.value).endswith(".")
