"""`digan report`: one HTML page that compares runs: their options, curves and samples."""

from __future__ import annotations

import argparse
import base64
import io
import os
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import matplotlib  # noqa: F401 (the charts need it: without it, the command ends before it reads anything)
from PIL import Image

from digan.cli.options import OptionParser
from digan.config import TrainConfig, flag
from digan.errors import ConfigError
from digan.files import write_atomic
from digan.run_dir import (
    SAMPLES,
    STATISTICS,
    is_run,
    list_metrics,
    list_runs,
    list_samples,
    list_snapshots,
    number_of,
    read_config,
    read_records,
    start_name,
)
from digan.run_results import best_result, own_results
from digan.training import curves, summary
from digan.wording import counted

TEMPLATE = "report.html"
STRIP_WIDTH = 400  # pixels of the samples of one snapshot


@dataclass
class Strip:
    """The samples of one snapshot, as a data URI, or the real clips."""

    title: str
    source: str
    width: int
    notes: list[str]
    best: bool = False


@dataclass
class RunFacts:
    """What the page says about a run: a name, its colour in the charts, and the cells of its row in the table."""

    name: str
    colour: str
    cells: dict[str, str]
    strips: list[Strip]


def configure(parser: OptionParser) -> None:
    """Add the options of the command."""
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN", help="run folders, or folders of runs")
    parser.add_argument("--output", "-o", type=Path, default=Path("report.html"), help="HTML file [report.html]")


def run(args: argparse.Namespace) -> int:
    """Write the page and return the exit status."""
    problems: list[str] = []
    runs = _find_runs(args.runs)
    page = render(runs, problems.append)
    try:
        write_atomic(args.output, page)
    except OSError as error:
        raise ConfigError(f"--output {args.output} cannot be written: {error.strerror or error}.") from None
    for problem in problems:
        print(f"  problem: {problem}")
    print(f"{args.output}: {counted(len(runs), 'run')}, {args.output.stat().st_size / 2**20:.1f} MiB")
    return 0


def render(runs: Sequence[Path], report: Callable[[str], None]) -> str:
    """Return the page about some runs.

    Args:
        runs: run folders.
        report: called with a sentence about each file of which a part had to be skipped.

    Raises:
        ConfigError: the configuration of a run is damaged.
    """
    configs = [read_config(run) for run in runs]
    differing, common = _options(configs)
    names = _names(runs)
    facts = [
        RunFacts(name, curves.COLOURS[i % len(curves.COLOURS)], _cells(run, config), _strips(run, config, report))
        for i, (name, run, config) in enumerate(zip(names, runs, configs, strict=True))
    ]
    source = resources.files(__package__).joinpath(TEMPLATE).read_text(encoding="utf-8")
    template = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined).from_string(source)
    return template.render(
        runs=facts,
        columns=list(dict.fromkeys(name for each in facts for name in each.cells)),
        differing=differing,
        common=common,
        charts=[curves.svg(chart) for chart in curves.read_charts(runs, report)],
        time=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )


def _find_runs(paths: Sequence[Path]) -> list[Path]:
    """Return the run folders among some paths and in them, each once."""
    runs: dict[Path, Path] = {}
    for path in paths:
        folders = [path] if is_run(path) else [folder for folder in list_runs(path) if is_run(folder)]
        if not folders:
            raise ConfigError(f"{path} is neither a run folder nor a folder of runs; give the folder of a run.")
        runs |= {folder.resolve(): folder for folder in folders}
    return list(runs.values())


def _names(runs: Sequence[Path]) -> list[str]:
    """Return short names of runs: those of their folders, with the paths where runs share a name."""
    names = [run.resolve().name for run in runs]
    return [str(run) if names.count(name) > 1 else name for run, name in zip(runs, names, strict=True)]


def _options(configs: Sequence[TrainConfig]) -> tuple[list[tuple[str, list[Any]]], list[tuple[str, Any]]]:
    """Return the options that differ between runs, with the value in each run, and those that all runs share."""
    values = {flag(f.name): [getattr(config, f.name) for config in configs] for f in fields(TrainConfig)}
    differing = [(name, each) for name, each in values.items() if any(value != each[0] for value in each)]
    return differing, [(name, each[0]) for name, each in values.items() if all(value == each[0] for value in each)]


