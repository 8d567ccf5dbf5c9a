"""The parts of a generator: one layer with weights of each clip, and these weights from factors."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

import fused_inr as fi
from benchmarks.device import device, pick
from benchmarks.harness import Case, on_reference, precisions
from benchmarks.limits import copying
from benchmarks.networks import relu_layer, values_case
from benchmarks.sizes import scaled
from fused_inr.tools import counts

# Relative to float64.
TOLERANCE = {"float32": 1e-5, "tf32": 2e-3, "float16": 2e-3, "bfloat16": 1e-2}
CLIPS = pick(cpu=1, cuda=8)
WIDTH, SIDE = scaled(tiny=(16, 8), default=(512, 128))
FRAMES = scaled(tiny=2, default=16)
RANK = 10  # of the published generator


@precisions("float32", "bfloat16")
def test_modulated_layer(compare, precision):
    torch.manual_seed(0)
    weight, bias = (tensor.to(device()) for tensor in relu_layer(1, (CLIPS, WIDTH, WIDTH)))
    features = torch.randn(CLIPS, SIDE**2, WIDTH, device=device())
    network = features, [weight], [bias]
    options = {"activations": ["lrelu"]}
    work = counts.mlp(*network, **options, dtype=precision.dtype)
    name = f"modulated layer N{CLIPS}-W{WIDTH}-P{SIDE**2}"
    compare(values_case(name, network, partial(fi.mlp, **options), work, precision, TOLERANCE[precision.name]))


def test_fmm_weight(compare):
    """The official implementation builds the weights once per frame, although all frames of a clip share them."""
    torch.manual_seed(0)
    shared = torch.randn(WIDTH, WIDTH, device=device())
    left, right = torch.randn(CLIPS, WIDTH, RANK, device=device()), torch.randn(CLIPS, RANK, WIDTH, device=device())

    def weights(left: Tensor, right: Tensor) -> Tensor:
        return fi.fmm_weight(shared, left, right)

    def of_frames(left: Tensor, right: Tensor) -> Tensor:
        return weights(left.repeat_interleave(FRAMES, 0), right.repeat_interleave(FRAMES, 0))

    moved = 4 * WIDTH * (WIDTH + CLIPS * (WIDTH + 2 * RANK))
    compare(
        Case(
            name=f"FMM weights N{CLIPS}-T{FRAMES}-W{WIDTH}",
            dtype=torch.float32,
            paths={
                "naive": on_reference(partial(of_frames, left, right)),
                "compiled": on_reference(partial(torch.compile(of_frames), left, right)),
                "ours": partial(weights, left, right),
            },
            flops=0,
            moved=moved,
            limits=[copying(moved)],
            truth=lambda: fi.fmm_weight(shared.double(), left[:1].double(), right[:1].double()),
            part=lambda weights: weights[:1],
            tolerance=1e-5,
        )
    )
