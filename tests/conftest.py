"""The start of every test: settings that must come before PyTorch is loaded, random numbers and threads; the order."""

import os
from typing import Any

# Threads that spin while they wait make tests on a busy machine many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

THREADS = torch.get_num_threads()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Run slow tests first, so that none of them is left to a single worker at the end."""
    slow = ("slow", "ci")
    items.sort(key=lambda item: not any(map(item.get_closest_marker, slow)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Let idle workers of `pytest -n` take over tests that others have not begun."""
    if config.getoption("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed PyTorch and restore its threads, so that a test's result does not depend on those that ran before it."""
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
