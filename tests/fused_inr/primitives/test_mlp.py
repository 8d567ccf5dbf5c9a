"""The registration of a backend's `mlp`: values, two orders of gradients, unused gradients, no points."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from fused_inr import composed, reference
from fused_inr.primitives.mlp import UniformLayers, as_siren, register, siren_layers, uniform_layers

CALLS = []


def values(*arguments):
    CALLS.append("values")
    return reference.mlp(*arguments)


def gradients(gradient, coords, weights, biases, *options):
    *options, with_coords = options
    CALLS.append(("gradients", with_coords))
    leaves = [tensor.detach().requires_grad_() for tensor in (coords, *weights, *biases)]
    needs = [True] * len(leaves)
    with ThreadPoolExecutor(1) as thread:  # PyTorch disables autograd in the thread of an op
        arguments = reference.mlp, gradient.detach(), leaves, options, needs
        results = thread.submit(composed.network_gradients, *arguments).result()
    of_coords, *others = (result.detach().contiguous() for result in results)
    return [of_coords if with_coords else coords.new_empty(0), *others]


mlp = register("test", values, gradients)


@pytest.fixture(autouse=True)
def calls():
    CALLS.clear()
    return CALLS


def network(points: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, points, 2), (2, 8, 2), (2, 3, 8), (2, 8), (2, 3)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def loss_of(function, tensors, final):
    coords, first, last, *biases = tensors
    return function(coords, [first, last], biases, *siren_layers(2, 2.0, 3.0, final), torch.float32).square().sum()


@pytest.mark.parametrize("final", ["linear", "sine"])
def test_gradients_of_two_orders(final, calls, assert_close):
    tensors, results = network(5), []
    for function in (reference.mlp, mlp):
        loss = loss_of(function, tensors, final)
        first = torch.autograd.grad(loss, tensors, retain_graph=True)
        again = torch.autograd.grad(loss, tensors, create_graph=True)
        results.append([loss, *first, *torch.autograd.grad(sum(g.square().sum() for g in again), tensors)])
    # For the gradients, for those with a graph, and in the backward pass through these.
    assert calls == ["values", *[("gradients", True)] * 3]
    for expected, result in zip(*results, strict=True):
        assert_close("gradient", expected, result, 1e-6)  # both sides make the same PyTorch calls


def test_gradient_of_coordinates_is_computed_only_if_needed(calls):
    coords, *others = network(5)
    torch.autograd.grad(loss_of(mlp, [coords.detach(), *others], "linear"), others)
    assert calls == ["values", ("gradients", False)]


def test_nothing_is_called_without_points(calls):
    tensors = network(0)
    gradients = torch.autograd.grad(loss_of(mlp, tensors, "linear"), tensors)
    assert calls == []
    assert all((gradient == 0).all() for gradient in gradients)


UNIFORM = {
    "siren": (siren_layers(3, 30.0, 20.0, "linear"), UniformLayers("sine", 30.0, 20.0, False)),
    "final-sine": (siren_layers(3, 30.0, 20.0, "sine"), UniformLayers("sine", 30.0, 20.0, True)),
    "two-layers": ((["gauss", "linear"], [2.0, 1.0], [False] * 2), UniformLayers("gauss", 2.0, 2.0, False)),
    "own-final": ((["gauss", "gauss"], [2.0, 5.0], [False] * 2), UniformLayers("gauss", 5.0, 2.0, True)),
    "relu": ((["relu", "relu", "linear"], [1.0] * 3, [False] * 3), UniformLayers("relu", 1.0, 1.0, False)),
    "one-layer": ((["tanh"], [1.0], [False]), UniformLayers("tanh", 1.0, 1.0, True)),
    "mixed": ((["relu", "tanh", "linear"], [1.0] * 3, [False] * 3), None),
    "other-final": ((["relu", "relu", "tanh"], [1.0] * 3, [False] * 3), None),
    "linear-in-between": ((["sine", "linear", "sine"], [1.0] * 3, [False] * 3), None),
    "several-frequencies": ((["sine", "sine", "sine"], [1.0, 2.0, 3.0], [False] * 3), None),
    "skip": ((["relu", "relu", "linear"], [1.0] * 3, [False, True, False]), None),
}


@pytest.mark.parametrize("name", UNIFORM)
def test_uniform_layers(name):
    layers, expected = UNIFORM[name]
    assert uniform_layers(*layers) == expected
    assert as_siren(*layers) == (expected if name in ("siren", "final-sine") else None)


def test_a_linear_layer_is_a_siren():
    assert as_siren(*siren_layers(1, 30.0, 30.0, "linear")) is not None
