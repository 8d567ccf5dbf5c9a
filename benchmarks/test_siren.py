"""Batches of SIRENs, each with its own weights, on the pixels of an image or of a volume."""

from __future__ import annotations

import pytest

import fused_inr as fi
from benchmarks.device import pick
from benchmarks.harness import Case, Precision, precisions
from benchmarks.networks import Network, Size, gradients_case, parameters, pixels, siren_layer, values_case
from benchmarks.sizes import scaled
from fused_inr.tools import counts

# Relative to float64; with omega 30, each layer amplifies the rounding errors of the one before.
TOLERANCE = {"float32": 1e-4, "tf32": 0.1, "float16": 0.1, "bfloat16": 0.3}

TINY = Size(2, 3, 16, 8)
# With activations that do not fit into the caches.
WIDE = scaled(tiny=TINY, default=pick(cpu=Size(8, 5, 256, 128), cuda=Size(8, 5, 256, 256)))
NARROW = scaled(tiny=TINY, default=pick(cpu=Size(64, 4, 64, 128), cuda=Size(64, 5, 64, 256)))
VOLUME = scaled(tiny=Size(1, 3, 16, 4, 3), default=pick(cpu=Size(4, 4, 128, 24, 3), cuda=Size(16, 4, 128, 64, 3)))


def sirens(size: Size) -> Network:
    """Return coordinates, and weights and biases initialised as published."""
    return pixels(size), *parameters(size, siren_layer)


def values(size: Size, precision: Precision) -> Case:
    network = sirens(size)
    work = counts.siren(*network, dtype=precision.dtype)
    return values_case(f"siren {size}", network, fi.siren, work, precision, TOLERANCE[precision.name])


@precisions("float32", "bfloat16")
def test_wide_sirens(compare, precision):
    compare(values(WIDE, precision))


@precisions("bfloat16")
@pytest.mark.parametrize("size", [NARROW, VOLUME], ids=["narrow", "volume"])
def test_sirens(compare, size, precision):
    compare(values(size, precision))


@precisions("bfloat16")
def test_siren_forward_and_backward(compare, precision):
    network = sirens(pick(cpu=WIDE, cuda=NARROW))
    work = counts.siren(*network, dtype=precision.dtype)
    work += counts.siren(*network, dtype=precision.dtype, backward=True)
    name = f"siren forward + backward {pick(cpu=WIDE, cuda=NARROW)}"
    compare(gradients_case(name, network, fi.siren, work, precision, TOLERANCE[precision.name]))
