"""Fixtures for the tests of several ops: the parity data and small INRs."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import fused_inr as fi

FIXTURES = Path(__file__).parents[1] / "fixtures"


class Parity:
    """Results of the official implementation: tensors by name, and the arguments of each case."""

    def __init__(self, path: Path) -> None:
        with safe_open(path, "pt") as file:
            self.tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
            self.cases = {case["case"]: case for case in json.loads(file.metadata()["cases"])}

    def __getitem__(self, name: str) -> torch.Tensor:
        return self.tensors[name].clone()

    def __contains__(self, name: str) -> bool:
        return name in self.tensors


@pytest.fixture(scope="session")
def parity() -> Parity:
    return Parity(FIXTURES / "ops.safetensors")


def check_close(name: str, expected: torch.Tensor, actual: torch.Tensor, tolerance: float) -> None:
    """Assert equal shapes and dtypes, and a relative difference (2-norm) within the tolerance."""
    assert expected.shape == actual.shape, f"{name}: {tuple(actual.shape)} instead of {tuple(expected.shape)}"
    assert expected.dtype == actual.dtype, f"{name}: {actual.dtype} instead of {expected.dtype}"
    difference = ((expected - actual).norm() / expected.norm().clamp_min(1e-30)).item() if expected.numel() else 0.0
    assert difference <= tolerance, f"{name}: relative difference {difference:.2e} > {tolerance:.0e}"


@pytest.fixture(scope="session")
def assert_close() -> Callable[[str, torch.Tensor, torch.Tensor, float], None]:
    return check_close


def small_inr(
    n: int = 2,
    t: int = 3,
    *,
    scales: tuple[int, ...] = (1, 2),
    activation: str = "lrelu",
    parts: str = "sincos",
    bias: str = "NO",
    shared: bool = False,
    rgb: bool = True,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> fi.INR:
    """Return an INR of seeded normal tensors: two layers in the first stage, one in the others, C = 3, D = 2."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype)

    def layer(outputs: int, inputs: int, read_out: bool) -> fi.Layer:
        lead = 1 if shared else n
        bias_shape = {"O": (outputs,), "NO": (lead, outputs), "NTO": (lead, t, outputs)}[bias]
        to_rgb = (normal(lead, 3, outputs) / outputs**0.5, normal(3)) if read_out and rgb else None
        weight = normal(lead, outputs, inputs) / inputs**0.5
        return fi.Layer(weight, normal(*bias_shape), activation, gain=1.3, omega=2.0, to_rgb=to_rgb)

    stages, features = [], 4 if parts == "sincos" else 2
    for index, scale in enumerate(scales):
        fourier = fi.Fourier(3 * normal(1 if shared else n, 2, 2), normal(n, t, 2), parts)
        inputs = features + (0 if index == 0 else 5)
        layers = [layer(5, inputs, False), layer(5, 5, True)] if index == 0 else [layer(5, inputs, True)]
        stages.append(fi.Stage(scale, layers, fourier))
    return fi.INR(stages)


@pytest.fixture(scope="session")
def make_inr() -> Callable[..., fi.INR]:
    return small_inr


def inr_tensors(inr: fi.INR) -> list[torch.Tensor]:
    """Return every tensor of an INR, stage by stage."""
    tensors = []
    for stage in inr.stages:
        if stage.fourier is not None:
            tensors += [stage.fourier.frequency, stage.fourier.phase]
        for layer in stage.layers:
            tensors += [layer.weight, layer.bias, *(layer.to_rgb or ())]
    return tensors


@pytest.fixture(scope="session")
def tensors_of() -> Callable[[fi.INR], list[torch.Tensor]]:
    return inr_tensors


def rebuilt(inr: fi.INR, tensors: tuple[torch.Tensor, ...]) -> fi.INR:
    """Return the INR with its tensors replaced, in the order of `inr_tensors`."""
    remaining = iter(tensors)
    stages = []
    for stage in inr.stages:
        fourier = stage.fourier and fi.Fourier(next(remaining), next(remaining), stage.fourier.parts)
        layers = []
        for old in stage.layers:
            weight, bias = next(remaining), next(remaining)
            to_rgb = (next(remaining), next(remaining)) if old.to_rgb else None
            layers.append(fi.Layer(weight, bias, old.activation, old.gain, old.omega, to_rgb))
        stages.append(fi.Stage(stage.scale, layers, fourier))
    return fi.INR(stages)


@pytest.fixture(scope="session")
def with_tensors() -> Callable[[fi.INR, tuple[torch.Tensor, ...]], fi.INR]:
    return rebuilt
