"""Collect the tables of all cases and print them at the end; --table FILE also writes them after every case."""

import os
import shlex
from pathlib import Path

import pytest
import torch

from benchmarks import device
from benchmarks.harness import Case, Report, Sequel, format_table, machine, measure, measure_sequel

_reports: list[Report] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", metavar="FILE", help="also write the tables to FILE, in Markdown")
    parser.addoption("--device", choices=["cpu", "cuda"], help="default: cuda if available")
    parser.addoption("--quick", action="store_true", help="small sizes and one round, to try the benchmarks themselves")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        device.use(config.getoption("--device"))
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture(autouse=True)
def _compile_anew():
    """Drop compiled code after a test: a function is compiled for new arguments only a limited number of times."""
    yield
    torch.compiler.reset()


@pytest.fixture
def quick(request) -> bool:
    """Return whether to use small sizes."""
    return request.config.getoption("--quick")


@pytest.fixture
def compare(benchmark, quick, request):
    """Return a function that measures a case or a sequel and passes the last path to pytest-benchmark."""

    def run(work: Case | Sequel) -> Report:
        rounds = 1 if quick else None
        if isinstance(work, Sequel):
            cases, reports = [case for case, _ in work.parts], measure_sequel(work, rounds)
        else:
            cases, reports = [work], [measure(work, rounds)]
        _reports.extend(reports)
        _write_table(request.config)
        for report in reports:
            for line in report.table():
                print("  ".join(v for v in line.values() if v), flush=True)
        for report in reports:
            ours = report.rows[-1]
            if ours.seconds is None:
                pytest.fail(f"{report.case.name}: {ours.failure or f'wrong result, {ours.error:.1e}'}")
        benchmark.extra_info.update({row.path: row.seconds for row in reports[-1].rows})
        last = [list(case.paths.values())[-1] for case in cases]
        benchmark.pedantic(lambda: [path() for path in last], rounds=1)
        return reports[-1]

    return run


def _text() -> str:
    return format_table([line for report in _reports for line in report.table()])


def _write_table(config: pytest.Config) -> None:
    """Write the tables so far; called after every case, so that an interrupted run leaves its results."""
    if config.getoption("--table"):
        command = shlex.join(["pytest", *config.invocation_params.args])
        Path(config.getoption("--table")).write_text(f"`{command}`\n\n{machine()}\n\n{_text()}\n")


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if _reports:
        terminalreporter.write_line("")
        terminalreporter.write_line(machine())
        terminalreporter.write_line(_text())
