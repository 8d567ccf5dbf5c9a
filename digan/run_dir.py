"""Layout of a run folder, and reading of its files: the configuration, and records, one JSON object per line."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

from digan.files import atomic_path, parse_json

STATISTICS = "stats.jsonl"
# Fields of a record of the statistics, apart from the mean losses and the number of non-finite gradient values.
TICK_FACTS = (
    "clips",
    "iteration",
    "seconds",
    "clips_per_second",
    "tflops_per_second",
    "share_of_peak",
    "memory_gb",
    "gpu_memory_gb",
)
SNAPSHOTS = "snapshots"
CHECKPOINTS = "checkpoints"
DIVERGED = "diverged"  # the state of a run that diverged, which must replace no checkpoint
SAMPLES = "samples"
_LAUNCH = ".launch"  # names the launch that last trained the run
_SNAPSHOT = "network-snapshot-"
_METRIC = "metric-"
_RUN = re.compile(r"^\d{5}(-.*)?$")


def snapshot_number(clips: int, batch: int) -> str:
    """Return the kimg that names a snapshot and its samples: "000400", or "000400.016" between whole kimg.

    The first step that reaches a whole kimg gets the plain number, even if the batch size does not divide it and the
    step goes beyond. So two steps never share a name, and a step that a resumed run repeats gets the same name.
    """
    kimg, rest = divmod(clips, 1000)
    return f"{kimg:06d}" if rest < batch else f"{kimg:06d}.{rest:03d}"


def snapshot_path(run: Path, number: str) -> Path:
    """Return the path of the network of a snapshot."""
    return run / SNAPSHOTS / f"{_SNAPSHOT}{number}.safetensors"


def list_snapshots(folder: Path, until: str | None = None) -> list[Path]:
    """Return the network snapshots of a run folder, or of its snapshots folder, oldest first.

    Args:
        folder: the run folder or its snapshots folder.
        until: number of the last snapshot to return; None for all snapshots.
    """
    files = [*folder.glob(f"{_SNAPSHOT}*.safetensors"), *folder.glob(f"{SNAPSHOTS}/{_SNAPSHOT}*.safetensors")]
    return sorted(
        (f for f in files if until is None or _digits(f.stem) <= _digits(until)), key=lambda f: _digits(f.stem)
    )


def _digits(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def metric_path(run: Path, metric: str) -> Path:
    """Return the file that holds the results of a metric."""
    return run / f"{_METRIC}{metric}.jsonl"


def list_metrics(run: Path) -> dict[str, Path]:
    """Return the files of metric results in a run folder, keyed by metric name."""
    return {file.stem.removeprefix(_METRIC): file for file in sorted(run.glob(f"{_METRIC}*.jsonl"))}


def list_runs(outdir: str | Path) -> list[Path]:
    """Return the run folders `00000-...` under `outdir`, oldest first."""
    return sorted(p for p in Path(outdir).glob("*") if _RUN.match(p.name))


def mark_launch(run: Path, launch: str) -> None:
    """Note in a run folder which launch trains it, so that processes that its launcher restarts find the run."""
    with atomic_path(run / _LAUNCH) as draft:
        draft.write_text(launch)


def run_of_launch(outdir: str | Path, launch: str) -> Path | None:
    """Return the run that a launch trains; None if it has not started one yet."""
    marks = ((run, run / _LAUNCH) for run in reversed(list_runs(outdir)))
    return next((run for run, mark in marks if mark.is_file() and mark.read_text() == launch), None)


def is_run(folder: Path) -> bool:
    """Return whether a folder was created by a training run."""
    return (folder / "config.json").is_file() and (folder / "command.sh").is_file()


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a file, or an empty list if it does not exist.

    Reading ends at the first line that is not valid JSON, such as a last line that was cut off.
    """
    records = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            records.append(parse_json(line))
        except ValueError:
            break
    return records


def known_fields(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """Return the values for which a configuration class has a field; a stored file may be from another version."""
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in values.items() if name in names}


def is_own(record: dict[str, Any]) -> bool:
    """Return whether a record was written by the run itself, not by `digan evaluate`, whose records have a `row`."""
    return "clips" in record and "row" not in record


def drop_records(path: Path, clips: int) -> None:
    """Remove the records of a file beyond `clips` clips, which a resumed run will write again.

    Results that `digan evaluate` appended stay: each names the network file it belongs to.
    """
    if path.is_file():
        kept = [record for record in read_records(path) if not is_own(record) or record["clips"] <= clips]
        path.write_text("".join(json.dumps(record) + "\n" for record in kept))
