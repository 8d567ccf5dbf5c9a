"""Compares ways of computing the same thing: right first, then fast, then how far from what the machine can do.

A benchmark is a `Case`: paths that are alternatives to each other, and how much arithmetic the task needs at least. All
paths run in turn on the same inputs, round after round, so that a noisy machine is noisy for all of them; medians are
reported, as ratios to the first path. A path whose result is wrong gets no time. Nothing here asserts a time.
"""

from __future__ import annotations

import ctypes
import functools
import gc
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import psutil
import torch
from torch import Tensor

Path = Callable[[], Tensor | tuple[Tensor, ...]]


@dataclass
class Case:
    """One comparison.

    Attributes:
        name: row title, such as "render N1-T16-R128".
        dtype: compute type of the products; decides which ceiling applies.
        paths: name -> callable. The first is what people write by hand; the last is ours.
        flops: operations that the task needs at least, after all waste is removed; 0 where memory decides.
        truth: gives what every path must come close to, or a part of it, for instance in float64.
        part: picks from a path's result what `truth` gives.
        tolerance: relative 2-norm error that a path may have.
        rounds: timed rounds, after one that warms up.
    """

    name: str
    dtype: torch.dtype
    paths: dict[str, Path]
    flops: float
    truth: Path
    tolerance: float
    part: Callable[[Tensor | tuple[Tensor, ...]], Tensor | tuple[Tensor, ...]] = lambda result: result
    rounds: int = 5


@dataclass
class Measured:
    """What was found for one path of a case."""

    path: str
    error: float
    seconds: float | None = None  # median; None where the result was wrong
    peak: int = 0  # bytes of memory beyond what was there before the call, the result included
    failure: str = ""


@dataclass
class Report:
    """A measured case, with the ceilings that were measured beside it."""

    case: Case
    ceiling: float  # FLOP/s
    rows: list[Measured] = field(default_factory=list)

    def table(self) -> Iterator[dict[str, str]]:
        """A line for each path."""
        first = self.rows[0].seconds
        for row in self.rows:
            if row.seconds is None:
                yield {"case": self.case.name, "path": row.path, "time": row.failure or "wrong result"}
                continue
            rate = self.case.flops / row.seconds
            yield {
                "case": self.case.name,
                "dtype": str(self.case.dtype).removeprefix("torch."),
                "path": row.path,
                "time": f"{row.seconds * 1e3:.1f} ms",
                "speed-up": f"{first / row.seconds:.2f}x" if first else "",
                "GFLOP/s": f"{rate / 1e9:.0f}" if self.case.flops else "",
                "of peak": f"{rate / self.ceiling:.0%}" if self.case.flops else "",
                "peak memory": f"{row.peak / 2**20:.0f} MB",
                "error": f"{row.error:.1e}",
            }


def measure(case: Case) -> Report:
    """Checks every path, then times all of them in turn."""
    report = Report(case, gemm_ceiling(case.dtype))
    expected = case.truth()
    for name, path in case.paths.items():
        try:
            found = case.part(path())
        except (RuntimeError, MemoryError) as error:
            report.rows.append(Measured(name, float("nan"), failure=f"{type(error).__name__}: {error}".splitlines()[0]))
            continue
        report.rows.append(Measured(name, relative_error(found, expected)))
        del found
    right = [row for row in report.rows if row.error <= case.tolerance]
    times: dict[str, list[float]] = {row.path: [] for row in right}
    for row in right:
        row.peak = peak_memory(case.paths[row.path])
    for _ in range(case.rounds):
        for row in right:
            start = time.perf_counter()
            case.paths[row.path]()
            times[row.path].append(time.perf_counter() - start)
    for row in right:
        row.seconds = statistics.median(times[row.path])
    return report


def relative_error(found: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...]) -> float:
    """Largest relative difference, in the 2-norm, of corresponding tensors."""
    pairs = zip(_tuple(found), _tuple(expected), strict=True)
    return max(((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item() for a, b in pairs)


def _tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


@functools.cache
def gemm_ceiling(dtype: torch.dtype) -> float:
    """FLOP/s of PyTorch's own matrix product at the sizes of the default generator: the best of many."""
    a, b = torch.randn(16384, 512).to(dtype), torch.randn(512, 512).to(dtype)
    best = float("inf")
    for _ in range(30):
        start = time.perf_counter()
        torch.mm(a, b)
        best = min(best, time.perf_counter() - start)
    return 2 * 16384 * 512 * 512 / best


def peak_memory(path: Path) -> int:
    """Most bytes that the process had more during a call than before it."""
    gc.collect()
    _trim()
    with _watch_memory() as peak:
        path()
    return peak[0]


@contextmanager
def _watch_memory() -> Iterator[list[int]]:
    process, done, peak = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], process.memory_info().rss - before)
            done.wait(0.0005)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _trim() -> None:
    """Gives memory that the C library holds for later back to the system, so that a call's own use shows."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).malloc_trim(0)


def format_table(lines: list[dict[str, str]]) -> str:
    """Lines as a Markdown table; columns in the order in which they first occur."""
    columns = list(dict.fromkeys(key for line in lines for key in line))
    widths = {c: max(len(c), *(len(line.get(c, "")) for line in lines)) for c in columns}

    def row(cells: dict[str, str]) -> str:
        return "| " + " | ".join(cells.get(c, "").ljust(widths[c]) for c in columns) + " |"

    head = row({c: c for c in columns})
    return "\n".join([head, "|" + "|".join("-" * (widths[c] + 2) for c in columns) + "|", *map(row, lines)])


def machine() -> str:
    """What the numbers were measured on."""
    model = platform.processor() or platform.machine()
    if platform.system() == "Linux":
        with open("/proc/cpuinfo") as file:
            model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), model)
    capability = torch.backends.cpu.get_cpu_capability()
    peaks = ", ".join(f"{str(t)[6:]} {gemm_ceiling(t) / 1e9:.0f}" for t in (torch.float32, torch.bfloat16))
    return (
        f"{model}, {torch.get_num_threads()} threads, {capability}; torch {torch.__version__}; "
        f"{time.strftime('%Y-%m-%d')}; matrix product peak in GFLOP/s: {peaks}"
    )
