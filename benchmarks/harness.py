"""Compares ways of computing the same thing: right first, then fast, then how far from what the machine can do.

A benchmark is a `Case`: paths that are alternatives to each other, and what bounds every one of them. All paths run in
turn on the same inputs, round after round, so that a noisy machine is noisy for all of them and for the bound; medians
are reported, as ratios to the first path. A path whose result is wrong gets no time. Nothing here asserts a time.
"""

from __future__ import annotations

import ctypes
import gc
import math
import platform
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TypeVar

import psutil
import pytest
import torch
from torch import Tensor

import fused_inr as fi
from benchmarks.limits import Limit, gemm_ceiling, matrix_products, timed
from digan.memory import keep_freed_memory

Path = Callable[[], Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Kept:
    """A path whose process keeps the memory that it frees, as `digan/train.py` does on a CPU; others give it back."""

    path: Path

    def __call__(self) -> Tensor | tuple[Tensor, ...]:
        return self.path()


Result = TypeVar("Result")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])

# A path that takes less is run several times in a row, as clocks and interruptions would decide its time.
SHORTEST = 0.02  # seconds
# A path that takes more is timed while its memory is watched, which costs it less than a thousandth.
LONGEST = 2.0  # seconds
# Calls after which short paths that keep memory find all that they need of it.
WARMING = 5
# Peaks below this are no measure of anything: the C library rounds up.
SMALLEST = 2**24  # bytes


@dataclass
class Case:
    """One comparison.

    Attributes:
        name: row title, such as "render N1-T16-R128".
        dtype: compute type of the products; None where the paths differ in it and say so in their names.
        paths: name -> callable. The first is what people write by hand; the last is ours.
        flops: operations that the task needs at least, after all waste is removed; 0 where memory decides.
        truth: gives what every path must come close to, or a part of it, for instance in float64. None takes what the
            first path gives.
        tolerance: relative 2-norm error that a path may have.
        part: picks from a path's result what `truth` gives.
        rounds: timed rounds, after one that warms up.
        moved: bytes that the task reads and writes at least; 0 where arithmetic decides.
        limits: what bounds the task; () is a matrix product of as many operations, if there are any.
    """

    name: str
    dtype: torch.dtype | None
    paths: dict[str, Path]
    flops: float
    truth: Path | None
    tolerance: float
    part: Callable[[Tensor | tuple[Tensor, ...]], Tensor | tuple[Tensor, ...]] = lambda result: result
    rounds: int = 5
    moved: float = 0
    limits: Sequence[Limit] = ()

    def bounds(self) -> Sequence[Limit]:
        """`limits` as they apply."""
        if self.limits or not self.flops or self.dtype is None:
            return self.limits
        return [matrix_products(self.flops, self.dtype)]


@dataclass
class Sequel:
    """Cases that follow one another: each is measured, and then all of them as one, every case with its own weight.

    The paths must have the same names in all of them.
    """

    name: str
    parts: list[tuple[Case, float]]


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
    """A measured case, with the limits that were measured beside it."""

    case: Case
    rows: list[Measured] = field(default_factory=list)
    limits: dict[str, float] = field(default_factory=dict)  # name -> median seconds

    def table(self) -> Iterator[dict[str, str]]:
        """A line for each path."""
        for row in self.rows:
            line = {
                "case": self.case.name,
                "dtype": str(self.case.dtype or "").removeprefix("torch."),
                "path": row.path,
            }
            if row.seconds is None:
                yield line | {"time": "-", "error": row.failure or f"wrong result, {row.error:.1e}"}
            else:
                yield line | self._cells(row, row.seconds)

    def _cells(self, row: Measured, seconds: float) -> dict[str, str]:
        first = self.rows[0]
        work = [(self.case.flops, "GFLOP/s"), (self.case.moved, "GB/s")]
        limits = [f"{limit / seconds:.0%} of {name}" for name, limit in self.limits.items()]
        return {
            "time": f"{seconds * 1e3:.1f} ms" if seconds > 0.01 else f"{seconds * 1e3:.3f} ms",
            "speed-up": f"{first.seconds / seconds:.2f}x" if first.seconds else "",
            "rate": ", ".join(f"{done / seconds / 1e9:.3g} {unit}" for done, unit in work if done),
            "limit reached": ", ".join(limits),
            "peak memory": f"{row.peak / 2**20:.0f} MB",
            "memory": f"{row.peak / first.peak:.0%}" if first.seconds and first.peak > SMALLEST else "",
            "error": f"{row.error:.1e}",
        }


