"""Gradients of `render` on the Triton kernels, against autograd of the reference in float64."""

from dataclasses import replace

import pytest
import torch

import fused_inr as fi
from fused_inr import reference
from fused_inr._backends.triton.kernels import layers_backward, render_backward
from fused_inr._backends.triton.kernels.render_layers import Forward
from fused_inr.lowering import lower

# Grid, then options of `make_layered_inr`. The table's entries for unknown GPUs have tiles of 64 pixels, 64 outputs (32
# frequencies) and 16 or 32 terms of a sum: the sizes are below and above each.
CASES = {
    "N1-T2-H3-W2-scales1,2,4": ((3, 2), dict(n=1, t=2, widths=(20, 21, 19))),
    "N1-T1-H1-W1": ((1, 1), dict(n=1, t=1, scales=(1,), widths=(5, 3))),
    "N2-T1-H3-W4-scales1,4-relu-biasNO": ((3, 4), dict(t=1, scales=(1, 4), activation="relu", bias="NO")),
    "N1-T3-H63-W3-sines-biasNTO": ((63, 3), dict(n=1, scales=(1,), widths=(9, 7), parts="sin", features=7, bias="NTO")),
    "N3-T1-H1-W100-scales1,1-linear-biasNTO": (
        (1, 100),
        dict(n=3, t=1, scales=(1, 1), widths=(6, 5), activation="linear", bias="NTO", features=3),
    ),
    "N2-T2-H1-W2-scales2,6-shared-biasNTO": ((1, 2), dict(t=2, scales=(2, 6), widths=(9, 8), shared=True, bias="NTO")),
    "N3-T1-H5-W3-shared-no-rgb-biasNO": (
        (5, 3),
        dict(n=3, t=1, scales=(1, 2), shared=True, bias="NO", rgb=False),
    ),
    "N2-T1-H3-W7-stage-without-features": ((3, 7), dict(t=1, scales=(1, 2), bare=1, gain=-1.3)),
    "N1-T1-H5-W6-wide": ((5, 6), dict(n=1, t=1, scales=(1, 2), widths=(100, 65), features=35, gain=1.0)),
    "N2-T1-H3-W7-sine": ((3, 7), dict(t=1, scales=(1, 2), widths=(12, 9), activation="sine", gain=1.2)),
}


def probe(inr: fi.INR, grid: fi.Grid) -> torch.Tensor:
    """Return a seeded gradient of the frames."""
    scale = inr.stages[-1].scale
    shape = (inr.batch, inr.times, inr.channels, grid.height * scale, grid.width * scale)
    return torch.randn(shape, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def by_reference(tensors_of, with_tensors):
    """Return gradients of every tensor by autograd of the reference; zeros if the frames do not depend on it."""

    def gradients(inr: fi.INR, grid: fi.Grid, wide: torch.dtype, dtype: torch.dtype) -> list[torch.Tensor]:
        leaves = [tensor.to(wide).requires_grad_() for tensor in tensors_of(inr)]
        frames = reference.render(with_tensors(inr, leaves), grid, dtype)
        return list(torch.autograd.grad(frames, leaves, probe(inr, grid).to(wide), materialize_grads=True))

    return gradients


@pytest.fixture(scope="module")
def by_kernels(device):
    def gradients(inr: fi.INR, grid: fi.Grid, dtype: torch.dtype) -> list[torch.Tensor]:
        on_device = inr.mapped(lambda tensor: tensor.to(device))
        return [one.cpu() for one in render_backward.backward(on_device, grid, probe(inr, grid).to(device), dtype)]

    return gradients


@pytest.mark.parametrize("name", CASES)
def test_float32(name, make_layered_inr, by_reference, by_kernels, errors):
    size, options = CASES[name]
    inr, grid = make_layered_inr(**options), fi.Grid(*size, x=(-1.0, 0.7))
    actual = by_kernels(inr, grid, torch.float32)
    # Measured in the interpreter: 6.7e-7 at most.
    assert max(errors(actual, by_reference(inr, grid, torch.float64, torch.float64))) <= 5e-6


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=lambda dtype: str(dtype)[6:])
@pytest.mark.parametrize("activation", ["lrelu", "sine"])
def test_half_precision(activation, dtype, make_layered_inr, by_reference, by_kernels, mean_error, interpreted):
    if interpreted and dtype == torch.bfloat16:
        pytest.skip("the interpreter multiplies the bits of bfloat16 as integers")
    inr = make_layered_inr(n=1, t=1, scales=(1, 2), widths=(20, 21), activation=activation, gain=1.0)
    grid = fi.Grid(5, 6)
    exact = by_reference(inr, grid, torch.float64, torch.float64)
    naive = mean_error(by_reference(inr, grid, torch.float32, dtype), exact)
    # Measured in the interpreter: 0.8 times the naive path's error in float16. Not measured on a GPU.
    error = mean_error(by_kernels(inr, grid, dtype), exact)
    assert error <= 2 * naive


