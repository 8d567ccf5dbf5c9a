"""The compiled CUDA library: the reasons why it cannot be used, and the devices that a build supports."""

import contextlib
import ctypes
import types
from pathlib import Path

import pytest
import torch

import fused_inr as fi
from fused_inr._backends import cuda, native_library
from fused_inr._backends.cuda import native, networks, nvcc
from fused_inr.primitives.mlp import siren_layers

ROOT = Path(__file__).parents[4]
SOURCES = ROOT / "csrc" / "cuda"


@pytest.fixture
def device(monkeypatch):
    """Pretend that PyTorch has a GPU, and that the library is built for sm_80 and later."""
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(cuda, "_STATE", "ready")
    monkeypatch.setattr(cuda, "_BUILT_FOR", ("8.0", "9.0+PTX"))
    monkeypatch.setattr(torch.cuda, "device", lambda index: contextlib.nullcontext())
    cuda._cached_state.cache_clear()
    yield lambda *capability: monkeypatch.setattr(networks, "limits", lambda device: networks.Limits(capability, 0, 1))
    cuda._cached_state.cache_clear()


def test_states(device, monkeypatch, built_library):
    device(7, 5)
    monkeypatch.setattr(native, "load", lambda: (built_library, "ready"))
    old = "built for sm_80, sm_90+PTX, this device is sm_75, and the kernels need sm_80"
    assert cuda.status() == cuda._state_of(0) == old
    cuda._cached_state.cache_clear()
    device(8, 6)
    assert cuda.status() == cuda._state_of(0) == "ready"
    monkeypatch.setattr(cuda, "_STATE", "not built: for some reason")
    assert cuda.status() == "not built: for some reason"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cuda.status() == "no CUDA device"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert cuda.status() == "this PyTorch is built without CUDA"


def test_build_for_other_devices(device, monkeypatch):
    monkeypatch.setattr(cuda, "_BUILT_FOR", ("9.0a",))
    device(8, 9)
    assert cuda.status() == "built for sm_90a, this device is sm_89: build with TORCH_CUDA_ARCH_LIST=8.9"


def test_driver_errors_are_reported(device, monkeypatch):
    class Library:
        fused_inr_check = staticmethod(lambda device: 35)
        fused_inr_error = staticmethod(lambda error: b"CUDA driver version is insufficient for CUDA runtime version")

    device(9, 0)
    monkeypatch.setattr(native, "load", lambda: (Library, "ready"))
    assert cuda.status() == "ready"  # not asked, since asking makes a context on the current device
    coords = types.SimpleNamespace(is_cuda=True, device=torch.device("cuda", 1))
    assert cuda.KERNELS["mlp"].supports(coords) == (
        False,
        "the device cannot run it: CUDA driver version is insufficient for CUDA runtime version",
    )


def test_another_device_is_checked_by_its_own_capability(device, monkeypatch, built_library):
    device(9, 0)
    capabilities = {0: (9, 0), 1: (7, 5)}
    monkeypatch.setattr(networks, "limits", lambda index: networks.Limits(capabilities[index], 0, 1))
    monkeypatch.setattr(native, "load", lambda: (built_library, "ready"))
    assert cuda.status() == "ready"
    coords = types.SimpleNamespace(is_cuda=True, device=torch.device("cuda", 1))
    supported, reason = cuda.KERNELS["mlp"].supports(coords)
    assert not supported
    assert "this device is sm_75" in reason


def test_compiled_code_can_read_the_state(monkeypatch, built_library):
    monkeypatch.setattr(native, "load", lambda: (built_library, "ready"))
    monkeypatch.setattr(cuda, "_BUILT_FOR", ("9.0",))
    cuda._cached_state.cache_clear()

    def function(x: torch.Tensor) -> torch.Tensor:
        return x + (networks.limits(-1).shared if cuda._state_of(-1) == "ready" else 0)  # -1: a library on the CPU

    compiled = torch.compile(function, fullgraph=True, backend="eager")
    assert compiled(torch.zeros(1)) == networks.HOST.shared
    cuda._cached_state.cache_clear()


