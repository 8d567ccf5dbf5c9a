"""The activations of csrc/cpu/activations.h and their derivatives, on every instruction set."""

import math
import re
from pathlib import Path

import pytest
import torch

from fused_inr import reference
from fused_inr._backends.cpu import native
from fused_inr.primitives.mlp import ACTIVATIONS, FREQUENCIES

HEADER = Path(__file__).parents[4] / "csrc" / "cpu" / "abi.h"


def jet(library, name: str, z: torch.Tensor, omega: float, bfloat16: bool) -> torch.Tensor:
    """Return the library's value and first three derivatives of an activation: `[4, n]`."""
    results = torch.full((4, len(z)), 7.0)
    layer = native.LayerStruct(activation=ACTIVATIONS.index(name), slope=reference.LRELU_SLOPE, omega=omega, gain=1.0)
    library.fused_inr_activation(layer, z.data_ptr(), results.data_ptr(), len(z), bfloat16, native.isa())
    return results


def derivatives(name: str, z: torch.Tensor, omega: float) -> torch.Tensor:
    """Return value and three derivatives by autograd: of the reference's value, and of its second derivative."""
    z = z.detach().requires_grad_()
    value = reference.activation(z, name, omega)
    curvature = reference.activation_jet(z, name, omega)[2]
    (slope,) = torch.autograd.grad(value.sum(), z)
    third = torch.zeros_like(z)
    if curvature.requires_grad:
        (third,) = torch.autograd.grad(curvature.sum(), z)
    return torch.stack([value.detach(), slope, curvature.detach(), third])


CASES = [(name, omega) for name in ACTIVATIONS for omega in ((1.0, 30.0, 0.3) if name in FREQUENCIES else (1.0,))]
every_activation = pytest.mark.parametrize(("name", "omega"), CASES, ids=[f"{name}-{omega}" for name, omega in CASES])
every_type = pytest.mark.parametrize("bfloat16", [False, True], ids=["float32", "bfloat16"])


def numbers(name: str, omega: float) -> torch.Tensor:
    """Return dense numbers around zero and numbers of every magnitude, with angles up to 12 radians."""
    dense = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    small = torch.logspace(-40, 2, 20_000, dtype=torch.float64)
    z = torch.cat([dense, small, -small])
    if name in ("sine", "finer"):
        z = z.clamp(-12, 12) / omega
    return torch.copysign((z.abs() + 0.25).sqrt() - 0.5, z).float() if name == "finer" else z.float()


# Largest error of the value and the derivatives, in float32 and for results stored in bfloat16, relative to the larger
# of |exact| and `rate` to the order of the derivative. Measured on every instruction set of an AVX-512 CPU. In float32,
# that of sine and finer is the rounding of the angle.
MEASURED = {
    "linear": (0.0, 0.0),
    "lrelu": (7.2e-8, 7.2e-8),
    "relu": (0.0, 0.0),
    "sine": (7.8e-7, 6.9e-5),
    "gelu": (2.4e-7, 1.2e-4),
    "silu": (2.2e-7, 4.5e-5),
    "tanh": (1.3e-6, 2.9e-4),
    "gauss": (6.0e-7, 1.5e-4),
    "finer": (1.6e-6, 1.1e-4),
}


def rate(name: str, z: torch.Tensor, omega: float) -> torch.Tensor:
    """Return by how much an activation's angle or argument changes with z, or 1 if that is less."""
    return (omega * (2 * z.double().abs() + 1 if name == "finer" else torch.ones(len(z)))).clamp(min=1)


def errors(actual: torch.Tensor, exact: torch.Tensor, rates: torch.Tensor) -> torch.Tensor:
    """Return the largest error of the value and of each derivative, relative as in `MEASURED`: `[4]`."""
    unit = rates ** torch.arange(4)[:, None]
    finite = exact.isfinite()
    error = torch.where(finite, (actual - exact).abs() / exact.abs().clamp(min=unit), 0.0)
    return torch.where(finite == actual.isfinite(), error, torch.inf).amax(dim=1)


@every_type
@every_activation
def test_errors(instruction_set, name, omega, bfloat16, compiled_library):
    z = numbers(name, omega)
    actual, exact = jet(compiled_library, name, z, omega, bfloat16).double(), derivatives(name, z.double(), omega)
    assert errors(actual, exact, rate(name, z, omega)).max() <= 1.5 * MEASURED[name][bfloat16]


@every_activation
def test_small_numbers_keep_their_relative_precision(instruction_set, name, omega, compiled_library):
    z = torch.logspace(-30, -3, 1000)
    value, exact = jet(compiled_library, name, z, omega, False)[0].double(), derivatives(name, z.double(), omega)[0]
    # Measured on every instruction set of an AVX-512 CPU: 2.6e-7 at most.
    assert ((value - exact).abs() / exact.abs().clamp(min=1e-38)).max() <= 1e-6


@every_type
@every_activation
def test_special_values(instruction_set, name, omega, bfloat16, compiled_library):
    z = torch.tensor([0.0, -0.0, math.inf, -math.inf, math.nan, 1e-40, -1e-40])
    if name not in ("sine", "finer"):  # whose angles would be rounded
        z = torch.cat([z, torch.tensor([150.0, -150.0, 1e15, -1e15])])
    actual, exact = jet(compiled_library, name, z, omega, bfloat16).double(), derivatives(name, z.double(), omega)
    assert torch.equal(actual.isnan(), exact.isnan())
    infinite = exact.isinf()
    assert torch.equal(actual[infinite], exact[infinite])
    assert errors(actual, exact, rate(name, z, omega)).max() <= 1.5 * MEASURED[name][bfloat16]


@pytest.mark.parametrize("name", ["sine", "finer"])
def test_large_angles(instruction_set, name, compiled_library):
    # Angles that float32 represents exactly, on both sides of the limit of the fast range reduction.
    z = torch.tensor([1e4, -3e4, 7e6, 1e9] if name == "sine" else [64.0, 128.0, -512.0, 2048.0])
    actual, exact = jet(compiled_library, name, z, 1.0, False).double(), derivatives(name, z.double(), 1.0)
    # Measured on every instruction set of an AVX-512 CPU: 1.2e-7 at most.
    assert errors(actual, exact, rate(name, z, 1.0)).max() <= 5e-7


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 15, 16, 17, 33])
def test_any_length(instruction_set, length, compiled_library):
    z = torch.linspace(-3, 3, 40)
    for name in ACTIVATIONS:
        complete, part = (jet(compiled_library, name, x, 2.0, False) for x in (z, z[:length]))
        assert torch.equal(part, complete[:, :length]), name


def test_codes_are_those_of_the_header():
    text = re.search(r"enum FusedInrActivation[^{]*{(.*?)}", HEADER.read_text(), re.DOTALL)[1]
    codes = {name.lower(): int(code) for name, code in re.findall(r"ACT_(\w+) = (\d+)", text)}
    assert codes == {name: code for code, name in enumerate(ACTIVATIONS)}
