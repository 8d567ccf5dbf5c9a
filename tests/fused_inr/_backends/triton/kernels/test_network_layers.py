"""Layers of networks and sums of weight gradients, against PyTorch in float64."""

import pytest
import torch

from fused_inr import reference
from fused_inr._backends.triton.kernels import network_layers
from fused_inr._backends.triton.kernels.network_layers import Operand
from fused_inr.primitives.mlp import ACTIVATIONS

N, OUTPUTS, OMEGA = 2, 19, 6.0


def activated(z: torch.Tensor, name: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the activation of float64 numbers and its derivative."""
    z = z.requires_grad_()
    y = reference.activation(z, name, OMEGA)
    return y.detach(), torch.autograd.grad(y.sum(), z)[0]


@pytest.mark.parametrize(("inputs", "points"), [(1, 63), (3, 1), (40, 63)], ids=["inputs1", "inputs3-P1", "inputs40"])
@pytest.mark.parametrize("transposed", [False, True], ids=["rows", "columns"])
@pytest.mark.parametrize("epilogue", ["linear", "sine", "sine-with-slopes", "gelu-with-slopes", "slope"])
def test_layer(epilogue, transposed, inputs, points, assert_close, device):
    x, bias = torch.randn(N, points, inputs), torch.randn(N, OUTPUTS)
    weight, slopes = torch.randn(N, OUTPUTS, inputs) / inputs**0.5, torch.randn(N, points, OUTPUTS)
    z = torch.einsum("npi,noi->npo", x.double(), weight.double())
    name = epilogue.removesuffix("-with-slopes")
    if name == "slope":
        exact = z * slopes
    else:
        exact, exact_slopes = activated(z + bias.double()[:, None], name)
    strided = weight.mT.contiguous().mT if transposed else weight
    out, written = torch.empty(N, points, OUTPUTS, device=device), slopes.to(device)
    network_layers.layer(
        Operand(x.to(device), strided.to(device)),
        out,
        name,
        bias=None if name == "slope" else bias.to(device),
        slopes=written if "slope" in epilogue else None,
        omega=OMEGA,
    ).run()
    # Measured in the interpreter: 6.0e-7 at most.
    assert_close("out", exact, out.cpu().double(), 5e-6)
    if epilogue.endswith("-with-slopes"):
        assert_close("slopes", exact_slopes, written.cpu().double(), 5e-6)


@pytest.mark.parametrize(("inputs", "axes"), [(20, 3), (3, 1), (5, 20), (0, 2), (20, 0)])
def test_skip_connection(inputs, axes, assert_close, device):
    """Add the product with coordinates, one by one or in matrix products, to that with few or many inputs."""
    x, coords, bias = torch.randn(N, 9, inputs), torch.randn(1, 9, axes).expand(N, -1, -1), torch.randn(N, OUTPUTS)
    weight = torch.randn(N, OUTPUTS, inputs + axes) / 4
    exact, _ = activated(torch.cat([x, coords], 2).double() @ weight.mT.double() + bias.double()[:, None], "tanh")
    out = torch.empty(N, 9, OUTPUTS, device=device)
    x, coords, weight, bias = x.to(device), coords.to(device), weight.to(device), bias.to(device)
    skip = Operand(coords, weight[:, :, inputs:])
    network_layers.layer(Operand(x, weight[:, :, :inputs]), out, "tanh", skip=skip, bias=bias).run()
    # Measured in the interpreter: 9.3e-8 at most.
    assert_close("out", exact, out.cpu().double(), 2e-6)


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_slopes_are_those_of_the_activation(name, assert_close, device):
    x, weight = torch.linspace(-2, 2, 33)[None, :, None], torch.tensor([[[1.0], [-0.5]]])
    exact, exact_slopes = activated((x * weight.mT).double(), name)
    out = torch.empty(1, 33, 2, device=device)
    slopes = torch.empty_like(out)
    operand = Operand(x.to(device), weight.to(device))
    network_layers.layer(operand, out, name, slopes=slopes, omega=OMEGA).run()
    assert_close("out", exact, out.cpu().double(), 2e-6)
    assert_close("slopes", exact_slopes, slopes.cpu().double(), 2e-6)  # measured in the interpreter: 1.1e-7


@pytest.mark.parametrize("with_bias", [True, False], ids=["with-bias", "without-bias"])
@pytest.mark.parametrize("inputs", [0, 2, 40], ids=lambda inputs: f"inputs{inputs}")
def test_weight_gradient(inputs, with_bias, assert_close, device):
    gradient, x = torch.randn(N, 100, OUTPUTS), torch.randn(N, 100, inputs)
    arguments = gradient.to(device), x.to(device)
    weight_sums, bias_sums, launch = network_layers.weight_gradient(*arguments, with_bias=with_bias)
    launch.run()
    assert weight_sums.shape[1] > 1  # several spans of points
    exact = torch.einsum("npo,npi->noi", gradient.double(), x.double())
    # Measured in the interpreter: 9.2e-8 at most.
    assert_close("weight", exact, weight_sums.sum(1).cpu().double(), 1e-6)
    if with_bias:
        assert_close("bias", gradient.double().sum(1), bias_sums.sum(1).cpu().double(), 1e-6)
    else:
        assert bias_sums is None
