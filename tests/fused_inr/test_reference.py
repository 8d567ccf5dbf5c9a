"""The reference ops against values by hand, loops over elements, and other functions of PyTorch."""

import ast
import itertools
import math
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from fused_inr import reference


def double(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_it_imports_nothing_of_the_library():
    tree = ast.parse(Path(reference.__file__).read_text(encoding="utf-8"))
    names = [alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names]
    names += [node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    assert {name.partition(".")[0] for name in names} == {"math", "torch"}


def test_coordinates_are_half_open_and_the_top_row_has_the_largest_y():
    grid = SimpleNamespace(height=2, width=4, x=(-1.0, 1.0), y=(0.0, 3.0))
    x, y = reference.coordinates(grid, torch.float64, torch.device("cpu"))
    assert x.tolist() == [-1.0, -0.5, 0.0, 0.5]
    assert y.tolist() == [1.5, 0.0]


@pytest.mark.parametrize("parts", ["sin", "sincos"])
def test_fourier_features(parts):
    grid = SimpleNamespace(height=3, width=1, x=(-1.0, 1.0), y=(0.0, 3.0))
    fourier = SimpleNamespace(frequency=double(1, 2, 2), phase=double(2, 3, 2), parts=parts)
    features = reference.fourier_features(fourier, grid, 2, torch.float64)
    assert features.shape == (6, 2 if parts == "sin" else 4, 3, 1)
    for n, t, d, i in itertools.product(range(2), range(3), range(2), range(3)):
        angle = fourier.frequency[0, d] @ torch.tensor([-1.0, 2.0 - i]).double() + fourier.phase[n, t, d]
        frame = features[3 * n + t]
        assert math.isclose(frame[d, i, 0], math.sin(angle), abs_tol=1e-14)
        assert parts == "sin" or math.isclose(frame[2 + d, i, 0], math.cos(angle), abs_tol=1e-14)


@pytest.mark.parametrize("factor", [1, 3, 7])
def test_upsampling_repeats_pixels_exactly(factor):
    x = torch.arange(2 * 63.0).view(1, 1, 2, 63)
    expected = x.repeat_interleave(factor, 2).repeat_interleave(factor, 3)
    assert torch.equal(reference.upsample(x, factor), expected)


def test_products_and_biases_of_clips_reach_their_frames():
    weight, x = double(2, 5, 4), double(6, 4, 3, 1)
    y = reference.product(weight, x, 2, 3, torch.float64)
    torch.testing.assert_close(y, torch.einsum("noi,ntihw->ntohw", weight, x.view(2, 3, 4, 3, 1)).flatten(0, 1))
    for shape in ((5,), (2, 5), (2, 3, 5)):
        bias = double(*shape)
        expanded = (bias if len(shape) == 3 else bias.unsqueeze(-2)).expand(2, 3, 5)
        assert torch.equal(reference.frame_bias(bias, 2, 3, torch.float64).view(2, 3, 5), expanded)


def test_a_sine_layer_has_omega_inside():
    # sin(3 (2 x + 1)), then 5 y - 1 without a sine, and sin(7 (5 y - 1)) with one
    coords = torch.tensor([[[0.1], [0.4]]]).double()
    weights, biases = [torch.tensor([[[w]]]).double() for w in (2.0, 5.0)], [torch.tensor([[b]]) for b in (1.0, -1.0)]
    hidden = torch.sin(3 * (2 * coords + 1))
    for final, expected in (("linear", 5 * hidden - 1), ("sine", torch.sin(7 * (5 * hidden - 1)))):
        actual = reference.siren(coords, weights, biases, 7.0, 3.0, final, torch.float64)
        torch.testing.assert_close(actual, expected)


def test_demodulated_rows_have_norm_one():
    weight, left, right = double(3, 4), double(2, 3, 5), double(2, 5, 4)
    plain = reference.fmm_weight(weight, left, right, False)
    torch.testing.assert_close(plain[1, 2, 3], weight[2, 3] * (1 + left[1, 2] @ right[1, :, 3] / 5**0.5))
    rows = reference.fmm_weight(weight, left, right, True)
    torch.testing.assert_close(rows.norm(dim=2), torch.ones(2, 3).double())
    torch.testing.assert_close(rows, F.normalize(plain, dim=2))


def test_bias_gain_clamp_and_residual_are_applied_in_this_order():
    x, bias = torch.tensor([[-1.0, 3.0], [0.5, -4.0]]), torch.tensor([1.0, -1.0])
    y = reference.bias_act(x, bias, "lrelu", 0.5, 2.0, 3.0, 1, residual=torch.full((2, 2), 10.0))
    assert y.tolist() == [[10.0, 13.0], [13.0, 7.0]]  # 0, clamped 4; 3, clamped -5
    y = reference.bias_act(x, bias, "linear", 0.0, 1.0, None, 0)
    assert y.tolist() == [[0.0, 4.0], [-0.5, -5.0]]


@pytest.mark.parametrize("act", reference.BIAS_ACTIVATIONS)
def test_activations_at_one(act):
    e, ln2 = math.e, math.log(2)
    at_one = {"tanh": (e - 1 / e) / (e + 1 / e), "sigmoid": e / (1 + e), "swish": e / (1 + e)}
    at_one |= {"selu": 1.0507009873554805, "softplus": math.log(1 + e)}
    below = {"linear": -1.0, "relu": 0.0, "lrelu": -0.3, "tanh": -at_one["tanh"], "sigmoid": 1 / (1 + e)}
    below |= {"elu": 1 / e - 1, "selu": at_one["selu"] * 1.6732632423543772 * (1 / e - 1)}
    below |= {"softplus": math.log(1 + 1 / e), "swish": -1 / (1 + e)}
    at_zero = {"sigmoid": 0.5, "softplus": ln2}
    y = reference.bias_act(torch.tensor([1.0, -1.0, 0.0]).double(), None, act, 0.3, 1.0, None, 0)
    assert y.tolist() == pytest.approx([at_one.get(act, 1.0), below[act], at_zero.get(act, 0.0)], abs=1e-15)


@pytest.mark.parametrize("flip", [False, True], ids=["convolution", "correlation"])
@pytest.mark.parametrize("separable", [False, True], ids=["2d", "separable"])
def test_upfirdn2d_equals_a_loop_over_taps(separable, flip):
    up, down, padding, gain = (2, 3), (3, 1), (2, -1, 0, 3), 1.5  # x, then y
    x, taps = double(1, 1, 4, 5), double(3) if separable else double(2, 3)
    kernel = torch.outer(taps, taps) if separable else taps
    actual = reference.upfirdn2d(x, taps, up, down, padding, flip, gain)
    dense = torch.zeros(4 * up[1], 5 * up[0]).double()
    dense[:: up[1], :: up[0]] = x[0, 0]
    height, width = kernel.shape
    kernel = kernel if flip else kernel.flip([0, 1])

    def pixel(row: int, column: int) -> float:
        """Return the sum of taps at an output pixel; pixels outside the image are 0."""
        total = 0.0
        for i, j in itertools.product(range(height), range(width)):
            y, x = row * down[1] + i - padding[2], column * down[0] + j - padding[0]
            if 0 <= y < dense.shape[0] and 0 <= x < dense.shape[1]:
                total += float(kernel[i, j] * dense[y, x])
        return gain * total

    rows = (dense.shape[0] + padding[2] + padding[3] - height) // down[1] + 1
    columns = (dense.shape[1] + padding[0] + padding[1] - width) // down[0] + 1
    expected = [[pixel(row, column) for column in range(columns)] for row in range(rows)]
    torch.testing.assert_close(actual[0, 0], torch.tensor(expected).double())


def test_minibatch_stddev_of_a_known_group():
    # Samples 0 and 2 form one group, 1 and 3 the other: groups are strided over the batch.
    x = torch.tensor([1.0, 0.0, 5.0, 6.0]).double().view(4, 1, 1, 1).expand(4, 2, 3, 1)
    y = reference.minibatch_stddev(x, 2, 1)
    assert torch.equal(y[:, :2], x)
    torch.testing.assert_close(y[:, 2, :, 0], torch.tensor([2.0, 3.0, 2.0, 3.0]).double()[:, None].expand(4, 3))


def test_color_changes_keep_the_means_they_refer_to():
    x, amount = double(2, 3, 3, 5, 4), torch.tensor([0.5, 2.0]).double()
    saturated = reference.change_color(x, None, amount, None)
    torch.testing.assert_close(saturated.mean(2), x.mean(2))
    torch.testing.assert_close(saturated.std(2), x.std(2) * amount[:, None, None, None])
    contrasted = reference.change_color(x, None, None, amount)
    torch.testing.assert_close(contrasted.mean((2, 3, 4)), x.mean((2, 3, 4)))
    torch.testing.assert_close(contrasted.std((2, 3, 4)), x.std((2, 3, 4)) * amount[:, None])
    brightened = reference.change_color(x, amount, None, None)
    torch.testing.assert_close(brightened - x, amount[:, None, None, None, None].expand_as(x))


def test_translation_fills_with_zeros_and_cutout_zeroes_a_rectangle():
    x = torch.arange(1.0, 13.0).view(1, 1, 1, 3, 4)
    moved = reference.translate(x, torch.tensor([[1, -2]]))
    assert moved[0, 0, 0].tolist() == [[0, 0, 0, 0], [3, 4, 0, 0], [7, 8, 0, 0]]
    hole = reference.cut_out(x, torch.tensor([[-1, 2]]), (2, 5))
    assert hole[0, 0, 0].tolist() == [[1, 2, 0, 0], [5, 6, 7, 8], [9, 10, 11, 12]]


def test_color_comes_first_or_last():
    x, bright = torch.ones(1, 1, 3, 2, 2), torch.tensor([1.0])
    offset, hole = torch.tensor([[0, 1]]), torch.tensor([[0, 1]])
    first = reference.augment(x, bright, None, None, offset, hole, (1, 1), False)
    assert first[0, 0, 0].tolist() == [[0, 0], [0, 2]]
    last = reference.augment(x, bright, None, None, offset, hole, (1, 1), True)
    assert last[0, 0, 0].tolist() == [[1, 1], [1, 2]]


@pytest.mark.parametrize("name", ["linear", "lrelu", "relu", "sine", "gelu", "silu", "tanh", "gauss", "finer"])
def test_derivatives_of_activations_are_those_of_autograd(name):
    x = torch.tensor([-3.0, -0.4, 0.0, 0.4, 3.0, torch.nan], dtype=torch.float64, requires_grad=True)
    value, first, second = reference.activation_jet(x, name, 1.3)
    (slope,) = torch.autograd.grad(reference.activation(x, name, 1.3).sum(), x, create_graph=True)
    curvature = torch.autograd.grad(slope.sum(), x)[0] if slope.requires_grad else torch.zeros_like(x)
    torch.testing.assert_close(value, reference.activation(x, name, 1.3), equal_nan=True)
    torch.testing.assert_close(first, slope, equal_nan=True)
    torch.testing.assert_close(second[:-1], curvature[:-1])
