"""Draw the figures of runs, and print the table that the README includes.

    python -m benchmarks.report FILE... [--figures DIR] [--include README.md ...]
    python -m benchmarks.report --run [options of pytest]       measure everything on this machine first

FILE is what `pytest benchmarks/ --benchmark-only --json FILE` wrote. Without one, the files of benchmarks/results are
taken. `--include` replaces the text between the markers `<!-- benchmarks -->` and `<!-- /benchmarks -->` of a document
with the table; the lines of `<!-- benchmarks: NAME; NAME -->` alone if their names are given. `--run` measures, writes
the results, their figures and the tables of README.md and docs/performance.md, and is all that a new result needs.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks import table
from benchmarks.device import description, device, use
from benchmarks.records import Run, machine_text

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
GALLERY = ROOT / "docs" / "gallery"
DOCUMENTS = [ROOT / "README.md", ROOT / "docs" / "performance.md"]
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
MARKED = re.compile(r"(<!-- benchmarks(?:: ([^>]*))? -->\n).*?(<!-- /benchmarks -->)", re.DOTALL)


def markdown(runs: Sequence[Run], names: Sequence[str] = ()) -> str:
    """Return the tables of runs, each with its command and machine; a device without a run is "not measured".

    Args:
        runs: the runs.
        names: the lines to include; all if there are none.
    """
    texts = []
    for kind, title in DEVICES.items():
        own = [run for run in runs if run.machine["device"] == kind]
        for run in own:
            lines = table.lines(run.rows)
            if names:
                lines = [line for line in lines if f"{line['what']} {line['type']}".strip() in names]
            texts.append(f"{machine_text(run.machine)}; `{run.command}`, {run.seconds} s:\n\n{table.markdown(lines)}")
        if not own:
            texts.append(f"{title}: not measured.")
    return "\n\n".join(texts)


def include(document: Path, runs: Sequence[Run]) -> None:
    """Replace what is between the markers of a document.

    Raises:
        SystemExit: it has no markers.
    """

    def text(match: re.Match) -> str:
        begin, names, end = match.groups()
        return f"{begin}\n{markdown(runs, names.split('; ') if names else ())}\n\n{end}"

    before = document.read_text(encoding="utf-8")
    if not MARKED.search(before):
        raise SystemExit(f"benchmarks.report: {document} has no lines <!-- benchmarks --> and <!-- /benchmarks -->")
    document.write_text(MARKED.sub(text, before), encoding="utf-8")


def measure(options: Sequence[str]) -> Path:
    """Run all benchmarks and return the file of the results, named after the machine."""
    use(None)
    slug = re.sub(r"[^a-z0-9]+", "-", description().split(",")[0].lower()).strip("-")
    file = RESULTS / f"{device().type}-{slug}.json"
    command = ["-m", "pytest", "benchmarks/", "--benchmark-only", "--json", str(file.relative_to(ROOT)), *options]
    if status := subprocess.run([sys.executable, *command], cwd=ROOT).returncode:
        raise SystemExit(f"benchmarks.report: pytest ended with status {status}; no document is changed")
    return file


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", type=Path, metavar="FILE")
    parser.add_argument(
        "--figures",
        type=Path,
        metavar="DIR",
        help="folder of the png files; default: beside each FILE, or docs/gallery for those of benchmarks/results",
    )
    parser.add_argument("--include", nargs="+", type=Path, default=[], metavar="DOCUMENT")
    parser.add_argument(
        "--run", nargs=argparse.REMAINDER, metavar="OPTIONS", help="measure; further options are pytest's"
    )
    options = parser.parse_args(arguments)
    if options.run is not None:
        measure(options.run)
        options.include += DOCUMENTS
    files = options.files or sorted(RESULTS.glob("*.json"))
    runs = [Run.read(file) for file in files]
    for file in files:
        from benchmarks import figures  # matplotlib is not needed for the table

        folder = options.figures or (GALLERY if file.parent == RESULTS else file.parent)
        folder.mkdir(parents=True, exist_ok=True)
        for path in figures.draw(Run.read(file), folder, file.stem):
            print(path, file=sys.stderr)
    for document in options.include:
        include(document, runs)
    print(markdown(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
