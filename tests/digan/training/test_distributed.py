"""Processes: the set-ups that are refused, the delayed sum, and signals."""

import os
import re
import signal
import threading
from types import SimpleNamespace

import pytest
import torch
from accelerate import Accelerator

from digan.errors import ConfigError
from digan.training import distributed
from digan.training.distributed import DelayedSum, StopSignal, check_devices, make_accelerator, send
from tests.digan.training.test_processes import each


@pytest.fixture
def accelerator():
    return Accelerator(cpu=True, mixed_precision="no")


def test_a_sum_is_returned_one_call_later(accelerator):
    delayed = DelayedSum(accelerator)
    assert [delayed(value) for value in (1.0, 20.0, 0.0, 3.0)] == [0.0, 1.0, 20.0, 0.0]


@pytest.mark.parametrize("name", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_the_second_interrupts(accelerator, monkeypatch, name):
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)
    before = signal.getsignal(name)
    with StopSignal(accelerator) as stop:
        assert not stop.requested()
        os.kill(os.getpid(), name)
        assert stop.requested()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), name)
    assert signal.getsignal(name) == before


def test_another_thread_than_the_main_one_leaves_signals_alone(accelerator):
    before, inside = signal.getsignal(signal.SIGINT), []

    def run():
        with StopSignal(accelerator) as stop:
            inside.append((signal.getsignal(signal.SIGINT), stop.requested()))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert inside == [(before, False)]


def test_the_end_of_the_launcher_asks_too(accelerator, monkeypatch):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "no")
    with StopSignal(accelerator) as stop:
        assert not stop.requested()
        monkeypatch.setattr(os, "getppid", lambda: 1)
        assert stop.requested()


@pytest.mark.parametrize(
    ("machines", "gpus", "same"),
    [("aabb", "0101", None), ("aabb", "0001", r"processes 0, 1 \(on a\)"), ("aaaa", "0120", "processes 0, 3")],
)
def test_processes_that_would_share_a_gpu_are_named(machines, gpus, same, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: SimpleNamespace(uuid=f"GPU-{device.index}"))

    def check(processes):
        device = torch.device("cuda", int(gpus[processes.rank]))
        return check_devices(SimpleNamespace(device=device), processes)

    for error in each(4, check, machines=list(machines)):
        assert (error is None) if same is None else re.match(f"{same} would share one GPU: ", str(error))


def test_what_accelerate_cannot_do_is_a_sentence(monkeypatch):
    def refuse(**options):
        raise NotImplementedError("These GPUs cannot talk to each other.\n  Set NCCL_P2P_DISABLE=1.")

    monkeypatch.setattr(distributed, "Accelerator", refuse)
    sentence = r"^accelerate: These GPUs cannot talk to each other\. Set NCCL_P2P_DISABLE=1\.$"
    with pytest.raises(ConfigError, match=sentence):
        make_accelerator("no")


def test_a_launch_that_starts_one_process_for_several_is_refused(monkeypatch):
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    with pytest.raises(ConfigError, match="--multi_gpu --num_processes N"):
        make_accelerator()


@pytest.fixture
def threads():
    """Restores the number of threads."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield torch.get_num_threads
    torch.set_num_threads(before)


@pytest.mark.parametrize("gpu", [False, True])
@pytest.mark.parametrize("forced", [False, True])
def test_processes_on_cpus_share_the_cores(accelerator, threads, monkeypatch, forced, gpu):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(os, "cpu_count", lambda: 3)
    monkeypatch.setenv("ACCELERATE_USE_CPU", str(forced))
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    made = []
    monkeypatch.setattr(distributed, "Accelerator", lambda cpu, **options: made.append(cpu) or accelerator)
    make_accelerator()
    on_cpus = forced or not gpu
    assert made == [on_cpus]
    assert threads() == (3 if on_cpus else 1)
    make_accelerator(threads=2)
    assert threads() == 2


def test_sending_to_the_own_device_keeps_the_values():
    x = torch.arange(3.0)
    assert torch.equal(send(x, torch.device("cpu")), x)
    assert set(distributed.COMPUTE_TYPES) == {"no", "bf16", "fp16"}
