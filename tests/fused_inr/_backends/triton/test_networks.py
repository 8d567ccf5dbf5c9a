"""`mlp` of the Triton backend without a GPU: the calls it declines, and the kernels that it chooses."""

from itertools import pairwise

import pytest
import torch

from fused_inr._backends.triton import networks
from fused_inr.primitives.mlp import siren_layers

ONE_KERNEL, WIDE, ONE_LAYER = (2, 16, 16, 3), (2, 300, 3), (2, 3)


def network(sizes: tuple[int, ...], device: str = "meta") -> tuple[torch.Tensor, list, list]:
    """Return coordinates [2, 9, K], weights and biases of two networks."""
    weights = [torch.empty(2, outputs, inputs, device=device) for inputs, outputs in pairwise(sizes)]
    return torch.empty(2, 9, sizes[0], device=device), weights, [torch.empty(2, n, device=device) for n in sizes[1:]]


@pytest.fixture
def launched(monkeypatch) -> list[str]:
    """Collect the names of kernels instead of running them."""
    pytest.importorskip("triton")
    from fused_inr._backends.triton.kernels import launch, network_layers

    names: list[str] = []

    def collect(launches, device) -> None:
        names.extend(each.kernel.__name__ for each in launches)

    monkeypatch.setattr(launch, "run", collect)
    monkeypatch.setattr(network_layers, "run", collect)
    return names


def test_supports():
    arguments = (*network((2, 16, 3), "cpu"), *siren_layers(2, 30.0, 30.0, "linear"))
    assert networks.supports(*arguments, torch.float16) == (True, "")
    wide = (arguments[0].double(), *arguments[1:])
    refusal = "it computes in float32, bfloat16 or float16, not in torch.float64"
    assert networks.supports(*wide, torch.float64) == (False, refusal)


LAYER = "network_layer_kernel"
VALUES = {ONE_KERNEL: ["network_kernel"], WIDE: [LAYER] * 2, ONE_LAYER: [LAYER]}


@pytest.mark.parametrize("sizes", VALUES, ids=str)
def test_networks_that_fit_are_one_kernel(sizes, launched):
    values = networks._values(*network(sizes), *siren_layers(len(sizes) - 1, 30.0, 20.0, "linear"), torch.float32)
    assert (values.shape, values.dtype) == ((2, 9, 3), torch.float32)
    assert launched == VALUES[sizes]


@pytest.mark.parametrize("with_coords", [False, True], ids=["without-coords", "with-coords"])
@pytest.mark.parametrize("sizes", VALUES, ids=str)
def test_gradients_have_the_shapes_of_the_tensors(sizes, with_coords, launched):
    coords, weights, biases = network(sizes)
    gradient = torch.empty(2, 9, 3, device="meta")
    options = *siren_layers(len(weights), 30.0, 20.0, "sine"), torch.float16, with_coords
    results = networks._gradients(gradient, coords, weights, biases, *options)
    expected = [coords.shape if with_coords else (0,), *(tensor.shape for tensor in (*weights, *biases))]
    assert [tensor.shape for tensor in results] == expected
    assert all(tensor.dtype == torch.float32 for tensor in results)
    if sizes == ONE_KERNEL:
        assert launched == ["network_backward_kernel"]
    else:
        assert launched.count("network_weight_gradient_kernel") == len(weights)
        # Each layer forward; each but the first backward, and the first one for the coordinates.
        assert launched.count(LAYER) == 2 * len(weights) - (0 if with_coords else 1)


MIXED = {
    "activations": (["relu", "sine", "linear"], [1.0, 30.0, 1.0], [False] * 3),
    "frequencies": (["gauss"] * 3, [1.0, 2.0, 3.0], [False] * 3),
    "skips": (["relu"] * 3, [1.0] * 3, [False, True, False]),
}


@pytest.mark.parametrize("name", MIXED)
def test_layers_that_are_not_uniform_run_one_by_one(name, launched):
    options = MIXED[name]
    sizes = ((16, 2), (16, 18 if any(options[2]) else 16), (3, 16))
    weights = [torch.empty(2, *size, device="meta") for size in sizes]
    biases = [torch.empty(2, size[0], device="meta") for size in sizes]
    coords, gradient = (torch.empty(2, 9, size, device="meta") for size in (2, 3))
    assert networks.supports(coords, weights, biases, *options, torch.bfloat16)[0]
    networks._values(coords, weights, biases, *options, torch.bfloat16)
    assert launched == [LAYER] * 3
    results = networks._gradients(gradient, coords, weights, biases, *options, torch.bfloat16, True)
    assert [r.shape for r in results] == [tensor.shape for tensor in (coords, *weights, *biases)]
    # The coordinates' share through a skip connection, and their columns of the weight's gradient.
    extra = 1 if any(options[2]) else 0
    assert launched.count(LAYER) == 3 + 6 + extra
    assert launched.count("network_weight_gradient_kernel") == 3 + extra
