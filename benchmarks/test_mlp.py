"""Batches of networks with activations other than sines, each with its own weights, on the pixels of an image."""

from __future__ import annotations

from functools import partial

import pytest

import fused_inr as fi
from benchmarks.device import pick
from benchmarks.harness import precisions
from benchmarks.networks import Network, Size, gradients_case, parameters, pixels, relu_layer, values_case
from benchmarks.sizes import full, scaled
from fused_inr.tools import counts

# Relative to float64, for values and for gradients. Rounding flips the slope of a ReLU at some points, which a few of
# the gradients, where sums cancel, notice most.
TOLERANCE = {"float32": 1e-4, "tf32": 0.05, "float16": 0.05, "bfloat16": 0.1}
GRADIENT_TOLERANCE = {"float32": 1e-3, "tf32": 0.2, "float16": 0.2, "bfloat16": 0.3}

OMEGAS = {"gauss": 2.0}
SIZE = scaled(tiny=Size(2, 3, 16, 8), default=pick(cpu=Size(8, 5, 256, 128), cuda=Size(8, 5, 256, 256)))
ACTIVATIONS = pytest.mark.parametrize("activation", ["relu", "gauss"] if full() else ["relu"])


def networks(size: Size) -> Network:
    """Return coordinates, and weights and biases initialised for ReLUs."""
    return pixels(size), *parameters(size, relu_layer)


def options_of(activation: str, size: Size) -> dict:
    """Return the options of `fi.mlp`: hidden layers with an activation and a linear last layer."""
    return {
        "activations": [*[activation] * (size.layers - 1), "linear"],
        "omegas": [*[OMEGAS.get(activation)] * (size.layers - 1), None],
    }


@precisions("bfloat16")
@ACTIVATIONS
def test_mlp(compare, activation, precision):
    network, options = networks(SIZE), options_of(activation, SIZE)
    work = counts.mlp(*network, activations=options["activations"], dtype=precision.dtype)
    name, tolerance = f"mlp {activation} {SIZE}", TOLERANCE[precision.name]
    compare(values_case(name, network, partial(fi.mlp, **options), work, precision, tolerance))


@precisions("bfloat16")
@ACTIVATIONS
def test_mlp_forward_and_backward(compare, activation, precision):
    network, options = networks(SIZE), options_of(activation, SIZE)
    layers = {"activations": options["activations"], "dtype": precision.dtype}
    work = counts.mlp(*network, **layers) + counts.mlp(*network, **layers, backward=True)
    name, tolerance = f"mlp {activation} forward + backward {SIZE}", GRADIENT_TOLERANCE[precision.name]
    compare(gradients_case(name, network, partial(fi.mlp, **options), work, precision, tolerance))
