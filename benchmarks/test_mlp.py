"""Batches of networks with activations other than sines, each with its own weights, on the pixels of an image."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

import fused_inr as fi
from benchmarks.device import device, on_cuda, pick
from benchmarks.harness import Case, precisions
from benchmarks.test_siren import Size, compiles
from fused_inr.tools import counts

# Relative to float64, for values and for gradients. Rounding flips the slope of a ReLU at some points, which a few of
# the gradients, where sums cancel, notice most.
TOLERANCE = {"float32": 1e-4, "tf32": 0.05, "float16": 0.05, "bfloat16": 0.1}
GRADIENT_TOLERANCE = {"float32": 1e-3, "tf32": 0.2, "float16": 0.2, "bfloat16": 0.3}

OMEGAS = {"gauss": 2.0}
SIZE = pick(cpu=Size(8, 5, 256, 128), cuda=Size(8, 5, 256, 256))
ACTIVATIONS = pytest.mark.parametrize("activation", ["relu", "gauss"])


def networks(size: Size) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """Return coordinates, and weights and biases initialised for ReLUs (He et al., ICCV 2015)."""
    torch.manual_seed(0)
    widths = [2] + [size.width] * (size.layers - 1) + [3]
    weights, biases = [], []
    for inputs, outputs in itertools.pairwise(widths):
        weights.append((torch.randn(size.batch, outputs, inputs) * (2 / inputs) ** 0.5).to(device()))
        biases.append(torch.empty(size.batch, outputs).uniform_(-0.1, 0.1).to(device()))
    axis = torch.linspace(-1, 1, size.side, device=device())
    return torch.cartesian_prod(axis, axis), weights, biases


def options_of(activation: str, size: Size) -> dict:
    """Return the options of `fi.mlp`: hidden layers with an activation and a linear last layer."""
    return {
        "activations": [*[activation] * (size.layers - 1), "linear"],
        "omegas": [*[OMEGAS.get(activation)] * (size.layers - 1), None],
    }


@precisions()
@ACTIVATIONS
def test_mlp(compare, activation, precision):
    coords, weights, biases = networks(SIZE)
    dtype, options = precision.dtype, options_of(activation, SIZE)

    def naive() -> Tensor:
        return fi.mlp(coords, weights, biases, **options, dtype=dtype, backend="reference")

    work = counts.mlp(coords, weights, biases, activations=options["activations"], dtype=dtype)
    wide = [[tensor[:1].double() for tensor in tensors] for tensors in (weights, biases)]
    compare(
        Case(
            name=f"mlp {activation} {SIZE}",
            dtype=dtype,
            tf32=precision.tf32,
            paths={
                "naive": naive,
                **({"compiled": torch.compile(naive)} if compiles(precision) else {}),
                "ours": lambda: fi.mlp(coords, weights, biases, **options, dtype=dtype),
            },
            rivals=["compiled"] if on_cuda() else (),
            flops=work.flops,
            work=work,
            truth=lambda: fi.mlp(coords.double(), *wide, **options, backend="reference"),
            part=lambda values: values[:1],
            tolerance=TOLERANCE[precision.name],
        )
    )


@precisions()
@ACTIVATIONS
def test_mlp_forward_and_backward(compare, activation, precision):
    coords, weights, biases = networks(SIZE)
    dtype, options = precision.dtype, options_of(activation, SIZE)

    def gradients(clips: slice, wide: torch.dtype, function) -> tuple[Tensor, ...]:
        tensors = [tensor[clips].to(wide).requires_grad_() for tensor in (*weights, *biases)]
        points = function(coords.to(wide), tensors[: len(weights)], tensors[len(weights) :])
        return torch.autograd.grad(points.square().sum(), tensors)

    def naive(coords: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        product = dtype if coords.dtype == torch.float32 else None
        return fi.mlp(coords, weights, biases, **options, dtype=product, backend="reference")

    def ours(coords: Tensor, weights: list[Tensor], biases: list[Tensor]) -> Tensor:
        return fi.mlp(coords, weights, biases, **options, dtype=dtype)

    compiled = torch.compile(naive)
    every = slice(None)
    layers = {"activations": options["activations"], "dtype": dtype}
    work = counts.mlp(coords, weights, biases, **layers) + counts.mlp(coords, weights, biases, **layers, backward=True)
    compare(
        Case(
            name=f"mlp {activation} forward + backward {SIZE}",
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
            tolerance=GRADIENT_TOLERANCE[precision.name],
            rounds=3,
        )
    )
