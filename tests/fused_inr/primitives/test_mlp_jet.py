"""The registration of a backend's `mlp_jet`: results, two orders of gradients, unused gradients, shapes, no points."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from torch.func import vmap

from fused_inr import composed, reference
from fused_inr.primitives.mlp_jet import jets_like, register

CALLS = []


def values(*arguments):
    CALLS.append(("values", *arguments[0].shape[:2]))
    return [result.contiguous().clone() for result in reference.mlp_jet(*arguments)]


def gradients(jet_gradients, coords, weights, biases, *options):
    *options, with_coords = options
    CALLS.append(("gradients", with_coords))
    leaves = [tensor.detach().requires_grad_() for tensor in (coords, *weights, *biases)]
    upstream = [gradient.detach() for gradient in jet_gradients]
    needs = [True] * len(leaves)
    with ThreadPoolExecutor(1) as thread:  # PyTorch disables autograd in the thread of an op
        arguments = reference.mlp_jet, upstream, leaves, options, needs
        results = thread.submit(composed.network_gradients, *arguments).result()
    of_coords, *others = (result.detach().contiguous() for result in results)
    return [of_coords if with_coords else coords.new_empty(0), *others]


mlp_jet = register("test", values, gradients)
OPTIONS = {"order-1": (1, False), "laplacian": (2, False), "hessian": (2, True)}
with_options = pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)


@pytest.fixture(autouse=True)
def calls():
    CALLS.clear()
    return CALLS


def network(points: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = [(2, points, 2), (2, 8, 2), (2, 3, 10), (2, 8), (2, 3)]
    return [torch.randn(shape, generator=generator).requires_grad_() for shape in shapes]


def jets_of(function, tensors, options):
    coords, first, last, *biases = tensors
    layers = ["sine", "silu"], [2.0, 1.0], [False, True]
    return function(coords, [first, last], biases, *layers, torch.float32, *options)


def loss_of(function, tensors, options):
    return sum(result.square().sum() for result in jets_of(function, tensors, options))


@with_options
def test_gradients_of_two_orders(options, calls, assert_close):
    tensors, results = network(5), []
    for function in (reference.mlp_jet, mlp_jet):
        loss = loss_of(function, tensors, options)
        first = torch.autograd.grad(loss, tensors, retain_graph=True)
        again = torch.autograd.grad(loss, tensors, create_graph=True)
        results.append([loss, *first, *torch.autograd.grad(sum(g.square().sum() for g in again), tensors)])
    # For the gradients, for those with a graph, and in the backward pass through these.
    assert calls == [("values", 2, 5), *[("gradients", True)] * 3]
    for expected, result in zip(*results, strict=True):
        assert_close("gradient", expected, result, 1e-6)  # both sides make the same PyTorch calls


def test_gradients_of_one_result(assert_close):
    tensors, results = network(5), []
    for function in (reference.mlp_jet, mlp_jet):
        laplacian = jets_of(function, tensors, (2, True))[2]
        results.append(torch.autograd.grad(laplacian.sum(), tensors[1:], allow_unused=True, materialize_grads=True))
    for expected, result in zip(*results, strict=True):
        assert_close("gradient", expected, result, 1e-6)


def test_gradient_of_coordinates_is_computed_only_if_needed(calls):
    coords, *others = network(5)
    torch.autograd.grad(loss_of(mlp_jet, [coords.detach(), *others], (2, False)), others)
    assert calls == [("values", 2, 5), ("gradients", False)]


@with_options
def test_an_axis_of_coordinates_becomes_points_and_one_of_weights_networks(options, calls):
    coords, *others = [tensor.detach() for tensor in network(5)]
    vmap(lambda coords: tuple(jets_of(mlp_jet, [coords, *others], options)))(torch.stack([coords] * 3))
    vmap(lambda weight: tuple(jets_of(mlp_jet, [coords, weight, *others[1:]], options)))(torch.stack([others[0]] * 3))
    assert calls == [("values", 2, 15), ("values", 6, 5)]


@with_options
@pytest.mark.parametrize("points", [0, 3])
def test_shapes_are_those_of_the_reference(options, points):
    tensors = network(points)
    expected = jets_of(reference.mlp_jet, tensors, options)
    assert [result.shape for result in jets_like(tensors[0], tensors[1:3], *options)] == [r.shape for r in expected]
    assert [result.shape for result in jets_of(mlp_jet, tensors, options)] == [r.shape for r in expected]


def test_nothing_is_called_without_points(calls):
    tensors = network(0)
    gradients = torch.autograd.grad(loss_of(mlp_jet, tensors, (2, True)), tensors)
    assert calls == []
    assert all((gradient == 0).all() for gradient in gradients)
