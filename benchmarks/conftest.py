"""Measure all cases within the time of a run, and print one table at the end; --json FILE writes all rows."""

import os
import shlex
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch

from benchmarks import device, records, sizes, table
from benchmarks.budget import Budget
from benchmarks.harness import Case, Report, Sequel, measure, measure_sequel
from benchmarks.memory import Allocator, Kept

_rows: list[records.Record] = []
_start = time.perf_counter()
# Of pytest-benchmark, for our path alone; its own defaults would take as long as the comparisons.
ROUNDS, SECONDS = 1, 0.3
_BUDGET = pytest.StashKey[Budget]()
_FIGURES = ("columns", "sort", "group-by", "compare", "verbose", "histogram", "name")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--json", metavar="FILE", type=Path, help="write all rows to FILE, for python -m benchmarks.report"
    )
    parser.addoption("--device", choices=["cpu", "cuda"], help="default: cuda if available")
    parser.addoption(
        "--bench-size",
        choices=sizes.NAMES,
        default="default",
        help="tiny: try the benchmarks themselves; default: minutes; full: large cases in all types, an hour or more",
    )


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    sizes.use(config.getoption("--bench-size"))
    try:
        device.use(config.getoption("--device"))
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from None
    given = [word for word in config.invocation_params.args if word.startswith("--benchmark-")]
    defaults = {"min-rounds": ROUNDS, "max-time": SECONDS}
    for name, value in defaults.items():
        if not any(word.startswith(f"--benchmark-{name}") for word in given):
            setattr(config.option, f"benchmark_{name.replace('-', '_')}", value)
    # pytest-benchmark prints its own table only if one of its options is given.
    if not any(word.startswith(f"--benchmark-{name}") for word in given for name in _FIGURES):
        config.option.benchmark_quiet = True


def pytest_collection_finish(session: pytest.Session) -> None:
    session.config.stash[_BUDGET] = Budget(len(session.items))


@pytest.fixture(autouse=True)
def _compile_anew():
    """Drop compiled code after a test: a function is compiled for new arguments only a limited number of times."""
    yield
    torch.compiler.reset()


@pytest.fixture
def seconds(request) -> float:
    """Return the case's share, in seconds, of the time that the run has left."""
    return request.config.stash[_BUDGET].share()


@pytest.fixture
def publish(benchmark, request):
    """Return a function that records reports, and passes a call of ours to pytest-benchmark."""

    def run(reports: Sequence[Report], ours: Callable[[], object]) -> None:
        _rows.extend(row for report in reports for row in records.records(report))
        # Written after every case, so that an interrupted run leaves its results.
        if file := request.config.getoption("--json"):
            command = shlex.join(["pytest", *request.config.invocation_params.args])
            elapsed = round(time.perf_counter() - _start)
            records.Run(command, sizes.name(), elapsed, records.machine(), _rows).write(file)
        for report in reports:
            last = report.rows[-1]
            if last.seconds is None:
                pytest.fail(f"{report.case.name}: {last.failure}")
        benchmark.extra_info.update({row.path: row.seconds for row in reports[-1].rows})
        benchmark(ours)

    return run


@pytest.fixture
def compare(publish, seconds):
    """Return a function that measures cases or a sequel of cases."""

    def run(*works: Case | Sequel) -> None:
        reports = []
        for work in works:
            measured = measure_sequel if isinstance(work, Sequel) else _alone
            reports += measured(work, seconds / len(works))
        cases = [case for case, _ in works[-1].parts] if isinstance(works[-1], Sequel) else [works[-1]]
        last = [list(case.paths.values())[-1] for case in cases]
        memory = Allocator()
        if isinstance(last[0], Kept):
            memory.prepare(last[0])

        def ours() -> None:
            for path in last:
                path()
            if device.on_cuda():
                torch.cuda.synchronize()

        try:
            publish(reports, ours)
        finally:
            memory.restore()

    return run


def _alone(case: Case, seconds: float) -> list[Report]:
    return [measure(case, seconds)]


def pytest_terminal_summary(terminalreporter) -> None:
    if not _rows:
        return
    write = terminalreporter.write_line
    write("")
    write(records.machine_text(records.machine()))
    if not device.on_cuda():
        write("GPU: not measured" + ("" if torch.cuda.is_available() else ", there is none"))
    write(f"size {sizes.name()}, {time.perf_counter() - _start:.0f} s; ± is half the distance of the quartiles")
    write(table.plain(table.lines(_rows)))
