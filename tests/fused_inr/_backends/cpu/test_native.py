"""The compiled CPU library: its sine and cosine, its build, the instruction set in use, failed calls."""

import math
import runpy
from pathlib import Path

import pytest
import torch

import fused_inr as fi
from fused_inr._backends.cpu import native

ROOT = Path(__file__).parents[4]
SOURCES = ROOT / "csrc" / "cpu"


def sine_and_cosine(library, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the library's sine and cosine of float32 numbers."""
    sine, cosine = torch.full_like(x, torch.nan), torch.full_like(x, torch.nan)
    library.fused_inr_sincos(x.data_ptr(), sine.data_ptr(), cosine.data_ptr(), len(x), native.isa())
    return sine, cosine


def around(x: torch.Tensor) -> torch.Tensor:
    """Return float32 numbers and their neighbors on both sides."""
    x = x.float()
    beyond = torch.tensor(math.inf)
    return torch.cat([x, x.nextafter(beyond), x.nextafter(-beyond)])


ANGLES = {
    "grid": lambda: torch.arange(-10_000, 10_000.01, 0.02, dtype=torch.float64).float(),
    "random": lambda: 2e4 * torch.rand(1_000_000, generator=torch.Generator().manual_seed(0)) - 1e4,
    "small": lambda: torch.logspace(-45, 4, 100_000, dtype=torch.float64).float(),
    # Zeros of sine and cosine, where the range reduction cancels most, and their midpoints, where its result changes.
    "quarter-turns": lambda: around(torch.arange(-12_732, 12_733, dtype=torch.float64) * (math.pi / 4)),
    "ends": lambda: around(torch.tensor([0.0, -0.0, 1e4, -1e4])).clamp(-1e4, 1e4),
}


@pytest.mark.parametrize("name", ANGLES)
def test_sine_and_cosine(instruction_set, name, compiled_library):
    x = ANGLES[name]()
    assert x.abs().max() <= 1e4
    sine, cosine = sine_and_cosine(compiled_library, x)
    errors = [(sine - x.double().sin()).abs().max().item(), (cosine - x.double().cos()).abs().max().item()]
    # Measured on every instruction set of an AVX-512 CPU: 1.31e-7 at most.
    assert max(errors) <= 1e-6


@pytest.mark.parametrize("length", [0, 1, 3, 4, 5, 15, 16, 17, 33])
def test_sine_of_an_array_of_any_length(instruction_set, length, compiled_library):
    x = torch.linspace(-7, 7, 40)
    results = torch.full((2, 40), 5.0)
    pointers = x.data_ptr(), results[0].data_ptr(), results[1].data_ptr()
    compiled_library.fused_inr_sincos(*pointers, length, native.isa())
    assert torch.equal(results[:, :length], torch.stack(sine_and_cosine(compiled_library, x))[:, :length])
    assert (results[:, length:] == 5).all()


def test_sine_of_infinity_and_nan(instruction_set, compiled_library):
    for results in sine_and_cosine(compiled_library, torch.tensor([math.nan, math.inf, -math.inf])):
        assert results.isnan().all()


def test_every_source_is_built_with_the_flags_of_its_instructions(monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    monkeypatch.chdir(ROOT)
    build = runpy.run_path("setup.py")
    assert set(build["ISA_FLAGS"]) == {path.name for path in SOURCES.glob("*.cpp")}
    assert {f"isa_{name}.cpp" for name in native.ISAS} < set(build["ISA_FLAGS"])
    extension, *_ = build["extensions"]()
    assert {Path(path).name for path in extension.depends} == {path.name for path in SOURCES.glob("*.h")}


def test_instructions_that_the_processor_lacks_are_refused(monkeypatch):
    monkeypatch.setattr(native, "best_isa", lambda: native.ISAS.index("avx2"))
    with pytest.raises(ValueError, match=r"^this processor has no avx512; the best it has is avx2\.$"):
        native.use_isa("avx512")
    assert native.isa() == native.ISAS.index("avx2")
    native.use_isa("base")
    assert native.isa() == native.ISAS.index("base")
    native.use_isa(None)
    assert native.isa() == native.ISAS.index("avx2")


def test_failures_of_a_call_are_errors(compiled_library):
    with pytest.raises(MemoryError, match=r"^The native kernels could not allocate their workspace"):
        native.run(lambda *arguments: 1)
    with pytest.raises(RuntimeError, match=r"^The native kernels failed with status 2\.$"):
        native.run(lambda *arguments: 2)


@pytest.fixture
def without_parallel_for(monkeypatch, tmp_path):
    """Simulate a PyTorch that does not export its parallel_for."""
    native.parallel_for.cache_clear()
    monkeypatch.setattr(torch, "__file__", str(tmp_path / "torch" / "__init__.py"))
    yield
    native.parallel_for.cache_clear()


def render_with_gradients(make_layered_inr, tensors_of, with_tensors) -> list[torch.Tensor]:
    inr = make_layered_inr()
    leaves = [tensor.requires_grad_() for tensor in tensors_of(inr)]
    frames = fi.render(with_tensors(inr, leaves), fi.Grid(12, 17), backend="cpu")
    return [frames.detach(), *torch.autograd.grad(frames.square().sum(), leaves)]


def test_a_loop_on_the_calling_thread_has_the_same_bits(
    compiled_library, make_layered_inr, tensors_of, with_tensors, without_parallel_for, monkeypatch
):
    assert isinstance(native.parallel_for(), native._ParallelFor)
    alone = render_with_gradients(make_layered_inr, tensors_of, with_tensors)
    native.parallel_for.cache_clear()
    monkeypatch.undo()
    assert not isinstance(native.parallel_for(), native._ParallelFor)
    shared = render_with_gradients(make_layered_inr, tensors_of, with_tensors)
    assert all(torch.equal(a, b) for a, b in zip(alone, shared, strict=True))
