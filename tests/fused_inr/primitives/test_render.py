"""The registration of a backend's `render`: forward, both orders of gradients, stored outputs, no frames."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import fused_inr as fi
from fused_inr import composed, flattening, reference
from fused_inr.primitives.render import register

CALLS = []


def evaluate(inr, grid, dtype, keep):
    CALLS.append(("evaluate", keep))
    frames = reference.render(inr.mapped(torch.Tensor.detach), grid, dtype).float()
    return frames, [torch.ones(1)] if keep else []


def differentiate(inr, grid, gradient, dtype, kept):
    CALLS.append(("differentiate", len(kept)))
    tensors, *structure = flattening.flatten(inr)
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    options = (*structure, flattening.frames_shape(inr, grid), [*grid.x, *grid.y], dtype)
    needs = [True] * len(leaves)
    with ThreadPoolExecutor(1) as thread:  # PyTorch disables autograd in the thread of an op
        gradients = thread.submit(composed.gradients, gradient.detach(), leaves, *options, needs).result()
    return [gradient.detach().contiguous() for gradient in gradients]


render = register("test", evaluate, differentiate)


@pytest.fixture(autouse=True)
def calls():
    CALLS.clear()
    return CALLS


def loss_of(function, inr, tensors, with_tensors):
    return function(with_tensors(inr, tensors), fi.Grid(3, 2), torch.float32).square().sum()


@pytest.mark.parametrize("stored", [False, True])
def test_gradients_of_two_orders(stored, make_inr, tensors_of, with_tensors, calls, assert_close):
    inr = make_inr(2, 2, dtype=torch.float32)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors_of(inr)]
    results = []
    for function in (reference.render, render):
        with fi.store_activations() if stored and function is render else torch.enable_grad():
            loss = loss_of(function, inr, leaves, with_tensors)
            first = torch.autograd.grad(loss, leaves, retain_graph=True)
            again = torch.autograd.grad(loss, leaves, create_graph=True)
        results.append([*first, *torch.autograd.grad(sum(g.square().sum() for g in again), leaves, allow_unused=True)])
    # For the gradients, for those with a graph, and in the backward pass through these.
    assert calls == [("evaluate", stored), *[("differentiate", int(stored))] * 3]
    for expected, result in zip(*results, strict=True):
        # Measured: 4e-6.
        assert_close("gradient", expected, result, 1e-4)


def test_nothing_is_called_without_frames(make_inr, tensors_of, with_tensors, calls):
    inr = make_inr(2, 0, dtype=torch.float32)
    leaves = [tensor.clone().requires_grad_() for tensor in tensors_of(inr)]
    gradients = torch.autograd.grad(loss_of(render, inr, leaves, with_tensors), leaves)
    assert calls == []
    assert all((gradient == 0).all() for gradient in gradients)
