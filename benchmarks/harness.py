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
from benchmarks.device import description, on_cuda, peak_allocated, pick, tf32, timed, warm_up
from benchmarks.limits import Limit, copy_ceiling, gemm_ceiling, matrix_products
from digan.training.allocator import keep_freed_memory
from fused_inr.counts import Counts

Path = Callable[[], Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Kept:
    """A path whose process keeps the memory that it frees, as `digan/train.py` does on a CPU; others give it back."""

    path: Path

    def __call__(self) -> Tensor | tuple[Tensor, ...]:
        return self.path()


Result = TypeVar("Result")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@dataclass(frozen=True)
class Precision:
    """What products are computed in."""

    name: str
    dtype: torch.dtype
    tf32: bool = False


_CPU_PRECISIONS = [Precision("float32", torch.float32), Precision("bfloat16", torch.bfloat16)]
_CUDA_PRECISIONS = [*_CPU_PRECISIONS, Precision("float16", torch.float16), Precision("tf32", torch.float32, tf32=True)]


def precisions() -> pytest.MarkDecorator:
    """Runs a benchmark, with an argument `precision`, in every type that the device multiplies in."""
    found = pick(cpu=_CPU_PRECISIONS, cuda=_CUDA_PRECISIONS)
    return pytest.mark.parametrize("precision", found, ids=lambda precision: precision.name)


# A path that takes less is run several times in a row, as clocks and interruptions would decide its time.
SHORTEST = 0.02  # seconds
# A path is not called for longer than this only to warm up, but at least once.
LONGEST = 2.0  # seconds
# Calls that a path which keeps memory is given to find its places, and after how many without new pages it has.
WARMING, SETTLED = 60, 12
PAGES = 2**20  # bytes; less is not memory of tensors
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
        work: what the task is at least; gives the share of the roofline's speed that a path reaches.
        rivals: paths beside the first that the later ones are compared with.
        tf32: the products of float32 matrices may be made in this type.
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
    work: Counts | None = None
    rivals: Sequence[str] = ()
    tf32: bool = False

    @property
    def type_name(self) -> str:
        return "tf32" if self.tf32 else str(self.dtype or "").removeprefix("torch.")

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
    shares: dict[str, float] = field(default_factory=dict)  # name of a limit -> median over rounds of what is reached


@dataclass
class Report:
    """A measured case."""

    case: Case
    rows: list[Measured] = field(default_factory=list)
    roofline: float | None = None  # seconds

    def table(self) -> Iterator[dict[str, str]]:
        """A line for each path."""
        for row in self.rows:
            line = {
                "case": self.case.name,
                "dtype": self.case.type_name,
                "path": row.path,
            }
            if row.seconds is None:
                yield line | {"time": "-", "error": row.failure or f"wrong result, {row.error:.1e}"}
            else:
                yield line | self._cells(row, row.seconds)

    def _cells(self, row: Measured, seconds: float) -> dict[str, str]:
        first = self.rows[0]
        work = [(self.case.flops, "GFLOP/s"), (self.case.moved, "GB/s")]
        limits = [f"{share:.0%} of {name}" for name, share in row.shares.items()]
        before = {earlier.path: earlier for earlier in self.rows[: self.rows.index(row)]}
        rivals = {name: before.get(name) for name in self.case.rivals}
        return {
            "time": f"{seconds * 1e3:.1f} ms" if seconds > 0.01 else f"{seconds * 1e3:.3f} ms",
            "speed-up": f"{first.seconds / seconds:.2f}x" if first.seconds else "",
            **{f"over {name}": f"{r.seconds / seconds:.2f}x" if r and r.seconds else "" for name, r in rivals.items()},
            "rate": ", ".join(f"{done / seconds / 1e9:.3g} {unit}" for done, unit in work if done),
            "limit reached": ", ".join(limits),
            "of roofline": f"{self.roofline / seconds:.0%}" if self.roofline else "",
            "peak memory": f"{row.peak / 2**20:.0f} MB",
            "memory": f"{row.peak / first.peak:.0%}" if first.seconds and first.peak > SMALLEST else "",
            **{
                f"of {name}'s": f"{row.peak / r.peak:.0%}" if r and r.peak > SMALLEST else ""
                for name, r in rivals.items()
            },
            "error": f"{row.error:.1e}",
        }


def measure(case: Case, rounds: int | None = None) -> Report:
    """Checks every path, then times all of them in turn; `rounds` goes before those of the case."""
    with tf32(case.tf32):
        return _measured(case, rounds or case.rounds)


def _measured(case: Case, rounds: int) -> Report:
    report = Report(case, _check(case))
    times: dict[str, list[float]] = {}
    repeats = {}
    for row in report.rows:
        if not row.error <= case.tolerance:
            continue
        path = case.paths[row.path]
        try:
            row.peak, seconds = peak_memory(path)
        except (RuntimeError, MemoryError) as error:
            row.failure = _reason(error)
            continue
        repeats[row.path] = math.ceil(SHORTEST / seconds)
        times[row.path] = []
        warm_up(path)
    bounds = case.bounds()
    limits: dict[str, list[float]] = {limit.name: [] for limit in bounds}
    for _ in range(rounds):
        for name, found in times.items():
            found.append(_mean_time(case.paths[name], repeats[name]))
        for limit in bounds:
            limits[limit.name].append(limit.seconds())
    for row in report.rows:
        if found := times.get(row.path):
            row.seconds = statistics.median(found)
            # Round by round, as the limit itself changes with what else the machine does.
            row.shares = {
                name: statistics.median(limit / seconds for limit, seconds in zip(reached, found, strict=True))
                for name, reached in limits.items()
            }
    if case.work is not None:
        report.roofline = case.work.roofline_seconds(gemm_ceiling(case.dtype or torch.float32), copy_ceiling())
    return report


def _check(case: Case) -> list[Measured]:
    rows = []
    expected = None if case.truth is None else case.truth()
    for name, path in case.paths.items():
        try:
            found = case.part(path())
        except (RuntimeError, MemoryError) as error:
            if expected is None and not _out_of_memory(error):
                raise
            rows.append(Measured(name, float("nan"), failure=_reason(error)))
            continue
        expected = found if expected is None else expected
        rows.append(Measured(name, relative_error(found, expected)))
        del found
    return rows


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def _reason(error: Exception) -> str:
    """Why a path has no time."""
    if _out_of_memory(error):
        return "out of memory"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _mean_time(path: Path, repeats: int) -> float:
    """Seconds of one call out of several in a row."""

    def run() -> None:
        for _ in range(repeats):
            path()

    with _memory_of(path):
        _settle(path)
        return timed(run) / repeats


@contextmanager
def _memory_of(path: Path) -> Iterator[None]:
    """Keeps freed memory where the path does."""
    if not isinstance(path, Kept):
        yield
        return
    keep_freed_memory()
    try:
        yield
    finally:
        keep_freed_memory(False)


def _settle(path: Path) -> None:
    """Calls a path until it finds memory as it does after many calls, or for a while.

    One call makes up for what another path left. A path that keeps its memory takes new pages in some of its first
    calls, until every block has a place that it comes back to.
    """
    if on_cuda():
        return
    process, start, calm = psutil.Process(), time.perf_counter(), 0
    for _ in range(WARMING if isinstance(path, Kept) else 1):
        before = process.memory_info().rss
        path()
        calm = calm + 1 if process.memory_info().rss - before < PAGES else 0
        if calm == SETTLED or time.perf_counter() - start > LONGEST:
            return


def measure_sequel(sequel: Sequel, rounds: int | None = None) -> list[Report]:
    """The report of every case, and last that of all of them as one: weighted time, largest memory and error."""
    reports = [measure(case, rounds) for case, _ in sequel.parts]
    weights = [weight for _, weight in sequel.parts]
    whole = Report(replace(sequel.parts[0][0], name=sequel.name, flops=0, moved=0, limits=(), work=None))
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
    """Most bytes that the process had more during a call than before it, and the seconds of that call.

    A path that keeps its memory is watched from its first call on.
    """
    gc.collect()
    if on_cuda():
        return peak_allocated(path)
    _trim()
    with _watch_memory() as peak, _memory_of(path):
        if isinstance(path, Kept):
            _settle(path)
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
    """What the numbers were measured on, and what it can do at most."""
    peaks = []
    for precision in pick(cpu=_CPU_PRECISIONS, cuda=_CUDA_PRECISIONS):
        with tf32(precision.tf32):
            peaks.append(f"{precision.name} {gemm_ceiling(precision.dtype) / 1e9:.0f}")
    bandwidth = f"copy bandwidth {copy_ceiling() / 1e9:.0f} GB/s"
    return f"{description()}; matrix product peak in GFLOP/s: {', '.join(peaks)}; {bandwidth}"
