"""Collects the tables of all cases and prints them at the end; --table FILE writes them as well."""

import os
from pathlib import Path

import pytest
import torch

from benchmarks.harness import Case, Report, format_table, machine, measure

_reports: list[Report] = []


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--table", metavar="FILE", help="also write the tables to FILE, in Markdown")


def pytest_configure(config: pytest.Config) -> None:
    torch.set_num_threads(os.cpu_count() or 1)


@pytest.fixture
def compare(benchmark):
    """Measures a case and hands its last path to pytest-benchmark."""

    def run(case: Case) -> Report:
        report = measure(case)
        _reports.append(report)
        for line in report.table():
            print("  ".join(v for v in line.values() if v), flush=True)
        wrong = [row.path for row in report.rows if row.seconds is None]
        ours = list(case.paths)[-1]
        if ours in wrong:
            pytest.fail(f"{case.name}: {report.rows[-1].failure or f'wrong result, {report.rows[-1].error:.1e}'}")
        benchmark.extra_info.update({row.path: row.seconds for row in report.rows})
        benchmark.pedantic(case.paths[ours], rounds=1)
        return report

    return run


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
    if not _reports:
        return
    text = format_table([line for report in _reports for line in report.table()])
    terminalreporter.write_line("")
    terminalreporter.write_line(machine())
    terminalreporter.write_line(text)
    if config.getoption("--table"):
        command = "pytest " + " ".join(config.invocation_params.args)
        Path(config.getoption("--table")).write_text(f"`{command}`\n\n{machine()}\n\n{text}\n")
