"""Processes: the set-ups that are refused, the delayed sum, and signals."""

import os
import signal

import pytest
import torch
from accelerate import Accelerator

from digan.errors import ConfigError
from digan.training import distributed
from digan.training.distributed import DelayedSum, StopSignal, make_accelerator, send


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True, mixed_precision="no")


@pytest.fixture
def signals():
    """Restores the handlers afterwards."""
    handlers = {name: signal.getsignal(name) for name in (signal.SIGINT, signal.SIGTERM)}
    yield
    for name, handler in handlers.items():
        signal.signal(name, handler)


def test_a_sum_is_returned_one_call_later(accelerator):
    delayed = DelayedSum(accelerator)
    assert [delayed(value) for value in (1.0, 20.0, 0.0, 3.0)] == [0.0, 1.0, 20.0, 0.0]


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(accelerator, signals, monkeypatch, name):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    stop = StopSignal(accelerator)
    assert not stop.requested()
    os.kill(os.getpid(), name)
    assert stop.requested()
    with pytest.raises(KeyboardInterrupt):
        os.kill(os.getpid(), name)


def test_the_end_of_the_launcher_asks_too(accelerator, signals, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    stop = StopSignal(accelerator)
    assert not stop.requested()
    monkeypatch.setattr(os, "getppid", lambda: 1)
    assert stop.requested()


def test_a_launch_that_starts_one_process_for_several_is_refused(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    with pytest.raises(ConfigError, match="--multi_gpu --num_processes N"):
        make_accelerator()


def test_sending_to_the_own_device_keeps_the_values():
    x = torch.arange(3.0)
    assert torch.equal(send(x, torch.device("cpu")), x)
    assert set(distributed.COMPUTE_TYPES) == {"no", "bf16", "fp16"}
