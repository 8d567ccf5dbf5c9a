"""Batches of SIRENs, each with its own weights, on the pixels of a 128x128 image."""

import itertools

import pytest
import torch
from torch import Tensor

import fused_inr as fi
from benchmarks.harness import DTYPES, Case

POINTS = 128 * 128
# Against float64; with omega 30 each layer multiplies the rounding of the one before.
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 0.3}


def sirens(batch: int, width: int, layers: int) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Initialised as published (SIREN, NeurIPS 2020)."""
    torch.manual_seed(0)
    sizes = [2] + [width] * (layers - 1) + [3]
    weights, biases = [], []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
        bound = 1 / inputs if index == 0 else (6 / inputs) ** 0.5 / 30
        weights.append(torch.empty(batch, outputs, inputs).uniform_(-bound, bound))
        biases.append(torch.empty(batch, outputs).uniform_(-bound, bound))
    axis = torch.linspace(-1, 1, 128)
    return torch.cartesian_prod(axis, axis), weights, biases


@DTYPES
@pytest.mark.parametrize(("batch", "width", "layers"), [(8, 256, 5), (64, 64, 4)], ids=["N8-L5-W256", "N64-L4-W64"])
def test_siren(compare, batch, width, layers, dtype):
    coords, weights, biases = sirens(batch, width, layers)

    def naive() -> Tensor:
        return fi.siren(coords, weights, biases, dtype=dtype, backend="reference")

    macs = sum(weight.shape[1] * weight.shape[2] for weight in weights) * batch * POINTS
    wide = [[tensor[:1].double() for tensor in tensors] for tensors in (weights, biases)]
    compare(
        Case(
            name=f"siren N{batch}-L{layers}-W{width}-P{POINTS}",
            dtype=dtype,
            paths={
                "naive": naive,
                "compiled": torch.compile(naive),
                "ours": lambda: fi.siren(coords, weights, biases, dtype=dtype),
            },
            flops=2 * macs,
            truth=lambda: fi.siren(coords.double(), *wide, backend="reference"),
            part=lambda found: found[:1],
            tolerance=TOLERANCE[dtype],
        )
    )


@DTYPES
def test_siren_forward_and_backward(compare, dtype):
    coords, weights, biases = sirens(8, 256, 5)

    def gradients(clips: slice, wide: torch.dtype, function) -> tuple[Tensor, ...]:
        tensors = [tensor[clips].to(wide).requires_grad_() for tensor in (*weights, *biases)]
        points = function(coords.to(wide), tensors[: len(weights)], tensors[len(weights) :])
        return torch.autograd.grad(points.square().sum(), tensors)

    def naive(coords: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        product = dtype if coords.dtype == torch.float32 else None
        return fi.siren(coords, weights, biases, dtype=product, backend="reference")

    def ours(coords: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        return fi.siren(coords, weights, biases, dtype=dtype)

    compiled = torch.compile(naive)
    every = slice(None)
    macs = sum(weight.shape[1] * weight.shape[2] for weight in weights) * 8 * POINTS
    compare(
        Case(
            name="siren forward + backward N8-L5-W256",
            dtype=dtype,
            paths={
                "naive": lambda: gradients(every, torch.float32, naive),
                "compiled": lambda: gradients(every, torch.float32, compiled),
                "ours": lambda: gradients(every, torch.float32, ours),
            },
            flops=3 * 2 * macs,
            truth=lambda: gradients(slice(0, 1), torch.float64, naive),
            part=lambda found: tuple(tensor[:1] for tensor in found),
            tolerance=TOLERANCE[dtype],
            rounds=3,
        )
    )
