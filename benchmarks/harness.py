"""Compare implementations of the same computation: correctness first, then speed, then the limits of the machine.

A benchmark is a `Case`: alternative paths, and the limits that bound all of them. The paths run in turn on the same
inputs, round after round, so that noise on the machine affects all of them and the limits alike. Medians are reported,
and ratios to the first path. A path whose result is wrong is not timed. Nothing here asserts a time.
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
from fused_inr.tools.counts import Counts

Path = Callable[[], Tensor | tuple[Tensor, ...]]


@dataclass(frozen=True)
class Kept:
    """A path whose process keeps freed memory, as `digan train` does on a CPU; other paths return it to the system."""

    path: Path

    def __call__(self) -> Tensor | tuple[Tensor, ...]:
        return self.path()


Result = TypeVar("Result")
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])


@dataclass(frozen=True)
class Precision:
    """The arithmetic of matrix products."""

    name: str
    dtype: torch.dtype
    tf32: bool = False


_CPU_PRECISIONS = [Precision("float32", torch.float32), Precision("bfloat16", torch.bfloat16)]
_CUDA_PRECISIONS = [*_CPU_PRECISIONS, Precision("float16", torch.float16), Precision("tf32", torch.float32, tf32=True)]


def precisions() -> pytest.MarkDecorator:
    """Parametrize a benchmark, over its argument `precision`, with every precision of the device."""
    values = pick(cpu=_CPU_PRECISIONS, cuda=_CUDA_PRECISIONS)
    return pytest.mark.parametrize("precision", values, ids=lambda precision: precision.name)


# A path that takes less is run several times in a row, because clock resolution and interruptions dominate its time.
SHORTEST = 0.02  # seconds
# Time limit for warming up a path, which is called at least once.
LONGEST = 2.0  # seconds
# Calls to warm up a path that keeps memory, and the number of successive calls without new pages after which it stops.
WARMING, SETTLED = 60, 12
PAGES = 2**20  # bytes; smaller changes are not tensors
# Ratios to smaller peaks are not reported: the C library rounds up.
SMALLEST = 2**24  # bytes


@dataclass
class Case:
    """One comparison.

    Attributes:
        name: row title, such as "render N1-T16-R128".
        dtype: compute type of the products; None if the paths differ in it and their names say so.
        paths: name -> callable. The first is the naive implementation, the last is ours.
        flops: the least number of operations that the task needs; 0 if it is bound by memory.
        truth: returns the expected result, or a part of it, for instance in float64. None: the result of the first
            path.
        tolerance: largest relative error of a path, in the 2-norm.
        part: selects from the result of a path what `truth` returns.
        rounds: timed rounds, after one that warms up.
        moved: the least number of bytes that the task reads and writes; 0 if it is bound by arithmetic.
        limits: bounds of the task; () is a matrix product of as many operations, if `flops` is not 0.
        work: the least work of the task, for the share of the roofline that a path reaches.
        rivals: paths besides the first that later paths are compared with.
        tf32: whether float32 matrix products may use TF32.
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
        """Return `limits`, or by default the matrix products."""
        if self.limits or not self.flops or self.dtype is None:
            return self.limits
        return [matrix_products(self.flops, self.dtype)]


@dataclass
class Sequel:
    """A sequence of cases: each is measured, and then reported together as a weighted sum.

    The paths must have the same names in all of them.
    """

    name: str
    parts: list[tuple[Case, float]]


@dataclass
class Measured:
    """The measurements of one path of a case."""

    path: str
    error: float
    seconds: float | None = None  # median; None if the result was wrong
    peak: int = 0  # bytes of memory beyond those before the call, result included
    failure: str = ""
    shares: dict[str, float] = field(default_factory=dict)  # name of a limit -> median share over rounds


