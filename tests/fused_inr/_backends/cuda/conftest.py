"""Fixtures that build the CUDA kernels with a C++ compiler, so that they run on the CPU, and make networks."""

import ctypes
import os
import platform
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from fused_inr._backends.cuda import native

SOURCES = Path(__file__).parents[4] / "csrc" / "cuda"


@pytest.fixture(scope="session")
def compile_for_host() -> Callable[..., Path]:
    """Compile a C++ file that includes the kernels' sources; skip if there is no compiler."""
    if platform.system() != "Linux":
        pytest.skip("the host build uses the fibers of Linux")
    compiler = os.environ.get("CXX") or shutil.which("g++") or shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")

    def compile(source: Path, to: Path, *flags: str) -> Path:
        defines = ['-DFUSED_INR_SOURCE_HASH="host"', '-DFUSED_INR_ARCHITECTURES="9.0"', "-Wno-unknown-pragmas"]
        command = [*compiler.split(), "-x", "c++", "-std=c++17", "-O1", str(source), "-o", str(to), f"-I{SOURCES}"]
        done = subprocess.run([*command, *defines, *flags], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return to

    return compile


@pytest.fixture(scope="session")
def built_library(compile_for_host, tmp_path_factory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("host") / "libhost.so"
    compile_for_host(SOURCES / "host.cpp", path, "-shared", "-fPIC", "-Wall", "-Werror")
    return native.declare(ctypes.CDLL(str(path)))


@pytest.fixture
def host_library(built_library, monkeypatch) -> Iterator[ctypes.CDLL]:
    """Make the ops run the kernels on the CPU, on CPU tensors."""
    monkeypatch.setattr(native, "load", lambda: (built_library, "ready"))
    yield built_library
    built_library.fused_inr_host_run_threads_backwards(0)


def make_network(
    n: int, points: int, sizes: Sequence[int], shared: str = "", omega: float = 30.0, device: str = "cpu"
) -> list[torch.Tensor]:
    """Return coordinates, weights and biases with an axis N, initialized as in SIREN (NeurIPS 2020).

    Args:
        shared: "coords", "parameters" or both: what N samples share one copy of.
    """
    generator = torch.Generator().manual_seed(0)

    def uniform(kind: str, bound: float, *shape: int) -> torch.Tensor:
        samples = 1 if kind in shared.split() else n
        values = bound * (2 * torch.rand((samples, *shape), generator=generator) - 1)
        return values.to(device).expand(n, *shape)

    weights, biases = [], []
    for index, (inputs, outputs) in enumerate(pairwise(sizes)):
        bound = 1 / max(1, inputs) if index == 0 else (6 / max(1, inputs)) ** 0.5 / omega
        weights.append(uniform("parameters", bound, outputs, inputs))
        biases.append(uniform("parameters", max(1, inputs) ** -0.5, outputs))
    return [uniform("coords", 1.0, points, sizes[0]), *weights, *biases]


@pytest.fixture(scope="session")
def network() -> Callable[..., list[torch.Tensor]]:
    return make_network


def value_and_gradients(function: Callable[..., torch.Tensor], tensors: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return function(coords, weights, biases) and the gradients of all tensors, for a seeded gradient of the value."""
    leaves = [tensor.detach().requires_grad_() for tensor in tensors]
    count = len(leaves) // 2
    values = function(leaves[0], leaves[1 : 1 + count], leaves[1 + count :])
    probe = torch.randn(values.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return [values.detach(), *torch.autograd.grad(values, leaves, probe.to(values))]


@pytest.fixture(scope="session")
def evaluated() -> Callable[..., list[torch.Tensor]]:
    return value_and_gradients
