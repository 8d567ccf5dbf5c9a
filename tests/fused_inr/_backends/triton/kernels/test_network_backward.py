"""Gradients of whole networks in one kernel, against autograd of the reference in float64."""

from itertools import pairwise

import pytest
import torch
import triton
import triton.language as tl

from fused_inr import reference
from fused_inr._backends.triton.kernels import configs, launch, network_backward
from fused_inr._backends.triton.kernels.network_backward import loaded_state, stored_state
from fused_inr.primitives.mlp import uniform_layers

OMEGA, FIRST_OMEGA = 20.0, 30.0


def network(points: int, sizes: tuple[int, ...]) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Return coordinates, weights and biases of two networks, initialized as in SIREN (NeurIPS 2020)."""

    def uniform(bound: float, *shape: int) -> torch.Tensor:
        return bound * (2 * torch.rand(2, *shape) - 1)

    weights = [
        uniform((6 / inputs) ** 0.5 / OMEGA if index else 1 / inputs, outputs, inputs)
        for index, (inputs, outputs) in enumerate(pairwise(sizes))
    ]
    return uniform(1.0, points, sizes[0]), weights, [uniform(0.2, outputs) for outputs in sizes[1:]]


def check_gradients(points: int, sizes: tuple[int, ...], errors, device: str, activation: str = "sine") -> int:
    """Compare the gradients of every tensor, and return the number of programs per sample."""
    coords, weights, biases = network(points, sizes)
    gradient = torch.randn(2, points, sizes[-1])
    leaves = [tensor.double().requires_grad_() for tensor in (coords, *weights, *biases)]
    count = len(weights)
    options = [activation] * count, [FIRST_OMEGA, *[OMEGA] * (count - 1)], [False] * count
    values = reference.mlp(leaves[0], leaves[1 : 1 + count], leaves[1 + count :], *options, torch.float64)
    exact = torch.autograd.grad(values, leaves, gradient.double())
    coords, *tensors, gradient = (tensor.to(device) for tensor in (coords, *weights, *biases, gradient))
    weights, biases = tensors[:count], tensors[count:]
    of_coords, sums, launches = network_backward.backward(
        gradient, coords, weights, biases, uniform_layers(*options), torch.float32, True
    )
    launch.run(launches, coords.device)
    actual = [of_coords, *network_backward.unpacked(sums, weights, biases)]
    assert max(errors([tensor.cpu() for tensor in actual], exact)) <= 1e-5  # measured in the interpreter: 1.0e-6
    assert all(tensor.is_contiguous() for tensor in actual)
    return sums.shape[1]


@pytest.mark.parametrize(("points", "sizes"), [(1, (1, 5, 2)), (63, (3, 17, 9, 1)), (70, (2, 16, 16, 3))], ids=str)
def test_gradients(points, sizes, errors, device):
    check_gradients(points, sizes, errors, device)


@pytest.mark.parametrize("activation", ["relu", "tanh", "gauss"])
def test_activation_of_every_layer(activation, errors, device):
    check_gradients(9, (3, 17, 9, 2), errors, device, activation)


@pytest.mark.parametrize(
    ("activation", "dtype", "stored"),
    [
        ("sine", torch.float32, torch.float32),
        ("sine", torch.float16, torch.int16),
        ("relu", torch.bfloat16, torch.bfloat16),
        ("gauss", torch.float16, torch.float16),
        ("finer", torch.float16, torch.float32),
    ],
)
def test_state_type(activation, dtype, stored):
    assert network_backward.state_type(activation, dtype) == stored


def test_sums_of_many_programs(errors, device, monkeypatch):
    """Sum gradients over several programs per sample, which process different numbers of tiles."""
    choose = configs.chosen

    def chosen(kernel: str, *arguments) -> dict[str, int]:
        return choose(kernel, *arguments) | {"BLOCK_M": 32, "programs": 9}

    monkeypatch.setattr(configs, "chosen", chosen)
    assert check_gradients(150, (2, 20, 20, 3), errors, device) == 4  # programs of 2, 1, 1 and 1 tiles


@triton.jit
def state_kernel(phases, stored, out, BLOCK: tl.constexpr):
    """Store states in the type of `stored`, and write what is read back to `out`."""
    place = tl.arange(0, BLOCK)
    tl.store(stored + place, stored_state(tl.load(phases + place), stored.dtype.element_ty))
    tl.debug_barrier()
    tl.store(out + place, loaded_state(tl.load(stored + place)))


# Half a unit of 2^-16 turns is 4.8e-5, which the addition of 192 rounds once more. The interpreter truncates bfloat16.
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 0.0), (torch.int16, 5e-5), (torch.bfloat16, 2**-6)], ids=str
)
def test_stored_states(dtype, tolerance, device):
    phases = torch.linspace(-torch.pi, torch.pi, 4096, device=device)
    out = torch.empty_like(phases)
    state_kernel[(1,)](phases, torch.zeros(4096, dtype=dtype, device=device), out, BLOCK=4096)
    turns = (out - phases).cpu().double() / (2 * torch.pi)
    assert ((turns - turns.round()) * 2 * torch.pi).abs().max() <= tolerance
