"""Batches of SIRENs, each with its own weights, on the pixels of an image."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import fused_inr as fi
from benchmarks.device import device, on_cuda, pick
from benchmarks.harness import Case, Precision, precisions
from fused_inr.tools import counts

# Relative to float64; with omega 30, each layer amplifies the rounding errors of the one before.
TOLERANCE = {"float32": 1e-4, "tf32": 0.1, "float16": 0.1, "bfloat16": 0.3}


@dataclass(frozen=True)
class Size:
    """Number of networks, their layers and width, and pixels per side."""

    batch: int
    layers: int
    width: int
    side: int

    def __str__(self) -> str:
        return f"N{self.batch}-L{self.layers}-W{self.width}-P{self.side**2}"


SIZES = pick(cpu=[Size(8, 5, 256, 128), Size(64, 4, 64, 128)], cuda=[Size(64, 5, 64, 256), Size(8, 5, 256, 256)])
TRAINING = pick(cpu=[Size(8, 5, 256, 128)], cuda=[Size(64, 5, 64, 256)])


def sirens(size: Size) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return coordinates, and weights and biases initialised as published (SIREN, NeurIPS 2020)."""
    torch.manual_seed(0)
    widths = [2] + [size.width] * (size.layers - 1) + [3]
    weights, biases = [], []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        bound = 1 / inputs if index == 0 else (6 / inputs) ** 0.5 / 30
        weights.append(torch.empty(size.batch, outputs, inputs).uniform_(-bound, bound).to(device()))
        biases.append(torch.empty(size.batch, outputs).uniform_(-bound, bound).to(device()))
    axis = torch.linspace(-1, 1, size.side, device=device())
    return torch.cartesian_prod(axis, axis), weights, biases


def compiles(precision: Precision) -> bool:
    """Return whether to include a compiled path; on a GPU, only half precision is a practical alternative."""
    return not on_cuda() or precision.name in ("bfloat16", "float16")


@precisions()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_siren(compare, size, precision):
    coords, weights, biases = sirens(size)
    dtype = precision.dtype

    def naive() -> Tensor:
        return fi.siren(coords, weights, biases, dtype=dtype, backend="reference")

    work = counts.siren(coords, weights, biases, dtype=dtype)
    wide = [[tensor[:1].double() for tensor in tensors] for tensors in (weights, biases)]
    compare(
        Case(
            name=f"siren {size}",
            dtype=dtype,
            tf32=precision.tf32,
            paths={
                "naive": naive,
                **({"compiled": torch.compile(naive)} if compiles(precision) else {}),
                "ours": lambda: fi.siren(coords, weights, biases, dtype=dtype),
            },
            rivals=["compiled"] if on_cuda() else (),
            flops=work.flops,
            work=work,
            truth=lambda: fi.siren(coords.double(), *wide, backend="reference"),
            part=lambda values: values[:1],
            tolerance=TOLERANCE[precision.name],
        )
    )


@precisions()
@pytest.mark.parametrize("size", TRAINING, ids=str)
def test_siren_forward_and_backward(compare, size, precision):
    coords, weights, biases = sirens(size)
    dtype = precision.dtype

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
    work = counts.siren(coords, weights, biases, dtype=dtype)
    work += counts.siren(coords, weights, biases, dtype=dtype, backward=True)
    compare(
        Case(
            name=f"siren forward + backward {size}",
            dtype=dtype,
            tf32=precision.tf32,
            paths={
                "naive": lambda: gradients(every, torch.float32, naive),
                **({"compiled": lambda: gradients(every, torch.float32, compiled)} if compiles(precision) else {}),
                "ours": lambda: gradients(every, torch.float32, ours),
            },
            rivals=["compiled"] if on_cuda() else (),
            flops=work.flops,
            work=work,
            truth=lambda: gradients(slice(0, 1), torch.float64, naive),
            part=lambda gradients: tuple(tensor[:1] for tensor in gradients),
            tolerance=TOLERANCE[precision.name],
            rounds=3,
        )
    )
