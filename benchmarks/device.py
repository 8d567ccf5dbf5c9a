"""The device to measure, its clock, its memory and its name: CUDA if available, unless chosen otherwise."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import torch

T = TypeVar("T")
WARM_UP = 0.2  # seconds
_device = torch.device("cpu")


def use(name: str | None) -> None:
    """Choose the device by its type, "cpu" or "cuda"; None selects CUDA if available.

    Raises:
        RuntimeError: there is no such device.
    """
    global _device
    if name == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("--device cuda: PyTorch sees no CUDA device here; leave the option out to measure the CPU")
    _device = torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def device() -> torch.device:
    """Return the device that the tensors of a benchmark are on."""
    return _device


def on_cuda() -> bool:
    return _device.type == "cuda"


def pick(*, cpu: T, cuda: T) -> T:
    """Return the value for the device in use, such as sizes that fill it."""
    return cuda if on_cuda() else cpu


def timed(call: Callable[[], object]) -> float:
    """Return the seconds that a call takes; on a GPU, from the start of its first kernel to the end of its last."""
    if not on_cuda():
        start = time.perf_counter()
        call()
        return time.perf_counter() - start
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    call()
    last.record()
    last.synchronize()
    return first.elapsed_time(last) / 1e3


def warm_up(call: Callable[[], object]) -> None:
    """Run a GPU until its clocks are stable; on a CPU, the call that was checked is enough."""
    start = time.perf_counter()
    while on_cuda() and time.perf_counter() - start < WARM_UP:
        timed(call)


def peak_allocated(call: Callable[[], object]) -> tuple[int, float]:
    """Return the peak bytes that a call allocates on a GPU beyond those allocated before it, and its seconds."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    seconds = timed(call)
    return torch.cuda.max_memory_allocated() - before, seconds


@contextmanager
def tf32(allowed: bool) -> Iterator[None]:
    """Allow or forbid TF32, 10 bits of each operand, in the float32 matrix products of a GPU."""
    if not on_cuda():
        yield
        return
    before = torch.backends.cuda.matmul.fp32_precision
    torch.backends.cuda.matmul.fp32_precision = "tf32" if allowed else "ieee"
    try:
        yield
    finally:
        torch.backends.cuda.matmul.fp32_precision = before


def description() -> str:
    """Return the device, and the versions of driver and libraries, as one line; the same on every day."""
    versions = [f"torch {torch.__version__}"]
    if not on_cuda():
        capability = torch.backends.cpu.get_cpu_capability()
        parts = [f"{_processor()}, {torch.get_num_threads()} threads, {capability}"]
    else:
        parts = [f"{torch.cuda.get_device_name()}, driver {_driver()}, CUDA {torch.version.cuda}"]
        if importlib.util.find_spec("triton") is not None:
            versions.append(f"triton {importlib.metadata.version('triton')}")
    return "; ".join([*parts, ", ".join(versions)])


def commit() -> str:
    """Return the commit of the working tree, marked if files differ from it; empty outside of a checkout."""
    return _printed("git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty")


def _processor() -> str:
    model = platform.processor() or platform.machine()
    if platform.system() == "Linux":
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    return model


def _driver() -> str:
    lines = _printed("nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader").splitlines()
    return lines[0].strip() if lines else "unknown"


def _printed(*command: str) -> str:
    """Return the output of a command, or an empty string if it cannot run."""
    try:
        completed = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return completed.stdout.strip() if completed.returncode == 0 else ""
