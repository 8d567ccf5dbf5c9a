"""Names in a run folder, and what is read of its files: the configuration, and records, one JSON object a line."""

from __future__ import annotations

import json
import re
from dataclasses import fields
from pathlib import Path
from typing import Any

STATISTICS = "stats.jsonl"
# What a record of it holds beside the means of the losses and the number of gradient values that were not finite.
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
SAMPLES = "samples"
_SNAPSHOT = "network-snapshot-"
_METRIC = "metric-"


def snapshot_number(clips: int, batch: int) -> str:
    """The kimg that names a snapshot and its samples: "000400", or "000400.016" between whole kimg.

    The first step that reaches a whole kimg has its plain number, though a batch that does not divide it goes beyond;
    so two steps never share a name, and a step that a resumed run repeats has the same one.
    """
    kimg, rest = divmod(clips, 1000)
    return f"{kimg:06d}" if rest < batch else f"{kimg:06d}.{rest:03d}"


def snapshot_path(run: Path, number: str) -> Path:
    """Where the network of a snapshot lies."""
    return run / SNAPSHOTS / f"{_SNAPSHOT}{number}.safetensors"


def list_snapshots(folder: Path, until: str | None = None) -> list[Path]:
    """The network snapshots of a run folder, or of its snapshots folder, oldest first; up to the number `until`."""
    found = [*folder.glob(f"{_SNAPSHOT}*.safetensors"), *folder.glob(f"{SNAPSHOTS}/{_SNAPSHOT}*.safetensors")]
    return sorted(
        (f for f in found if until is None or _digits(f.stem) <= _digits(until)), key=lambda f: _digits(f.stem)
    )


def _digits(name: str) -> list[int]:
    return [int(number) for number in re.findall(r"\d+", name)]


def metric_path(run: Path, metric: str) -> Path:
    """Where the results of a metric are kept."""
    return run / f"{_METRIC}{metric}.jsonl"


def list_metrics(run: Path) -> dict[str, Path]:
    """The files of results in a run folder, by the metric's name."""
    return {file.stem.removeprefix(_METRIC): file for file in sorted(run.glob(f"{_METRIC}*.jsonl"))}


def is_run(folder: Path) -> bool:
    """Whether a folder was made by a training run."""
    return (folder / "config.json").is_file() and (folder / "command.sh").is_file()


def read_records(path: Path) -> list[dict[str, Any]]:
    """The records of a file; none if it is absent. A last line that was cut off is no record."""
    records = []
    for line in path.read_text().splitlines() if path.is_file() else ():
        try:
            records.append(json.loads(line))
        except ValueError:
            break
    return records


def known_fields(cls: type, values: dict[str, Any]) -> dict[str, Any]:
    """Those stored values that a configuration class has a field for: the file may be of another version."""
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in values.items() if name in names}


def is_own(record: dict[str, Any]) -> bool:
    """Whether a record was made by the run itself, and not by `digan evaluate`, whose results are rows of a table."""
    return "clips" in record and "row" not in record


def drop_records(path: Path, clips: int) -> None:
    """Removes the records of a file from after `clips` clips, which a resumed run is about to make again.

    Results that were appended by `digan evaluate` stay: they tell which file they are of.
    """
    if path.is_file():
        kept = [record for record in read_records(path) if not is_own(record) or record["clips"] <= clips]
        path.write_text("".join(json.dumps(record) + "\n" for record in kept))
