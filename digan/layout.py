"""Names in a run folder, and the records kept there: JSON lines that carry the number of clips seen."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

STATISTICS = "stats.jsonl"
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


def drop_records(path: Path, clips: int) -> None:
    """Removes the records of a file from after `clips` clips, which a resumed run is about to make again.

    Measurements of other things than the run, which `digan evaluate` may have appended, tell no number of clips.
    """
    if path.is_file():
        kept = [record for record in read_records(path) if record.get("clips", 0) <= clips]
        path.write_text("".join(json.dumps(record) + "\n" for record in kept))
