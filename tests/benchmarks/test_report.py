"""The report of runs: the README holds the table of the committed results, which are whole."""

import json
import os
import subprocess
import sys

import pytest

from benchmarks import report
from benchmarks.records import Run

RUNS = [Run.read(path) for path in sorted(report.RESULTS.glob("*.json"))]
ROW = {"case": "render", "dtype": "float32", "failure": "", "quartiles": [1.0, 1.0], "peak_bytes": 0}


@pytest.fixture
def file(tmp_path, machine):
    rows = [{**ROW, "path": "naive", "seconds": 2.0}, {**ROW, "path": "ours", "seconds": 1.0}]
    Run("pytest benchmarks/", "default", 9, machine, rows).write(tmp_path / "cpu.json")
    return tmp_path / "cpu.json"


@pytest.mark.parametrize("document", report.DOCUMENTS, ids=lambda path: path.name)
def test_documents_hold_the_committed_results(document, tmp_path):
    copy = tmp_path / document.name
    copy.write_text(text := document.read_text(encoding="utf-8"))
    report.include(copy, RUNS)
    assert copy.read_text() == text, "run: python -m benchmarks.report --include README.md docs/performance.md"


@pytest.mark.parametrize("run", RUNS, ids=lambda run: run.machine["description"])
def test_committed_results_are_one_run_of_everything(run):
    assert run.size == "default"
    assert "-k" not in run.command.split()
    assert run.machine["commit"]
    assert run.machine["date"]


def test_devices_without_a_run_are_not_measured(file):
    text = report.markdown([Run.read(file)])
    assert "| render | f32  | 1 s ±0% | 2.0x" in text
    assert text.endswith("GPU: not measured.")
    assert report.markdown([]) == "CPU: not measured.\n\nGPU: not measured."


def test_the_table_replaces_what_is_between_the_markers(file, tmp_path, capsys):
    document = tmp_path / "README.md"
    begin, end = "<!-- benchmarks -->", "<!-- /benchmarks -->"
    document.write_text(f"before\n\n{begin}\nold\n{end}\n\nafter\n")
    assert report.main([str(file), "--include", str(document), "--figures", str(tmp_path / "png")]) == 0
    text = capsys.readouterr().out.strip()
    assert document.read_text() == f"before\n\n{begin}\n\n{text}\n\n{end}\n\nafter\n"
    assert [path.name for path in (tmp_path / "png").iterdir()] == ["cpu-ratios.png"]
    document.write_text("no markers")
    with pytest.raises(SystemExit, match="has no lines"):
        report.include(document, [])


def test_a_document_may_name_the_lines_that_it_holds(file, tmp_path):
    document, run = tmp_path / "README.md", Run.read(file)
    run.rows.extend([{**row, "case": case} for row in run.rows for case in ("render 4", "siren")])
    document.write_text("<!-- benchmarks: siren f32; render f32 -->\n<!-- /benchmarks -->")
    report.include(document, [run])
    text = document.read_text()
    assert text.startswith("<!-- benchmarks: siren f32; render f32 -->\n\na processor")
    names = [line.split("|")[1].strip() for line in text.splitlines() if "| f32" in line]
    assert names == ["render", "siren"]


@pytest.mark.slow
def test_a_tiny_run_prints_a_table_and_writes_its_rows(tmp_path):
    command = ["-m", "pytest", "benchmarks/test_start.py", "--benchmark-only", "-p", "no:cacheprovider"]
    options = ["--bench-size", "tiny", "-k", "import", "--json", str(tmp_path / "run.json")]
    # Among the processes of pytest-xdist, pytest-benchmark is off.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}
    words = [sys.executable, *command, *options]
    done = subprocess.run(words, cwd=report.ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert max(len(line) for line in done.stdout.splitlines() if "import " in line) <= 100
    run = json.loads((tmp_path / "run.json").read_text())
    assert [row["case"] for row in run["rows"]] == ["import fused_inr", "from digan import Generator"]
