"""The benchmarks as a user runs them: the whole suite in its smallest size, its table, its rows, and their report."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import table
from benchmarks.records import Run
from benchmarks.report import ROOT

# Among the processes of pytest-xdist, pytest-benchmark is off.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}


def python(*words: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", *words], cwd=ROOT, env=ENVIRONMENT | environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def suite(file: Path, *options: str, **environment: str) -> tuple[str, Run]:
    words = ("pytest", "benchmarks/", "--benchmark-only", "-p", "no:cacheprovider", "--bench-size", "tiny")
    output = python(*words, "--json", str(file), *options, **environment)
    return output, Run.read(file)


@pytest.mark.ci
def test_the_whole_suite_ends_with_a_table_and_its_report(tmp_path):
    """Compiling the rivals would take most of the time, so they run as they are; the next test compiles one."""
    output, run = suite(tmp_path / "run.json", TORCH_COMPILE_DISABLE="1")
    passed, *others = re.findall(r"(\d+) (passed|failed|skipped|deselected|error)", output)
    assert passed[1] == "passed"
    assert others == []
    assert run.size == "tiny"
    assert [row for row in run.rows if row["failure"]] == []
    # Every module of benchmarks/ has measured something: there are as many dots in its line as it has cases.
    modules = sorted(path.name for path in (ROOT / "benchmarks").glob("test_*.py"))
    assert sorted(re.findall(r"^benchmarks/(test_\w+\.py) \.+ ", output, re.MULTILINE)) == modules
    text = table.plain(table.lines(run.rows))
    assert text in output
    assert max(map(len, text.splitlines())) <= table.WIDTH

    document = tmp_path / "page.md"
    document.write_text("<!-- benchmarks -->\n<!-- /benchmarks -->\n")
    options = ["--include", str(document), "--figures", str(tmp_path / "figures")]
    report = python("benchmarks.report", str(tmp_path / "run.json"), *options)
    assert table.markdown(table.lines(run.rows)) in report
    assert report.strip() in document.read_text()
    figures = {path.name for path in (tmp_path / "figures").iterdir()}
    assert figures == {"run-ratios.png", "run-roofline.png", "run-scaling.png"}


@pytest.mark.ci
def test_rivals_are_compiled(tmp_path):
    _, run = suite(tmp_path / "run.json", "-k", "test_fmm_weight")
    (compiled,) = [row for row in run.rows if row["path"] == "compiled"]
    assert compiled["seconds"] > 0
