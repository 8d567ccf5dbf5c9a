"""Images fitted by SIRENs, one network for each: all at once, in a loop, and by vmap of the naive network.

The trainers are those of `examples/fit_images.py --compare`; a call is one update of every network.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

import fused_inr as fi
from benchmarks.device import on_cuda
from benchmarks.harness import Case, precisions
from benchmarks.sizes import scaled
from fused_inr.tools import counts

EXAMPLES = Path(__file__).parents[1] / "examples"
IMAGES, SIDE, WIDTH = scaled(tiny=(2, 8, 16), default=(16, 64, 64), full=(64, 64, 64))
LAYERS, RATE = 4, 1e-3
# After one update, relative to that of the loop; Adam divides by gradients, and some of them are rounding errors.
TOLERANCE = {"float32": 1e-2, "bfloat16": 0.3}


@pytest.fixture
def examples(monkeypatch):
    """Return the modules of the example."""
    monkeypatch.setattr(sys, "path", [str(EXAMPLES), *sys.path])
    yield [importlib.import_module(name) for name in ("fit_images", "naive_sirens", "common")]
    for name in ("fit_images", "naive_sirens", "common"):
        sys.modules.pop(name, None)


@pytest.mark.skipif(on_cuda(), reason="the example trains on the CPU")
@precisions("float32")
def test_fit(compare, examples, precision):
    fit_images, naive_sirens, common = examples
    torch.manual_seed(0)
    targets = common.made_images(IMAGES, SIDE).flatten(2).mT.contiguous()  # [N, P, 3]
    coords = common.pixel_centers(SIDE)
    network = fi.nn.Siren(2, 3, (WIDTH,) * LAYERS, batch=IMAGES)
    shared = coords, targets, RATE, precision.dtype is torch.bfloat16
    makers = {"naive loop": naive_sirens.Loop, "compiled vmap": naive_sirens.Vmap, "ours": fit_images.Batch}
    # Ours trains the parameters of `network` in place; the others copy them first.
    trainers = {name: make(network, *shared) for name, make in makers.items()}

    parameters = [list(map(torch.Tensor.detach, tensors)) for tensors in (network.weights, network.biases)]
    work = counts.siren(coords, *parameters, dtype=precision.dtype)
    work += counts.siren(coords, *parameters, dtype=precision.dtype, backward=True)
    compare(
        Case(
            name=f"fit {IMAGES} images R{SIDE}, SIREN {LAYERS}x{WIDTH}",
            dtype=precision.dtype,
            paths={name: Updates(trainer) for name, trainer in trainers.items()},
            flops=work.flops,
            work=work,
            truth=None,
            tolerance=TOLERANCE[precision.name],
            amount=(IMAGES, "updates"),
        )
    )


class Updates:
    """A path that updates the networks of a trainer; its result is that of the first update."""

    def __init__(self, trainer) -> None:
        self.trainer = trainer
        self.result: Tensor | None = None

    def __call__(self) -> Tensor:
        self.trainer.step()
        if self.result is None:
            with torch.no_grad():
                self.result = self.trainer.values()
        return self.result
