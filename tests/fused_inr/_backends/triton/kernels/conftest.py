"""Tests of the Triton kernels: on a GPU where there is one, or on the CPU in Triton's interpreter.

Triton decides when a kernel is defined whether it will be interpreted, so that needs a process of its own:
`TRITON_INTERPRET=1 pytest tests/fused_inr/_backends/triton/kernels`. `test_backend.py` starts
one. Without it and without a GPU nothing is collected here.
"""

import os
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
    """Where the kernels run."""
    return DEVICE


@pytest.fixture(autouse=True)
def nan_memory() -> Iterator[None]:
    """Fills what torch.empty gives with NaN, so that what a kernel leaves unwritten shows."""
    torch.use_deterministic_algorithms(True)
    assert torch.empty(5, device=DEVICE).isnan().all()
    torch.manual_seed(0)
    yield
    torch.use_deterministic_algorithms(False)


def in_layout(x: torch.Tensor, layout: str) -> torch.Tensor:
    """A copy of x on the device that is contiguous, channels_last or neither."""
    x = x.to(DEVICE)
    if layout == "strided":
        return torch.stack([x, x], -1)[..., 0]
    return x.contiguous(memory_format=torch.channels_last if layout == "channels_last" else torch.contiguous_format)


@pytest.fixture(scope="session")
def lay_out() -> Callable[[torch.Tensor, str], torch.Tensor]:
    return in_layout


# Relative differences (2-norm) against float64 on the same rounded inputs. Of float32 measured 4e-7 in the interpreter;
# of the others they are half a unit in the last place, or a whole one of bfloat16 in the interpreter, which cuts digits
# off (measured 5.3e-3; 2.9e-4 of float16).
TOLERANCES = {torch.float32: 1e-6, torch.bfloat16: 2**-7 if INTERPRETED else 2**-8, torch.float16: 2**-11}


@pytest.fixture(scope="session")
def check(assert_close) -> Callable[[str, torch.Tensor, torch.Tensor], None]:
    """Asserts that a result on the device is float64's on the CPU, to the rounding of its type."""

    def check(name: str, found: torch.Tensor, exact: torch.Tensor) -> None:
        assert_close(name, exact.detach(), found.detach().cpu().double(), TOLERANCES[found.dtype])

    return check


@pytest.fixture(scope="session")
def exactly() -> Callable[[torch.Tensor], torch.Tensor]:
    """A leaf in float64 on the CPU with the values of a tensor."""
    return lambda x: x.detach().cpu().double().requires_grad_()


@pytest.fixture
def untouched_memory(nan_memory) -> Iterator[None]:
    """Leaves what torch.empty gives as it comes from the operating system."""
    torch.utils.deterministic.fill_uninitialized_memory = False
    yield
    torch.utils.deterministic.fill_uninitialized_memory = True


@pytest.fixture
def run_last(monkeypatch) -> Callable[[Any], None]:
    """Runs the last program of a `Launch` in the interpreter, or all on a GPU."""

    def run(launch: Any) -> None:
        if not INTERPRETED:
            launch.run()
            return
        from triton.runtime import interpreter

        builder = interpreter.interpreter_builder
        last = (launch.programs - 1, 0, 0)
        monkeypatch.setattr(builder, "set_grid_idx", lambda *index: setattr(builder, "grid_idx", last))
        # Its way of copying results back reads and writes every page.
        monkeypatch.setattr(interpreter.GridExecutor, "_restore_args_dev", lambda *args: None)
        launch.kernel[(1,)](**launch.arguments)

    return run