def test_many_splits_of_the_pixels(make_layered_inr, by_reference, by_kernels, errors, monkeypatch):
    monkeypatch.setattr(layers_backward, "_MIN_PIXELS", 16)
    inr, grid = make_layered_inr(n=1, t=2, scales=(1, 2), widths=(9, 8)), fi.Grid(7, 5)
    assert layers_backward.pixel_splits(2 * 7 * 5, 1, 32) == (3, 32)
    actual = by_kernels(inr, grid, torch.float32)
    assert max(errors(actual, by_reference(inr, grid, torch.float64, torch.float64))) <= 5e-6


def test_layers_without_effect_have_no_gradient(
    make_layered_inr, tensors_of, with_tensors, by_reference, by_kernels, errors
):
    inr, grid = make_layered_inr(n=1, t=1, scales=(1, 2), widths=(5, 6)), fi.Grid(2, 3)
    last = replace(inr.stages[1], layers=[replace(layer, to_rgb=None) for layer in inr.stages[1].layers])
    inr = fi.INR([inr.stages[0], last])
    inr = with_tensors(inr, [tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor for tensor in tensors_of(inr)])
    actual = by_kernels(inr, grid, torch.float32)
    assert max(errors(actual, by_reference(inr, grid, torch.float64, torch.float64))) <= 5e-6
    assert not any(tensor.any() for tensor in actual[-6:])  # frequencies, phases and two layers
    assert all(tensor.is_contiguous() for tensor in actual)


@pytest.mark.parametrize("activation", ["lrelu", "sine"])
def test_stored_outputs_give_the_same_bits(activation, make_layered_inr, device):
    inr = make_layered_inr(n=2, t=1, scales=(1, 2), widths=(9, 8), activation=activation, shared=True)
    inr, grid = inr.mapped(lambda tensor: tensor.to(device)), fi.Grid(2, 3)
    forward, kept, x = Forward(inr, torch.float32), [], None
    for plan in lower(inr, grid):
        tables = forward.tables(plan)
        for number in range(len(plan.layers)):
            x = forward.layer(plan, number, x, tables)
            kept.append(x)
    gradient = probe(inr, grid).to(device)
    actual = render_backward.backward(inr, grid, gradient, torch.float32, kept)
    again = render_backward.backward(inr, grid, gradient, torch.float32)
    assert all(torch.equal(a, b) for a, b in zip(actual, again, strict=True))
    assert all(a.is_contiguous() and a.dtype == b.dtype for a, b in zip(actual, inr.tensors(), strict=True))


def test_tensors_of_other_types_and_strides(make_layered_inr, tensors_of, with_tensors, by_reference, device):
    inr, grid = make_layered_inr(n=2, t=1, scales=(1, 2), widths=(9, 8), bias="NO"), fi.Grid(2, 3)
    inr = inr.mapped(lambda tensor: tensor.bfloat16().float())
    exact = by_reference(inr, grid, torch.float64, torch.float64)
    strided = with_tensors(
        inr, [tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor for tensor in tensors_of(inr)]
    ).mapped(lambda tensor: tensor.to(device, torch.bfloat16))
    assert not strided.stages[0].layers[0].weight.is_contiguous()
    actual = render_backward.backward(strided, grid, probe(inr, grid).to(device), torch.float32)
    for a, b in zip(actual, exact, strict=True):
        assert a.dtype == torch.bfloat16
        assert (a.cpu().double() - b).norm() <= 2**-7 * b.norm()  # one unit in the last place of bfloat16


@pytest.mark.parametrize(("n", "t"), [(0, 2), (2, 0)], ids=["N0", "T0"])
def test_empty_batch(n, t, make_layered_inr, device):
    inr = make_layered_inr(n=n, t=t, scales=(1, 2), widths=(5, 6)).mapped(lambda tensor: tensor.to(device))
    grid = fi.Grid(2, 3)
    actual = render_backward.backward(inr, grid, probe(inr, grid).to(device), torch.float32)
    assert [tensor.shape for tensor in actual] == [tensor.shape for tensor in inr.tensors()]
    assert not any(tensor.any() for tensor in actual)
