"""Gradients through Fourier features, against autograd of the reference in float64."""

import pytest
import torch

import fused_inr as fi
from fused_inr import reference
from fused_inr._backends.triton.kernels import fourier_features, launch
from fused_inr._backends.triton.kernels.fourier_features_backward import feature_weight_gradient, phase_gradient
from fused_inr._backends.triton.kernels.layers import Tables

N, T, D, OUTPUTS = 2, 2, 5, 19
GRIDS = {"H1-W1": fi.Grid(1, 1), "H3-W7": fi.Grid(3, 7, (-2.0, 3.0), (0.5, 0.75)), "H9-W2": fi.Grid(9, 2)}


@pytest.mark.parametrize(("parts", "shared"), [("sincos", False), ("sin", True)], ids=["sincos", "sin-shared"])
@pytest.mark.parametrize("name", GRIDS)
def test_gradients(name, shared, parts, assert_close, device):
    grid, features = GRIDS[name], 2 * D if parts == "sincos" else D
    frequency, phase = torch.randn(1 if shared else N, D, 2), torch.randn(N, T, D)
    weight, dz = torch.randn(N, OUTPUTS, features), torch.randn(N, T, grid.height, grid.width, OUTPUTS)

    leaves = [tensor.double().requires_grad_() for tensor in (phase, frequency.expand(N, -1, -1), weight)]
    wide = fi.Fourier(leaves[1], leaves[0], parts)
    e = reference.fourier_features(wide, grid, N, torch.float64).unflatten(0, (N, T))  # [N, T, F, H, W]
    total = torch.einsum("nof,ntfhw,nthwo->", leaves[2], e, dz.double())
    of_phase, of_frequency, of_weight = torch.autograd.grad(total, leaves)

    rows, columns, launches = fourier_features.tables(
        fi.Fourier(frequency.to(device), phase.to(device), parts), grid, torch.float32
    )
    tables = Tables(rows, columns, parts == "sincos")
    partial, more = phase_gradient(dz.to(device), weight.to(device), tables, grid)
    sums, last = feature_weight_gradient(dz.to(device), tables)
    launch.run([*launches, *more, *last], rows.device)
    summed = partial.sum(2).cpu().double()  # [N, T, 3, D]
    # Measured in the interpreter: 2.8e-7 at most.
    assert_close("phase", of_phase, summed[:, :, 0], 3e-6)
    assert_close("frequency", of_frequency, summed[:, :, 1:].sum(1).mT, 3e-6)
    assert_close("weight", of_weight, sums.sum(1).cpu().double(), 3e-6)
