"""Batches of SIRENs, each with its own weights, on the pixels of an image."""

from __future__ import annotations

import pytest

import fused_inr as fi
from benchmarks.device import pick
from benchmarks.harness import precisions
from benchmarks.networks import Network, Size, gradients_case, parameters, pixels, siren_layer, values_case
from fused_inr.tools import counts

# Relative to float64; with omega 30, each layer amplifies the rounding errors of the one before.
TOLERANCE = {"float32": 1e-4, "tf32": 0.1, "float16": 0.1, "bfloat16": 0.3}

SIZES = pick(cpu=[Size(8, 5, 256, 128), Size(64, 4, 64, 128)], cuda=[Size(64, 5, 64, 256), Size(8, 5, 256, 256)])
TRAINING = pick(cpu=[Size(8, 5, 256, 128)], cuda=[Size(64, 5, 64, 256)])


def sirens(size: Size) -> Network:
    """Return coordinates, and weights and biases initialised as published."""
    return pixels(size.side), *parameters(size.batch, size.layers, size.width, siren_layer)


@precisions()
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_siren(compare, size, precision):
    network = sirens(size)
    work = counts.siren(*network, dtype=precision.dtype)
    compare(values_case(f"siren {size}", network, fi.siren, work, precision, TOLERANCE[precision.name]))


@precisions()
@pytest.mark.parametrize("size", TRAINING, ids=str)
def test_siren_forward_and_backward(compare, size, precision):
    network = sirens(size)
    work = counts.siren(*network, dtype=precision.dtype)
    work += counts.siren(*network, dtype=precision.dtype, backward=True)
    name, tolerance = f"siren forward + backward {size}", TOLERANCE[precision.name]
    compare(gradients_case(name, network, fi.siren, work, precision, tolerance))