@dataclass
class Report:
    """A measured case."""

    case: Case
    rows: list[Measured] = field(default_factory=list)
    roofline: float | None = None  # seconds

    def table(self) -> Iterator[dict[str, str]]:
        """Yield a table row for each path."""
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
            "rate": ", ".join(f"{amount / seconds / 1e9:.3g} {unit}" for amount, unit in work if amount),
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
    """Check every path, then time all of them in turn; `rounds` overrides those of the case."""
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
        for name, durations in times.items():
            durations.append(_mean_time(case.paths[name], repeats[name]))
        for limit in bounds:
            limits[limit.name].append(limit.seconds())
    for row in report.rows:
        if durations := times.get(row.path):
            row.seconds = statistics.median(durations)
            # Round by round, because the limit itself changes with the load of the machine.
            row.shares = {
                name: statistics.median(limit / seconds for limit, seconds in zip(bound, durations, strict=True))
                for name, bound in limits.items()
            }
    if case.work is not None:
        report.roofline = case.work.roofline_seconds(gemm_ceiling(case.dtype or torch.float32), copy_ceiling())
    return report


def _check(case: Case) -> list[Measured]:
    rows = []
    expected = None if case.truth is None else case.truth()
    for name, path in case.paths.items():
        try:
            result = case.part(path())
        except (RuntimeError, MemoryError) as error:
            if expected is None and not _out_of_memory(error):
                raise
            rows.append(Measured(name, float("nan"), failure=_reason(error)))
            continue
        expected = result if expected is None else expected
        rows.append(Measured(name, relative_error(result, expected)))
        del result
    return rows


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def _reason(error: Exception) -> str:
    """Return why a path was not timed."""
    if _out_of_memory(error):
        return "out of memory"
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _mean_time(path: Path, repeats: int) -> float:
    """Return the mean seconds of a call, of several in a row."""

    def run() -> None:
        for _ in range(repeats):
            path()

    with _memory_of(path):
        _settle(path)
        return timed(run) / repeats


@contextmanager
def _memory_of(path: Path) -> Iterator[None]:
    """Keep freed memory in the process if the path does."""
    if not isinstance(path, Kept):
        yield
        return
    keep_freed_memory()
    try:
        yield
    finally:
        keep_freed_memory(False)


def _settle(path: Path) -> None:
    """Call a path until its memory use is that of a long run, within limits of calls and time.

    One call is enough to replace the memory that another path left. A path that keeps freed memory still takes new
    pages in some of its first calls, until every block has a place that it returns to.
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
    """Return the report of every case, then one of all together: weighted time, largest memory and error."""
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
    """Return a path with the ops of the reference backend of `fused_inr`."""

    def run() -> Result:
        with fi.backend("reference"):
            return path()

    return run


def relative_error(result: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...]) -> float:
    """Return the largest relative difference, in the 2-norm, of corresponding tensors."""
    pairs = zip(_tuple(result), _tuple(expected), strict=True)
    return max(((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item() for a, b in pairs)


def _tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)


def peak_memory(path: Path) -> tuple[int, float]:
    """Return the peak bytes of a call beyond those of the process before it, and the seconds of the call.

    A path that keeps freed memory is watched from its first call on.
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
            done.wait(max(0.0005, (time.perf_counter() - start) / 200))  # peaks of longer calls last longer

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _trim() -> None:
    """Return the free memory of the C library to the system, so that the memory of a call is visible."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).malloc_trim(0)


def format_table(lines: list[dict[str, str]]) -> str:
    """Return rows as a Markdown table, with columns in the order of their first occurrence; omit empty columns."""
    keys = dict.fromkeys(key for line in lines for key in line)
    columns = [key for key in keys if any(line.get(key) for line in lines)]
    widths = {c: max(len(c), *(len(line.get(c, "")) for line in lines)) for c in columns}

    def row(cells: dict[str, str]) -> str:
        return "| " + " | ".join(cells.get(c, "").ljust(widths[c]) for c in columns) + " |"

    head = row({c: c for c in columns})
    return "\n".join([head, "|" + "|".join("-" * (widths[c] + 2) for c in columns) + "|", *map(row, lines)])


def machine() -> str:
    """Return a description of the machine, with its peak speed and bandwidth."""
    peaks = []
    for precision in pick(cpu=_CPU_PRECISIONS, cuda=_CUDA_PRECISIONS):
        with tf32(precision.tf32):
            peaks.append(f"{precision.name} {gemm_ceiling(precision.dtype) / 1e9:.0f}")
    bandwidth = f"copy bandwidth {copy_ceiling() / 1e9:.0f} GB/s"
    return f"{description()}; matrix product peak in GFLOP/s: {', '.join(peaks)}; {bandwidth}"
