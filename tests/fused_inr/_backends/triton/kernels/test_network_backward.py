"""Gradients of whole SIRENs in one kernel, against autograd of the reference in float64."""

from itertools import pairwise

import pytest
import torch
import triton
import triton.language as tl

from fused_inr import reference
from fused_inr._backends.triton.kernels import configs, launch, siren_backward
from fused_inr._backends.triton.kernels.siren_backward import loaded_phase, stored_phase

OPTIONS = (20.0, 30.0, True, torch.float32)  # omega, first omega, a final sine


def network(points: int, sizes: tuple[int, ...]) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    """Return coordinates, weights and biases of two networks, initialized as in SIREN (NeurIPS 2020)."""

    def uniform(bound: float, *shape: int) -> torch.Tensor:
        return bound * (2 * torch.rand(2, *shape) - 1)

    weights = [
        uniform((6 / inputs) ** 0.5 / OPTIONS[0] if index else 1 / inputs, outputs, inputs)
        for index, (inputs, outputs) in enumerate(pairwise(sizes))
    ]
    return uniform(1.0, points, sizes[0]), weights, [uniform(0.2, outputs) for outputs in sizes[1:]]


def check_gradients(points: int, sizes: tuple[int, ...], errors, device: str) -> int:
    """Compare the gradients of every tensor, and return the number of programs per sample."""
    coords, weights, biases = network(points, sizes)
    gradient = torch.randn(2, points, sizes[-1])
    leaves = [tensor.double().requires_grad_() for tensor in (coords, *weights, *biases)]
    count = len(weights)
    values = reference.siren(leaves[0], leaves[1 : 1 + count], leaves[1 + count :], *OPTIONS[:2], "sine", torch.float64)
    exact = torch.autograd.grad(values, leaves, gradient.double())
    coords, *tensors, gradient = (tensor.to(device) for tensor in (coords, *weights, *biases, gradient))
    weights, biases = tensors[:count], tensors[count:]
    of_coords, sums, launches = siren_backward.backward(gradient, coords, weights, biases, *OPTIONS, True)
    launch.run(launches, coords.device)
    actual = [of_coords, *siren_backward.unpacked(sums, weights, biases)]
    assert max(errors([tensor.cpu() for tensor in actual], exact)) <= 1e-5  # measured in the interpreter: 1.0e-6
    assert all(tensor.is_contiguous() for tensor in actual)
    return sums.shape[1]


@pytest.mark.parametrize(("points", "sizes"), [(1, (1, 5, 2)), (63, (3, 17, 9, 1)), (70, (2, 16, 16, 3))], ids=str)
def test_gradients(points, sizes, errors, device):
    check_gradients(points, sizes, errors, device)


def test_sums_of_many_programs(errors, device, monkeypatch):
    """Sum gradients over several programs per sample, which process different numbers of tiles."""
    choose = configs.chosen

    def chosen(kernel: str, *arguments) -> dict[str, int]:
        return choose(kernel, *arguments) | {"BLOCK_M": 32, "programs": 9}

    monkeypatch.setattr(configs, "chosen", chosen)
    assert check_gradients(150, (2, 20, 20, 3), errors, device) == 4  # programs of 2, 1, 1 and 1 tiles


@triton.jit
def phase_kernel(phases, stored, out, BLOCK: tl.constexpr):
    """Store phases in the type of `stored`, and write what is read back to `out`."""
    place = tl.arange(0, BLOCK)
    tl.store(stored + place, stored_phase(tl.load(phases + place), stored.dtype.element_ty))
    tl.debug_barrier()
    tl.store(out + place, loaded_phase(tl.load(stored + place)))


# Half a unit of 2^-16 turns is 4.8e-5, which the addition of 192 rounds once more.
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 0.0), (torch.int16, 5e-5)], ids=str)
def test_stored_phases(dtype, tolerance, device):
    phases = torch.linspace(-torch.pi, torch.pi, 4096, device=device)
    out = torch.empty_like(phases)
    phase_kernel[(1,)](phases, torch.zeros(4096, dtype=dtype, device=device), out, BLOCK=4096)
    turns = (out - phases).cpu().double() / (2 * torch.pi)
    assert ((turns - turns.round()) * 2 * torch.pi).abs().max() <= tolerance