@pytest.mark.parametrize(
    ("built", "capability", "runs"),
    [
        (["8.0"], (8, 0), True),
        (["8.0"], (8, 9), True),
        (["8.6"], (8, 0), False),
        (["8.0"], (9, 0), False),
        (["8.0+PTX"], (9, 0), True),
        (["8.0", "9.0+PTX"], (12, 0), True),
        (["9.0+PTX"], (8, 6), False),
        (["9.0a"], (9, 0), True),
        (["9.0a+PTX"], (10, 0), False),
        ([], (8, 0), False),
    ],
)
def test_which_devices_a_build_runs_on(built, capability, runs):
    assert native.runs_on(built, capability) is runs


@pytest.fixture
def load_again():
    native.load.cache_clear()
    yield native.load
    native.load.cache_clear()


def test_no_library(load_again, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    library, reason = load_again()
    assert library is None
    assert reason == "not built: reinstall with nvcc available (FUSED_INR_CUDA=1 makes a missing nvcc an error)"


@pytest.fixture
def library_of(compile_for_host, tmp_path, monkeypatch):
    """Install a library that reports a hash of its sources."""

    def make(digest: str) -> None:
        source = tmp_path / "api.cpp"
        names = ("siren_packed", "siren_shared", "siren_partials", "siren_forward", "siren_backward", "check")
        body = "".join(f"int fused_inr_{name}() {{ return 0; }}\n" for name in names)
        body += 'const char* fused_inr_error() { return ""; }\nint fused_inr_runs_on_host() { return 0; }\n'
        body += f'const char* fused_inr_source_hash() {{ return "{digest}"; }}\n'
        body += 'const char* fused_inr_architectures() { return "8.0 9.0+PTX"; }\n'
        source.write_text(f'extern "C" {{\n{body}}}\n')
        compile_for_host(source, tmp_path / "_native.so", "-shared", "-fPIC")
        monkeypatch.setattr(native, "_FOLDER", tmp_path)

    return make


def test_library_of_these_sources(load_again, library_of):
    library_of(native_library.source_hash(SOURCES, nvcc.SOURCE_NAMES))
    assert load_again()[1] == "ready"
    assert native.architectures() == ["8.0", "9.0+PTX"]


def test_library_of_other_sources(load_again, library_of):
    library_of("0123456789abcdef")
    reason = "the CUDA library is out of date with the sources in csrc/cuda: run pip install -e . again"
    assert load_again() == (None, reason)
    assert native.architectures() == []


def test_the_built_library_loads_without_a_device():
    library, state = native.load()
    if library is None:
        pytest.skip(state)
    assert library.fused_inr_runs_on_host() == 0
    assert native.architectures() == nvcc.architectures(" ".join(native.architectures()))
    assert torch.cuda.is_available() or fi.backends()["cuda"] != "ready"


def test_structs_match_the_header(compile_for_host, tmp_path):
    source = tmp_path / "sizes.cpp"
    names = {"FusedInrSirenLayer": native.LayerStruct, "FusedInrSiren": native.SirenStruct}
    offsets = [f"offsetof({name}, {field[0]})" for name, struct in names.items() for field in struct._fields_]
    numbers = [f"sizeof({name})" for name in names] + offsets
    returns = ", ".join(f"(long long){number}" for number in numbers)
    source.write_text(
        f'#include <cstddef>\n#include "abi.h"\nextern "C" long long number(int i) {{\n'
        f"  const long long all[] = {{{returns}}};\n  return all[i];\n}}\n"
    )
    library = ctypes.CDLL(str(compile_for_host(source, tmp_path / "sizes.so", "-shared", "-fPIC")))
    library.number.restype = ctypes.c_longlong
    actual = [library.number(index) for index in range(len(numbers))]
    sizes = [ctypes.sizeof(struct) for struct in names.values()]
    expected_offsets = [getattr(struct, field[0]).offset for struct in names.values() for field in struct._fields_]
    assert actual == sizes + expected_offsets
    assert sizes[1] <= 4000, "a kernel has 4 KiB of arguments, which include the layout"


def test_tensors_on_another_device_are_refused(network):
    tensors = network(1, 4, (2, 8, 3))
    with pytest.raises(RuntimeError, match=r"^The CUDA kernels take no tensors on cpu"):
        networks.mlp(tensors[0], tensors[1:3], tensors[3:], *siren_layers(2, 30.0, 30.0, "linear"), torch.float32)


def test_failed_launches_are_errors(host_library):
    with pytest.raises(RuntimeError, match=r"could not be launched: an error of the host \(error 9\)\.$"):
        native.run(lambda *arguments: 9, native.SirenStruct(), 0)
