"""Collects the tables of all cases and prints them at the end; --table FILE writes them as well, case by case."""

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
    parser.addoption("--device", choices=["cpu", "cuda"], help="default: cuda where there is one")
    parser.addoption("--quick", action="store_true", help="small sizes and one round: tries the benchmarks themselves")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(os.cpu_count() or 1)
    try:
        device.use(config.getoption("--device"))
    except RuntimeError as error:
        raise pytest.UsageError(str(error)) from None


@pytest.fixture(autouse=True)
def _compile_anew():
    """Drops compiled code after a test: there is a limit on how often one function is compiled for new arguments."""
    yield
    torch.compiler.reset()


@pytest.fixture
def quick(request) -> bool:
    """Whether small sizes are wanted."""
    return request.config.getoption("--quick")


@pytest.fixture
def compare(benchmark, quick, request):
    """Measures a case, or a sequel of cases, and hands the last path to pytest-benchmark."""

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
    """After every case, so that a run that is stopped has measured something."""
    if config.getoption("--table"):
        command = shlex.join(["pytest", *config.invocation_params.args])
        Path(config.getoption("--table")).write_text(f"`{command}`\n\n{machine()}\n\n{_text()}\n")


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if _reports:
        terminalreporter.write_line("")
        terminalreporter.write_line(machine())
        terminalreporter.write_line(_text())
