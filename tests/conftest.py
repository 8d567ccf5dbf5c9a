"""What every test starts from: settings that must come before PyTorch is loaded, random numbers and threads."""

import os

# Threads that spin while they wait make tests on a busy machine many times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest
import torch

THREADS = torch.get_num_threads()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup() -> None:
    """Seed PyTorch and restore its threads, so that a test's result does not depend on those that ran before it."""
    torch.manual_seed(0)
    torch.set_num_threads(THREADS)
