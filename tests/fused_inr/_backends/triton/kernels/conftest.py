"""Tests of the Triton kernels: on a GPU if there is one, or on the CPU in Triton's interpreter.

Triton decides whether to interpret a kernel when the kernel is defined, so interpreting needs a process of its own:
`TRITON_INTERPRET=1 pytest tests/fused_inr/_backends/triton/kernels`. `test_backend.py` starts some. In other processes,
nothing is collected here without a GPU.
"""

import os
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
collect_ignore_glob = [] if INTERPRETED or torch.cuda.is_available() else ["test_*.py"]

if INTERPRETED:
    from fused_inr._backends.triton import OPS, image_ops

    library = torch.library.Library("fused_inr", "IMPL")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # PyTorch warns that the C++ kernels are replaced
        for op in OPS:
            library.impl(op, getattr(image_ops, op), "CPU")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if not INTERPRETED and Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.gpu)


@pytest.fixture(scope="session")
def interpreted() -> bool:
    return INTERPRETED


@pytest.fixture(scope="session")
def device() -> str:
    """Return the device that the kernels run on."""
    return DEVICE


@pytest.fixture(autouse=True)
def nan_memory() -> Iterator[None]:
    """Fill the tensors of torch.empty with NaN, so that elements that a kernel does not write are detected."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(5, device=DEVICE).isnan().all()
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


def in_layout(x: torch.Tensor, layout: str) -> torch.Tensor:
    """Return a copy of x on the device that is contiguous, channels_last or neither."""
    x = x.to(DEVICE)
    if layout == "strided":
        return torch.stack([x, x], -1)[..., 0]
    return x.contiguous(memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format)


@pytest.fixture(scope="session")
def lay_out() -> Callable[[torch.Tensor, str], torch.Tensor]:
    return in_layout


# Relative differences (2-norm) against float64 on the same rounded inputs. Measured in the interpreter for float32:
# 4e-7. The others are half a unit in the last place, or a whole one for bfloat16 in the interpreter, which truncates
# (measured 5.3e-3; 2.9e-4 for float16).
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 2**-7 if INTERPRETED else 2**-8, torch.float16: 2**-11}


@pytest.fixture(scope="session")
def check(assert_close) -> Callable[[str, torch.Tensor, torch.Tensor], None]:
    """Assert that a result on the device equals that of float64 on the CPU, up to the rounding of its type."""

    def check(name: str, actual: torch.Tensor, exact: torch.Tensor) -> None:
        assert_close(name, exact.detach(), actual.detach().cpu().double(), TOLERANCES[actual.dtype])

    return check


@pytest.fixture(scope="session")
def exactly() -> Callable[[torch.Tensor], torch.Tensor]:
    """Return a float64 leaf on the CPU with the values of a tensor."""
    return lambda x: x.detach().cpu().double().requires_grad_()


@pytest.fixture
def untouched_memory(nan_memory, needs_memory) -> Iterator[None]:
    """Leave the tensors of torch.empty as the operating system provides their memory, which on a GPU must suffice."""
    if not INTERPRETED:
        needs_memory(64)
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture
def run_last(monkeypatch) -> Callable[[Any], None]:
    """Run the last program of a `Launch` in the interpreter, or all programs on a GPU."""

    def run(launch: Any) -> None:
        if not INTERPRETED:
            launch.run()
            return
        from triton.runtime import interpreter

        builder = interpreter.interpreter_builder
        last = (launch.programs - 1, 0, 0)
        monkeypatch.setattr(builder, "set_grid_idx", lambda *index: setattr(builder, "grid_idx", last))
        # Copying results back would read and write every page.
        monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *args: None)
        launch.kernel[(1,)](**launch.arguments)

    return run
