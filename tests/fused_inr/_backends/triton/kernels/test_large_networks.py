"""Networks with tensors of more than 2^31 elements: the results of the last program of each kernel.

See `test_large_images`. The last program has the last `TAIL` points; these points alone must give the same results.
"""

from collections.abc import Callable
from itertools import pairwise

import pytest
import torch

from fused_inr._backends.triton.kernels import configs, network_backward, network_forward, network_layers
from fused_inr._backends.triton.kernels.launch import run
from fused_inr._backends.triton.kernels.network_layers import Operand
from fused_inr.primitives.mlp import UniformLayers

pytestmark = pytest.mark.usefixtures("untouched_memory")

TAIL, CHANNELS = 8, 16
POINTS = (1 << 27) + TAIL  # times CHANNELS is beyond 2^31
OPTIONS = (UniformLayers("sine", 30.0, 20.0, True), torch.float32)


@pytest.fixture
def network(device) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Return weights and biases."""
    sizes = (CHANNELS, 16, 16, CHANNELS)
    weights = [torch.randn(1, o, i, device=device) / 20 for i, o in pairwise(sizes)]
    return weights, [torch.randn(1, o, device=device) for o in sizes[1:]]


@pytest.fixture
def points(device, interpreted) -> Callable[[int], tuple[torch.Tensor, torch.Tensor]]:
    """Return a tensor [1, POINTS, width] of zeros except for the last TAIL points, and these points."""

    def make(width: int) -> tuple[torch.Tensor, torch.Tensor]:
        x = torch.empty(1, POINTS, width, device=device)
        if not interpreted:  # memory that comes fresh from the operating system is zero
            x.zero_()
        tail = torch.randn(1, TAIL, width, device=device)
        x[:, -TAIL:] = tail
        return x, tail

    return make


def test_values(network, points, run_last):
    coords, tail = points(CHANNELS)
    expected, launches = network_forward.forward(tail, *network, *OPTIONS)
    run(launches, tail.device)
    out, (launch,) = network_forward.forward(coords, *network, *OPTIONS)
    assert out.numel() > 1 << 31
    run_last(launch)
    assert torch.equal(out[:, -TAIL:], expected)


def test_samples_far_apart(network, run_last, device):
    alone = torch.randn(2, TAIL, CHANNELS, device=device)
    weights, biases = ([tensor.expand(2, *tensor.shape[1:]) for tensor in group] for group in network)
    expected, launches = network_forward.forward(alone, weights, biases, *OPTIONS)
    run(launches, alone.device)
    memory = torch.empty((1 << 31) + TAIL * CHANNELS, device=device)
    coords = memory.as_strided((2, TAIL, CHANNELS), (1 << 31, CHANNELS, 1)).copy_(alone)
    actual, (launch,) = network_forward.forward(coords, weights, biases, *OPTIONS)
    assert launch.arguments["coords"].data_ptr() == coords.data_ptr()
    run_last(launch)
    assert torch.equal(actual[1], expected[1])


def test_gradients(network, points, run_last):
    (coords, tail), (gradient, tail_gradient) = points(CHANNELS), points(CHANNELS)
    expected_coords, expected_sums, launches = network_backward.backward(tail_gradient, tail, *network, *OPTIONS, True)
    run(launches, tail.device)
    with configs.using(programs=1 << 30):  # one tile per program
        coords_gradient, sums, (launch,) = network_backward.backward(gradient, coords, *network, *OPTIONS, True)
        assert min(gradient.numel(), launch.arguments["states"].numel()) > 1 << 31
        run_last(launch)
    assert torch.equal(coords_gradient[:, -TAIL:], expected_coords)
    assert torch.equal(sums[:, -1], expected_sums[:, 0])


def test_layer(points, run_last, device):
    x, tail = points(CHANNELS)
    weight = torch.randn(1, CHANNELS, CHANNELS, device=device)
    out, expected = torch.empty_like(x), torch.empty_like(tail)
    network_layers.layer(Operand(tail, weight), expected, "slope", slopes=tail).run()
    run_last(network_layers.layer(Operand(x, weight), out, "slope", slopes=x))
    assert torch.equal(out[:, -TAIL:], expected)


def test_weight_gradient(points, run_last, monkeypatch):
    monkeypatch.setattr(network_layers, "SUMMING_PROGRAMS", 1 << 30)  # as few points per program as possible
    x, tail = points(CHANNELS)
    *expected, launch = network_layers.weight_gradient(tail, tail)
    launch.run()
    *sums, launch = network_layers.weight_gradient(x, x)
    run_last(launch)
    assert all(torch.equal(a[:, -1], b[:, 0]) for a, b in zip(sums, expected, strict=True))
