"""Gradients of render on the Triton kernels, against autograd of the reference in float64."""

import functools

import pytest
import torch

import fused_inr as fi
from fused_inr import reference
from fused_inr.backends.triton import render_backward

# Grid, then options of `make_layered_inr`.
CASES = {
    "N2-T3-H3-W7-scales1,2,4": ((3, 7), dict(widths=(20, 21, 19))),
    "N1-T1-H1-W1": ((1, 1), dict(n=1, t=1, scales=(1,), widths=(5, 3))),
    "N2-T1-H9-W11-scales1,4-relu-biasNO": ((9, 11), dict(t=1, scales=(1, 4), activation="relu", bias="NO")),
    "N2-T3-H63-W5-sines-biasNTO": ((63, 5), dict(scales=(1,), parts="sin", features=7, bias="NTO")),
    "N3-T1-H20-W31-scales1,1-linear": (
        (20, 31),
        dict(n=3, t=1, scales=(1, 1), activation="linear", bias="NTO", features=3),
    ),
    "N2-T3-H3-W7-scales2,6-shared": ((3, 7), dict(scales=(2, 6), shared=True, bias="NTO")),
    "N3-T1-H5-W3-shared-no-rgb": ((5, 3), dict(n=3, t=1, scales=(1, 2), shared=True, bias="NO", rgb=False)),
    "N2-T1-H3-W7-stage-without-features": ((3, 7), dict(t=1, bare=1)),
    "N2-T1-H3-W7-negative-gain": ((3, 7), dict(t=1, gain=-1.3, scales=(1, 2))),
    "N2-T1-H5-W6-wide": ((5, 6), dict(t=1, scales=(1, 2), widths=(100, 65), features=70, gain=1.0)),
    "N2-T3-H3-W7-sine": ((3, 7), dict(scales=(1, 2), activation="sine", gain=1.0, widths=(20, 21))),
}


def probe(shape: tuple[int, ...]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


def exact_gradients(inr: fi.INR, grid: fi.Grid, tensors, with_tensors) -> list[torch.Tensor]:
    leaves = [tensor.double().requires_grad_() for tensor in tensors]
    frames = reference.render(with_tensors(inr, leaves), grid)
    found = torch.autograd.grad(frames, leaves, probe(frames.shape).double(), allow_unused=True)
    return [torch.zeros_like(a) if b is None else b for a, b in zip(leaves, found, strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_gradients(name, make_layered_inr, tensors_of, with_tensors, device):
    size, options = CASES[name]
    inr, grid = make_layered_inr(**options), fi.Grid(*size, x=(-1.0, 0.7))
    exact = exact_gradients(inr, grid, tensors_of(inr), with_tensors)
    scale = inr.stages[-1].scale
    shape = (inr.batch, inr.times, inr.channels, grid.height * scale, grid.width * scale)
    found = render_backward.backward(inr.mapped(lambda x: x.to(device)), grid, probe(shape).to(device), torch.float32)
    assert len(found) == len(exact)
    for number, (a, b) in enumerate(zip(found, exact, strict=True)):
        assert a.shape == b.shape
        error = ((a.cpu().double() - b).norm() / b.norm().clamp_min(1e-30)).item()
        print(number, tuple(a.shape), f"{error:.1e}")
        assert error < 5e-6, (number, tuple(b.shape), error)