def _cells(run: Path, config: TrainConfig) -> dict[str, str]:
    """Return the cells of a run in the table of runs; what its records lack is missing."""
    records = read_records(run / STATISTICS)
    cells = {"kimg": f"{max(_finite(records, 'clips'), default=0) / 1000:g} of {config.kimg:g}"}
    for name in list_metrics(run):
        results = _comparable(run, config, name)
        if best := best_result(results):
            place = f"{best['clips'] / 1000:g} kimg" if best["clips"] else start_name(config)
            cells[f"best {name}"] = f"{best['value']:.5g} at {place}"
            cells[f"last {name}"] = f"{results[-1]['value']:.5g}"
    if speeds := _finite(records, "clips_per_second"):
        middle = statistics.median_low(speeds)
        cells["median speed"] = summary.speed(next(r for r in records if r.get("clips_per_second") == middle))
    for name, title in (("memory_gb", "peak memory"), ("gpu_memory_gb", "peak GPU memory")):
        if sizes := _finite(records, name):
            cells[title] = f"{max(sizes):.1f} GiB"
    if timed := [record for record in records if curves.is_finite(record.get("seconds"))]:
        cells["time"] = summary.clock(_total(timed))
    cells["snapshots"] = str(len(list_snapshots(run)))
    return cells


def _finite(records: Sequence[dict[str, Any]], name: str) -> list[float]:
    return [record[name] for record in records if curves.is_finite(record.get(name))]


def _comparable(run: Path, config: TrainConfig, metric: str) -> list[dict[str, Any]]:
    """Return the results of a metric among which the best is looked for: not that of an untrained generator.

    What `--init` named counts: if it is better than every snapshot, fine-tuning has not helped.
    """
    return [result for result in own_results(run, metric) if result["clips"] > 0 or config.init is not None]


def _total(records: Sequence[dict[str, Any]]) -> float:
    """Return the time of a whole run, from the times since its start or the last time that it was resumed."""
    sessions: dict[Any, float] = {}
    session, before = 0, 0.0
    for record in records:
        session += record["seconds"] < before  # records of older versions do not say when their session started
        before = sessions[record.get("started", session)] = record["seconds"]
    return sum(sessions.values())


def _strips(run: Path, config: TrainConfig, report: Callable[[str], None]) -> list[Strip]:
    """Return the real clips and the samples of every snapshot, for which all latents are the same."""
    notes: dict[str, list[str]] = {}
    best_numbers = set()
    start = start_name(config)  # older versions recorded every start as "untrained"
    for name in list_metrics(run):
        best = best_result(_comparable(run, config, name))
        for result in own_results(run, name):
            number = number_of(Path(str(result.get("snapshot")))) if result["clips"] else start
            text = f"{name} {result['value']:.5g}"
            notes.setdefault(number, []).append(f"{text}, the best" if result == best else text)
            if result == best:
                best_numbers.add(number)
    strips = []
    for number, file in {"real clips": run / SAMPLES / "reals.png", **list_samples(run, start)}.items():
        title = f"{float(number):g} kimg" if number[0].isdigit() else number
        if picture := _picture(file, report):
            strips.append(Strip(title, *picture, notes.get(number, []), number in best_numbers))
    return strips


def _picture(file: Path, report: Callable[[str], None]) -> tuple[str, int] | None:
    """Return a picture as the data URI of a small JPEG, and its width; None if there is none that can be read."""
    if not os.path.lexists(file):
        return None
    try:
        with Image.open(file) as image:
            small = image.convert("RGB")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        report(f"{file} is not shown: {str(error).rstrip('.')}.")
        return None
    if small.width > STRIP_WIDTH:
        size = (STRIP_WIDTH, max(1, round(small.height * STRIP_WIDTH / small.width)))
        small = small.resize(size, Image.Resampling.LANCZOS)
    content = io.BytesIO()
    small.save(content, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(content.getvalue()).decode()}", small.width
