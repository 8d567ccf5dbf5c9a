"""Compare implementations of the same computation: correctness first, then speed, then the limits of the machine.

A benchmark is a `Case`: alternative paths, and the limits that bound all of them. The paths run in turn on the same
inputs, round after round, so that noise on the machine affects all of them and the limits alike. Medians are reported.
A path whose result is wrong is not timed, and a rival that is slow runs once. Nothing here asserts a time.
"""

from __future__ import annotations

import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

import pytest
import torch
from torch import Tensor

import fused_inr as fi
from benchmarks import budget, sizes
from benchmarks.device import on_cuda, pick, tf32, timed, warm_up
from benchmarks.limits import Limit, copy_ceiling, gemm_ceiling, matrix_products
from benchmarks.memory import Allocator, Path, observed
from fused_inr.tools.counts import Counts

Result = TypeVar("Result")


@dataclass(frozen=True)
class Precision:
    """The arithmetic of matrix products."""

    name: str
    dtype: torch.dtype
    tf32: bool = False


CPU_PRECISIONS = [Precision("float32", torch.float32), Precision("bfloat16", torch.bfloat16)]
CUDA_PRECISIONS = [*CPU_PRECISIONS, Precision("float16", torch.float16), Precision("tf32", torch.float32, tf32=True)]


def precisions(*default: str) -> pytest.MarkDecorator:
    """Parametrize a benchmark, over its argument `precision`.

    Args:
        default: names of the precisions that are measured; at the full size, it is every one of the device.
    """
    values = pick(cpu=CPU_PRECISIONS, cuda=CUDA_PRECISIONS)
    if not sizes.full():
        values = [precision for precision in values if precision.name in default]
    return pytest.mark.parametrize("precision", values, ids=lambda precision: precision.name)


# A path that takes less is run several times in a row, because clock resolution and interruptions dominate its time.
SHORTEST = 0.02  # seconds
# A rival that takes longer runs once.
SLOW = 1.0  # seconds
NO_TIME = "not measured: no time left"


@dataclass
class Case:
    """One comparison.

    Attributes:
        name: row title, such as "render N1-T16-R128".
        dtype: compute type of the products; None if the paths differ in it and their names say so.
        paths: name -> callable. Names begin with "naive", "compiled" or "ours"; the first is the naive implementation,
            unless there is none, and the last is ours.
        flops: the least number of operations that the task needs; 0 if it is bound by memory.
        truth: returns the expected result, or a part of it, for instance in float64. None: the result of the first
            path.
        tolerance: largest relative error of a path, in the 2-norm.
        part: selects from the result of a path what `truth` returns.
        moved: the least number of bytes that the task reads and writes; 0 if it is bound by arithmetic.
        limits: bounds of the task; () is a matrix product of as many operations, if `flops` is not 0.
        work: the least work of the task, for the share of the roofline that a path reaches.
        tf32: whether float32 matrix products may use TF32.
        amount: results of a call and their unit, such as (16, "frames"), where a rate says more than a time.
        scaling: the size that a series of cases varies, and its value, such as ("frames", 16).
    """

    name: str
    dtype: torch.dtype | None
    paths: dict[str, Path]
    flops: float
    truth: Path | None
    tolerance: float
    part: Callable[[Tensor | tuple[Tensor, ...]], Tensor | tuple[Tensor, ...]] = lambda result: result
    moved: float = 0
    limits: Sequence[Limit] = ()
    work: Counts | None = None
    tf32: bool = False
    amount: tuple[float, str] | None = None
    scaling: tuple[str, float] | None = None

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
    error: float = float("nan")
    times: list[float] = field(default_factory=list)  # seconds of each round; none if the path failed
    peak: int = 0  # bytes of memory beyond those before the call, result included
    failure: str = ""
    shares: dict[str, float] = field(default_factory=dict)  # name of a limit -> median share over rounds

    @property
    def seconds(self) -> float | None:
        return statistics.median(self.times) if self.times else None

    @property
    def ours(self) -> bool:
        return self.path.startswith("ours")


@dataclass
class Report:
    """A measured case."""

    case: Case
    rows: list[Measured] = field(default_factory=list)
    roofline: float | None = None  # seconds


def measure(case: Case, seconds: float) -> Report:
    """Check every path, then time all of them in turn.

    Args:
        case: the comparison.
        seconds: time for the case, after which only the mandatory rounds run; with 0, nothing is compiled.
    """
    end, memory = time.perf_counter() + seconds, Allocator()
    with tf32(case.tf32):
        try:
            report = _check(case, memory, compiles=seconds > 0)
            # On a GPU the rounds take little time beside the compiling before them.
            _time(report, memory, max(end, time.perf_counter() + pick(cpu=0.0, cuda=1.0)))
        finally:
            memory.restore()
        if case.work is not None:
            peak = gemm_ceiling(case.dtype or torch.float32)
            report.roofline = case.work.roofline_seconds(peak, copy_ceiling())
    return report


