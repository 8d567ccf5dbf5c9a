"""The CPU kernels of render: the same bits always, nothing read before it is written, memory as counted."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fused_inr as fi
from fused_inr.backends.cpu import native, programs

pytestmark = pytest.mark.usefixtures("compiled_library")

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# Grid, then options of `make_layered_inr`: many bands; more clips than are worked on at once; every kind of padding.
CASES = {
    "N1-T3-H20-W31": ((20, 31), dict(n=1, scales=(1, 2), bias="NTO")),
    "N5-T2-H9-W15": ((9, 15), dict(n=5, t=2, scales=(1, 1), shared=True, bias="NO", activation="relu")),
    "N6-T1-H13-W10-no-rgb": ((13, 10), dict(n=6, t=1, scales=(2,), widths=(1, 3), features=1, rgb=False)),
    "N1-T1-H3-W7-sines": ((3, 7), dict(n=1, t=1, widths=(70, 3), parts="sin", features=5, bare=1)),
}


def call_of(inr: fi.INR, grid: fi.Grid, dtype: torch.dtype) -> tuple[tuple, torch.Tensor]:
    """The arguments of the op that renders, and a gradient of the frames."""
    shape = programs.frames_shape(inr, grid)
    gradient = torch.randn(shape, generator=torch.Generator().manual_seed(1))
    return (*programs.flatten(inr), shape, [*grid.x, *grid.y], dtype == torch.bfloat16), gradient


def results_of(arguments: tuple, gradient: torch.Tensor) -> list[torch.Tensor]:
    """Frames and gradients."""
    frames = torch.ops.fused_inr.cpu_render(*arguments)
    return [frames, *torch.ops.fused_inr.cpu_render_backward(gradient, *arguments)]


def same_bits(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(found, expected, strict=True))


@pytest.fixture
def all_calls(make_layered_inr) -> list[tuple]:
    cases = [(make_layered_inr(**options), fi.Grid(*size)) for size, options in CASES.values()]
    return [call_of(*case, dtype) for case in cases for dtype in DTYPES.values()]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_every_time_and_for_any_number_of_threads(
    instruction_set, name, dtype, make_layered_inr, set_threads
):
    size, options = CASES[name]
    call = call_of(make_layered_inr(**options), fi.Grid(*size), DTYPES[dtype])
    set_threads(1)
    expected = results_of(*call)
    assert all(tensor.isfinite().all() for tensor in expected)
    for threads in (1, 2, 3):
        set_threads(threads)
        assert same_bits(results_of(*call), expected), f"with {threads} threads"


def test_every_element_of_the_results_is_written(all_calls):
    expected = [results_of(*call) for call in all_calls]
    torch.use_deterministic_algorithms(True)  # fills what torch.empty gives with NaN
    try:
        assert torch.empty(5).isnan().all()
        found = [results_of(*call) for call in all_calls]
    finally:
        torch.use_deterministic_algorithms(False)
    assert all(map(same_bits, found, expected))


def run_script(name: str, *arguments: object) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(Path(__file__).with_name(name)), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc's mallopt")
def test_no_memory_is_read_before_it_is_written(all_calls, tmp_path):
    torch.save(all_calls, tmp_path / "calls")
    run_script("poisoned_memory.py", tmp_path / "calls", tmp_path / "results")
    results = iter(torch.load(tmp_path / "results"))
    try:
        for isa in native.ISAS[: native.best_isa() + 1]:
            native.use_isa(isa)
            for call in all_calls:
                assert same_bits(next(results), results_of(*call)), isa
    finally:
        native.use_isa(None)
    assert next(results, None) is None


MEMORY = {
    "the-frames-most": ((96, 96), dict(n=2, t=32, scales=(1, 2), widths=(8, 8))),
    "the-weights-most": ((2, 3), dict(n=8, t=2, scales=(1, 2), widths=(700, 700))),
    "the-bands-most": ((2, 5000), dict(n=1, t=2, scales=(1, 4), widths=(300, 20))),
}


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs Linux's /proc and glibc's malloc_trim")
def test_memory_is_as_counted(make_layered_inr, tmp_path):
    calls = {
        f"{name} {dtype}": (*programs.flatten(make_layered_inr(**options)), *size, DTYPES[dtype])
        for name, (size, options) in MEMORY.items()
        for dtype in DTYPES
    }
    torch.save(list(calls.values()), tmp_path / "calls")
    lines = run_script("memory_of_render.py", tmp_path / "calls").splitlines()
    for name, line in zip(calls, lines, strict=True):
        counted, measured = (int(number) / 2**20 for number in line.split())
        # Measured: 0.1 to 1.3 MB less than counted where frames or weights take the most; 13 to 20 MB less, of 34 MB,
        # where the bands do, whose buffers are as large as the largest stage needs.
        assert counted / 3 <= measured <= counted + 8, f"{name}: counted {counted:.1f} MB, measured {measured:.1f} MB"
