"""Layers of wide SIRENs and sums of weight gradients, against PyTorch in float64."""

import pytest
import torch

from fused_inr._backends.triton.kernels import siren_layers

N, OUTPUTS, OMEGA = 2, 19, 6.0


@pytest.mark.parametrize(("inputs", "points"), [(1, 63), (3, 1), (40, 63)], ids=["inputs1", "inputs3-P1", "inputs40"])
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("epilogue", ["linear", "sine", "sine-with-slopes", "slope"])
def test_layer(epilogue, transposed, inputs, points, assert_close, device):
    x, bias = torch.randn(N, points, inputs), torch.randn(N, OUTPUTS)
    weight, slopes = torch.randn(N, OUTPUTS, inputs) / inputs**0.5, torch.randn(N, points, OUTPUTS)
    z = torch.einsum("npi,noi->npo", x.double(), weight.double())
    if epilogue == "slope":
        exact = z * slopes
    else:
        z = z + bias.double()[:, None]
        exact = z if epilogue == "linear" else torch.sin(OMEGA * z)
    strided = weight.mT.contiguous().mT if transposed else weight
    out, written = torch.empty(N, points, OUTPUTS, device=device), slopes.to(device)
    siren_layers.layer(
        x.to(device),
        strided.to(device),
        out,
        epilogue.removesuffix("-with-slopes"),
        bias=None if epilogue == "slope" else bias.to(device),
        slopes=written if epilogue in ("slope", "sine-with-slopes") else None,
        omega=OMEGA,
    ).run()
    # Measured in the interpreter: 6.0e-7 at most.
    assert_close("out", exact, out.cpu().double(), 5e-6)
    if epilogue == "sine-with-slopes":
        assert_close("slopes", OMEGA * torch.cos(OMEGA * z), written.cpu().double(), 5e-6)


@pytest.mark.parametrize("inputs", [0, 2, 40], ids=lambda inputs: f"inputs{inputs}")
def test_weight_gradient(inputs, assert_close, device):
    gradient, x = torch.randn(N, 100, OUTPUTS), torch.randn(N, 100, inputs)
    weight_sums, bias_sums, launch = siren_layers.weight_gradient(gradient.to(device), x.to(device))
    launch.run()
    assert weight_sums.shape[1] > 1  # several spans of points
    exact = torch.einsum("npo,npi->noi", gradient.double(), x.double())
    # Measured in the interpreter: 9.2e-8 at most.
    assert_close("weight", exact, weight_sums.sum(1).cpu().double(), 1e-6)
    assert_close("bias", gradient.double().sum(1), bias_sums.sum(1).cpu().double(), 1e-6)