def _check(case: Case, memory: Allocator, compiles: bool) -> Report:
    """Run every path once, to compare its result, and once more unless it is slow.

    The memory, and the time of a slow rival, are those of the last call. The first call of a compiled path compiles, as
    that of every path may on a GPU: it is always called again. A path that keeps memory may take more of it in later
    calls, which short ones show.
    """
    report = Report(case)
    expected = None if case.truth is None else case.truth()
    for name, path in case.paths.items():
        row = Measured(name)
        report.rows.append(row)
        compiled = name.startswith("compiled")
        if compiled and not compiles:
            row.failure = NO_TIME
            continue
        try:
            memory.restore()
            result, row.peak, seconds = observed(path)
            result = case.part(result)
            expected = result if expected is None else expected
            row.error = relative_error(result, expected)
            del result
            if not row.error <= case.tolerance:
                row.failure = f"wrong result, {row.error:.1e}"
                continue
            if compiled or on_cuda() or seconds <= SLOW:
                seconds, row.peak, _ = observed(lambda path=path: memory.prepare(path))
        except (RuntimeError, MemoryError) as error:
            if expected is None and not _out_of_memory(error):
                raise
            row.failure = _reason(error)
            continue
        row.times = [seconds]
    return report


def _time(report: Report, memory: Allocator, end: float) -> None:
    """Time the paths in turn until `end`, or until their medians are known well enough."""
    fast = [row for row in report.rows if row.times and (row.ours or row.times[0] <= SLOW)]
    repeats = {row.path: math.ceil(SHORTEST / row.times[0]) for row in fast}
    limits: dict[str, list[float]] = {limit.name: [] for limit in report.case.bounds()}
    for row in fast:
        warm_up(report.case.paths[row.path])
        row.times = []
    for rounds in itertools.count(1):
        for row in fast:
            path = report.case.paths[row.path]
            if not memory.ready(path, row.times[-1] if row.times else 0):
                memory.prepare(path)
            row.times.append(_mean_time(path, repeats[row.path]))
        for limit in report.case.bounds() if fast else ():
            limits[limit.name].append(limit.seconds())
        if budget.enough(rounds, [row.times for row in fast], end - time.perf_counter()):
            break
    for row in report.rows:
        row.shares = {name: _share(seconds, row.times) for name, seconds in limits.items() if row.times and seconds}


def _share(limit: list[float], times: list[float]) -> float:
    """Return the median share of a limit, round by round, because the limit itself changes with the machine's load."""
    if len(limit) != len(times):  # a rival that ran once
        return statistics.median(limit) / statistics.median(times)
    return statistics.median(bound / seconds for bound, seconds in zip(limit, times, strict=True))


def _out_of_memory(error: Exception) -> bool:
    return isinstance(error, torch.OutOfMemoryError | MemoryError)


def _reason(error: Exception) -> str:
    """Return why a path was not timed."""
    if _out_of_memory(error):
        return "out of memory"
    error = getattr(error, "inner_exception", error)  # of torch.compile, whose own text begins with the backend
    return f"{type(error).__name__}: {error}".splitlines()[0]


def _mean_time(path: Path, repeats: int) -> float:
    """Return the mean seconds of a call, of several in a row."""

    def run() -> None:
        for _ in range(repeats):
            path()

    return timed(run) / repeats


def measure_sequel(sequel: Sequel, seconds: float) -> list[Report]:
    """Return the report of every case, then one of all together: weighted time, largest memory and error."""
    reports = [measure(case, seconds / len(sequel.parts)) for case, _ in sequel.parts]
    weights = [weight for _, weight in sequel.parts]
    whole = Report(replace(sequel.parts[0][0], name=sequel.name, flops=0, moved=0, limits=(), work=None))
    for rows in zip(*(report.rows for report in reports), strict=True):
        row = Measured(rows[0].path, max(r.error for r in rows), peak=max(r.peak for r in rows))
        if all(r.times for r in rows):
            rounds = zip(*(itertools.islice(itertools.cycle(r.times), budget.FEWEST) for r in rows), strict=True)
            row.times = [sum(t * weight for t, weight in zip(each, weights, strict=True)) for each in rounds]
            for name in rows[0].shares:
                bound = sum(r.shares[name] * r.seconds * weight for r, weight in zip(rows, weights, strict=True))
                row.shares[name] = bound / row.seconds
        else:
            row.failure = "one of its cases was not timed"
        whole.rows.append(row)
    return [*reports, whole]


def on_reference(path: Callable[[], Result]) -> Callable[[], Result]:
    """Return a path with the ops of the reference backend of `fused_inr`."""

    def run() -> Result:
        with fi.backend("reference"):
            return path()

    return run


def relative_error(result: Tensor | tuple[Tensor, ...], expected: Tensor | tuple[Tensor, ...]) -> float:
    """Return the largest relative difference, in the 2-norm, of corresponding tensors; infinity for other shapes."""
    pairs = list(zip(_tuple(result), _tuple(expected), strict=True))
    if any(a.shape != b.shape for a, b in pairs):
        return math.inf
    return max(((a.double() - b.double()).norm() / b.double().norm().clamp_min(1e-30)).item() for a, b in pairs)


def _tuple(value: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (value,) if isinstance(value, Tensor) else tuple(value)