def measure(case: Case, rounds: int | None = None) -> Report:
    """Checks every path, then times all of them in turn; `rounds` goes before those of the case."""
    report = Report(case, _check(case))
    right = [row for row in report.rows if row.error <= case.tolerance]
    times: dict[str, list[float]] = {row.path: [] for row in right}
    repeats = {}
    for row in right:
        row.peak, seconds = peak_memory(case.paths[row.path])
        repeats[row.path] = math.ceil(SHORTEST / seconds)
        if seconds > LONGEST:
            times[row.path].append(seconds)
    bounds = case.bounds()
    limits: dict[str, list[float]] = {limit.name: [] for limit in bounds}
    for done in range(rounds or case.rounds):
        for row in right:
            if len(times[row.path]) <= done:
                times[row.path].append(_mean_time(case.paths[row.path], repeats[row.path]))
        for limit in bounds:
            limits[limit.name].append(limit.seconds())
    for row in right:
        row.seconds = statistics.median(times[row.path])
    report.limits = {name: statistics.median(seconds) for name, seconds in limits.items()}
    return report


def _check(case: Case) -> list[Measured]:
    rows = []
    expected = None if case.truth is None else case.truth()
    for name, path in case.paths.items():
        try:
            found = case.part(path())
        except (RuntimeError, MemoryError) as error:
            if expected is None:
                raise
            rows.append(Measured(name, float("nan"), failure=f"{type(error).__name__}: {error}".splitlines()[0]))
            continue
        expected = found if expected is None else expected
        rows.append(Measured(name, relative_error(found, expected)))
        del found
    return rows


def _mean_time(path: Path, repeats: int) -> float:
    """Seconds of one call out of several in a row."""

    def run() -> None:
        for _ in range(repeats):
            path()

    with _memory_of(path):
        return timed(run) / repeats


@contextmanager
def _memory_of(path: Path) -> Iterator[None]:
    """Keeps freed memory where the path does, and calls it until its blocks have found their places."""
    if not isinstance(path, Kept):
        yield
        return
    keep_freed_memory()
    try:
        start = time.perf_counter()
        for _ in range(WARMING):
            path()
            if time.perf_counter() - start > LONGEST:
                break
        yield
    finally:
        keep_freed_memory(False)


def measure_sequel(sequel: Sequel, rounds: int | None = None) -> list[Report]:
    """The report of every case, and last that of all of them as one: weighted time, largest memory and error."""
    reports = [measure(case, rounds) for case, _ in sequel.parts]
    weights = [weight for _, weight in sequel.parts]
    whole = Report(replace(sequel.parts[0][0], name=sequel.name, flops=0, moved=0, limits=()))
    for rows in zip(*(report.rows for report in reports), strict=True):
        row = Measured(rows[0].path, max(r.error for r in rows), peak=max(r.peak for r in rows))
        if all(r.seconds is not None for r in rows):
            row.seconds = sum(r.seconds * weight for r, weight in zip(rows, weights, strict=True))
        else:
            row.failure = "a part of it has no time"
        whole.rows.append(row)
    return [*reports, whole]


def on_reference(path: Callable[[], Result]) -> Callable[[], Result]:
    """The same path with the naive ops of `fused_inr`."""

    def run() -> Result:
        with fi.backend("reference"):
            return path()

    return run


def relative_error(found: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...]) -> float:
    """Largest relative difference, in the 2-norm, of corresponding tensors."""
    pairs = zip(_tuple(found), _tuple(expected), strict=True)
    return max(((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item() for a, b in pairs)


def _tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def peak_memory(path: Path) -> tuple[int, float]:
    """Most bytes that the process had more during a call than before it, and the seconds of that call."""
    gc.collect()
    _trim()
    with _watch_memory() as peak, _memory_of(path):
        seconds = timed(path)
    return peak[0], seconds


@contextmanager
def _watch_memory() -> Iterator[list[int]]:
    process, done, peak = psutil.Process(), threading.Event(), [0]
    before, start = process.memory_info().rss, time.perf_counter()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], process.memory_info().rss - before)
            done.wait(max(0.0005, (time.perf_counter() - start) / 200))  # the longer the call, the more lasts its peak

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
    """Lines as a Markdown table; columns in the order in which they first occur, those without any entry left out."""
    keys = dict.fromkeys(key for line in lines for key in line)
    columns = [key for key in keys if any(line.get(key) for line in lines)]
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
