"""The lowered form evaluated by PyTorch calls, against the naive path."""

from dataclasses import replace

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

import fused_inr as fi
from fused_inr import composed, reference
from fused_inr.flattening import flatten, frames_shape
from fused_inr.primitives.mlp import siren_layers

CASES = {
    "N2-T3-scales1,2": ((5, 7), {}),
    "N1-T1-H1-W1": ((1, 1), dict(n=1, t=1, scales=(1,))),
    "H3-W7-scales1,2,4": ((3, 7), dict(scales=(1, 2, 4))),
    "H63-W5-scales1,1": ((63, 5), dict(scales=(1, 1))),
    "N5-T1-H20-W31": ((20, 31), dict(n=5, t=1)),
    "scales2,6-biasO": ((2, 3), dict(scales=(2, 6), bias="O")),
    "biasNTO": ((2, 3), dict(bias="NTO")),
    "shared-biasNTO": ((2, 3), dict(shared=True, bias="NTO")),
    "sines": ((2, 3), dict(parts="sin")),
    "relu-no-rgb": ((2, 3), dict(activation="relu", rgb=False)),
    "linear": ((2, 3), dict(activation="linear")),
    "sine": ((2, 3), dict(activation="sine")),
}


def with_gain(inr: fi.INR, gain: float) -> fi.INR:
    """Return the INR with the gain of every layer replaced."""
    return fi.INR(
        [replace(stage, layers=[replace(layer, gain=gain) for layer in stage.layers]) for stage in inr.stages]
    )


def with_bare_stage(inr: fi.INR, scale: int) -> fi.INR:
    """Return the INR followed by a stage without Fourier features."""
    generator = torch.Generator().manual_seed(1)
    weight, bias, *read_out = (
        torch.randn(shape, generator=generator, dtype=torch.float64) for shape in ((1, 4, 5), (4,), (1, 3, 4), (3,))
    )
    return fi.INR([*inr.stages, fi.Stage(scale, [fi.Layer(weight, bias, to_rgb=tuple(read_out))])])


@pytest.mark.parametrize("name", CASES)
def test_equals_the_naive_path(name, make_inr, assert_close):
    size, options = CASES[name]
    inr, grid = make_inr(**options), fi.Grid(*size, x=(-1.0, 0.7), y=(-2.0, 1.0))
    # Measured on an AVX-512 CPU: 1.5e-15.
    assert_close("frames", reference.render(inr, grid), composed.render(inr, grid, torch.float64), 1e-12)


@pytest.mark.parametrize("activation", ["lrelu", "relu", "linear", "sine"])
@pytest.mark.parametrize("gain", [-1.3, 0.0, 1.0])
def test_any_gain(activation, gain, make_inr, assert_close):
    inr, grid = with_gain(make_inr(activation=activation), gain), fi.Grid(2, 3)
    assert_close("frames", reference.render(inr, grid), composed.render(inr, grid, torch.float64), 1e-12)


@pytest.mark.parametrize("scale", [2, 6])
def test_a_stage_without_features(scale, make_inr, assert_close):
    inr, grid = with_bare_stage(make_inr(), scale), fi.Grid(2, 3)
    assert_close("frames", reference.render(inr, grid), composed.render(inr, grid, torch.float64), 1e-12)


