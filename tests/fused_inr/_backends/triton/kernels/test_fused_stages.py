"""Several layers in one Triton kernel, against the reference in float64."""

import itertools
from collections.abc import Callable

import pytest
import torch

import fused_inr as fi
from fused_inr import reference
from fused_inr._backends.triton.kernels import configs, fused_stages, render_forward
from fused_inr._backends.triton.kernels.layers import layer_kernel

TILE = {"BLOCK_M": 64, "BLOCK_N": 16, "BLOCK_K": 16, "num_warps": 4, "num_stages": 2}
# Options of `make_layered_inr`, and the numbers of kernels of one layer and of several.
CASES = {
    "three-layers-in-two": (
        dict(widths=(16, 32, 64), t=1, scales=(1, 2)),
        2 + 1,
        2,
    ),  # the second layer has a read-out; two products of parents
    "ratio3-biasNTO": (dict(widths=(32, 16), scales=(1, 3), bias="NTO"), 1, 2),
    "five-layers-no-rgb": (dict(widths=(16,) * 5, rgb=False, scales=(1, 2), bias="NO"), 1 + 2, 3),
    "without-features-sine": (dict(widths=(16, 16, 32), bare=1, scales=(1, 2), activation="sine", gain=1.0), 1 + 2, 2),
    "ratio1-shared-sines": (dict(widths=(16, 16), scales=(1, 1), shared=True, parts="sin", n=2), 0, 2),
    "width-that-is-no-power-of-two": (dict(widths=(16, 24), scales=(1,)), 2, 0),
}


@pytest.fixture
def fused(monkeypatch) -> None:
    """Fuse widths up to 64 in every type, with small tiles."""
    entry = {kind: {"64": TILE} for kind in ("half", "float32")}
    table = configs.table()
    entries = {**table, configs.FALLBACK: {**table[configs.FALLBACK], "stage2": entry, "stage3": entry}}
    monkeypatch.setattr(configs, "table", lambda: entries)
    monkeypatch.setattr(configs, "architecture", lambda device: configs.FALLBACK)


def counted(inr: fi.INR, grid: fi.Grid, dtype: torch.dtype) -> tuple[torch.Tensor, list[Callable]]:
    """Return frames and the kernels that computed them."""
    kernels = []

    def run(launches, device):
        for launch in launches:
            kernels.append(launch.kernel)
            launch.run()

    return render_forward.evaluate(inr, grid, dtype, run=run)[0], kernels


@pytest.mark.parametrize("name", CASES)
def test_frames(name, fused, make_layered_inr, assert_close, device):
    options, single, several = CASES[name]
    inr, grid = make_layered_inr(**{"t": 2, "n": 1} | options), fi.Grid(3, 5, (-1.0, 0.5))
    exact = reference.render(inr.mapped(torch.Tensor.double), grid)
    # Measured in the interpreter: 1.2e-6 for sine, 4e-7 for the others; 2e-3 in float16.
    for dtype, tolerance in ((torch.float32, 3e-6), (torch.float16, 5e-3)):
        actual, kernels = counted(inr.mapped(lambda tensor: tensor.to(device)), grid, dtype)
        assert_close(f"{dtype}", exact, actual.cpu().double(), tolerance)
        assert kernels.count(layer_kernel) == single
        assert kernels.count(fused_stages.stage_kernel) == several


def layers(*widths: int, read_out: int | None = None) -> list[fi.Layer]:
    result = []
    for index, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        to_rgb = (torch.zeros(1, 3, outputs), torch.zeros(3)) if index == read_out else None
        result.append(fi.Layer(torch.zeros(1, outputs, inputs), torch.zeros(outputs), to_rgb=to_rgb))
    return result


def test_the_table_determines_what_is_fused():
    meta = torch.device("meta")

    def cuts(target: str, stage_layers: list[fi.Layer], dtype: torch.dtype = torch.bfloat16) -> list[int]:
        with configs.compiling_for(target):
            return fused_stages.cuts(stage_layers, dtype, meta)

    generator = layers(768, 256, 256, 256, read_out=2)
    assert cuts("sm_90", generator) == [3]
    assert cuts("sm_90", generator, torch.float32) == [1, 1, 1]
    assert cuts("sm_80", generator) == cuts("gfx942", generator) == cuts("sm_75", generator) == [1, 1, 1]
    assert cuts("sm_80", layers(256, 128, 64, 128, 128)) == [3, 1]
    assert cuts("sm_90", layers(256, 512, 128, 64)) == [1, 2]
    assert cuts("sm_90", layers(256, 256, 256, 256, 256, read_out=1)) == [2, 2]