@pytest.mark.parametrize(("n", "t"), [(0, 2), (2, 0)], ids=["N0-T2", "N2-T0"])
def test_empty(n, t, make_inr, assert_close):
    inr, grid = make_inr(n, t, scales=(1, 2, 4)), fi.Grid(3, 2)
    assert_close("frames", reference.render(inr, grid), composed.render(inr, grid, torch.float64), 0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("rgb", [True, False])
def test_half_precision_products(rgb, dtype, make_inr, assert_close):
    inr, grid = make_inr(dtype=torch.float32, rgb=rgb), fi.Grid(16, 16)
    exact, actual = reference.render(inr, grid), composed.render(inr, grid, dtype)
    assert actual.dtype == torch.float32
    # Measured on an AVX-512 CPU: 3.4e-3 for bfloat16, 5.0e-4 for float16 (the naive path: 2.8e-3, 3.9e-4).
    assert_close("frames", exact, actual, 1e-2 if dtype == torch.bfloat16 else 2e-3)


def test_the_gain_is_not_rounded_to_the_type_of_the_weights(make_inr, assert_close):
    inr, grid = make_inr(dtype=torch.float32).mapped(lambda tensor: tensor.bfloat16()), fi.Grid(4, 4)
    exact = reference.render(inr.mapped(lambda tensor: tensor.double()), grid)
    assert_close("frames", exact.float(), composed.render(inr, grid, torch.float32), 2e-6)


TINY = {
    "sine": dict(activation="sine"),
    "sine-shared-biasNTO": dict(activation="sine", shared=True, bias="NTO"),
    "sine-sines-biasO": dict(activation="sine", parts="sin", bias="O"),
    "lrelu": {},
    "relu-no-rgb": dict(activation="relu", rgb=False),
}


@pytest.mark.parametrize("name", TINY)
def test_gradients_of_two_orders(name, make_inr, tensors_of, with_tensors):
    inr, grid = make_inr(2, 2, **TINY[name]), fi.Grid(1, 2)
    leaves = tuple(tensor.requires_grad_() for tensor in tensors_of(inr))

    def render(*tensors: torch.Tensor) -> torch.Tensor:
        return composed.render(with_tensors(inr, tensors), grid, torch.float64)

    assert gradcheck(render, leaves, fast_mode=True)
    assert gradgradcheck(render, leaves, fast_mode=True)


def test_gradients_of_a_stage_without_features(make_inr, tensors_of, with_tensors):
    inr = with_bare_stage(make_inr(1, 2, activation="sine"), 4)
    leaves = tuple(tensor.requires_grad_() for tensor in tensors_of(inr))
    assert gradcheck(
        lambda *tensors: composed.render(with_tensors(inr, tensors), fi.Grid(1, 2), torch.float64),
        leaves,
        fast_mode=True,
    )


def by_pytorch(output, tensors, gradient):
    """The gradients of the tensors that require one, and None for the others."""
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    found = iter(torch.autograd.grad(output, leaves, gradient, create_graph=True))
    return [next(found) if tensor.requires_grad else None for tensor in tensors]


def assert_same_to_second_order(expected, actual, tensors, assert_close):
    assert [x is None for x in actual] == [x is None for x in expected]
    leaves = [tensor for tensor in tensors if tensor.requires_grad]
    seconds = []
    for gradients in (expected, actual):
        total = sum(x.square().sum() for x in gradients if x is not None)
        seconds.append(torch.autograd.grad(total, leaves, retain_graph=True, allow_unused=True, materialize_grads=True))
    for number, (one, two) in enumerate(zip(expected, actual, strict=True)):
        if one is not None:
            assert_close(f"gradient {number}", one.detach(), two.detach(), 1e-12)
    for number, (one, two) in enumerate(zip(*seconds, strict=True)):
        assert_close(f"second gradient {number}", one, two, 1e-10)


@pytest.mark.parametrize("fixed", [0, 2], ids=["all but the frequency", "all but a weight"])
def test_gradients_of_a_flattened_inr(fixed, make_inr, tensors_of, assert_close):
    inr, grid = make_inr(activation="sine"), fi.Grid(2, 3, x=(-1.0, 0.7), y=(-2.0, 1.0))
    tensors, structure, numbers = flatten(inr)
    for number, tensor in enumerate(tensors):
        tensor.requires_grad_(number != fixed)
    frames = reference.render(inr, grid)
    gradient = torch.randn(frames.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    shape, window = frames_shape(inr, grid), [-1.0, 0.7, -2.0, 1.0]
    needs = [tensor.requires_grad for tensor in tensors]
    actual = composed.gradients(gradient, tensors, structure, numbers, shape, window, torch.float64, needs)
    assert_same_to_second_order(by_pytorch(frames, tensors, gradient), actual, tensors, assert_close)


@pytest.mark.parametrize("final", ["sine", "linear"])
@pytest.mark.parametrize("fixed", [0, 1, 3], ids=["all but coords", "all but a weight", "all but a bias"])
def test_gradients_of_a_siren(fixed, final, assert_close):
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, 6, 3), (2, 4, 3), (2, 5, 4), (2, 4), (2, 5)]  # coords, two weights, two biases
    tensors = [torch.randn(shape, dtype=torch.float64, generator=generator) for shape in shapes]
    for number, tensor in enumerate(tensors):
        tensor.requires_grad_(number != fixed)
    values = reference.siren(tensors[0], tensors[1:3], tensors[3:], 2.0, 3.0, final, torch.float64)
    gradient = torch.randn(values.shape, dtype=torch.float64, generator=generator)
    needs = [tensor.requires_grad for tensor in tensors]
    options = *siren_layers(2, 2.0, 3.0, final), torch.float64
    actual = composed.network_gradients(reference.mlp, gradient, tensors, options, needs)
    assert_same_to_second_order(by_pytorch(values, tensors, gradient), actual, tensors, assert_close)
