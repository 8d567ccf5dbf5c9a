"""Layout of a run folder, and reading of its files: the configuration, and records, one JSON object per line."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

from digan.config import TrainConfig, check
from digan.errors import ConfigError
from digan.files import parse_json, remove_drafts, write_atomic
from digan.wording import counted, first_few

CONFIG = "config.json"
STATISTICS = "stats.jsonl"
# Fields of a record of the statistics, apart from the mean losses and the number of non-finite gradient values.
TICK_FACTS = (
    "clips",
    "iteration",
    "seconds",
    "started",
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
UNTRAINED = "untrained"
_LAUNCH = ".launch"  # names the launch that last trained the run
_SNAPSHOT = "network-snapshot-"
_METRIC = "metric-"
_FAKES = re.compile(r"fakes(?:_init|(\d+(?:\.\d+)?))\.png")
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


def number_of(snapshot: Path) -> str:
    """Return the number in the name of a snapshot, such as "000400"."""
    return snapshot.stem.removeprefix(_SNAPSHOT)


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


def start_name(config: TrainConfig) -> str:
    """Return what the generator of a run is called before the first step, in records and reports."""
    return UNTRAINED if config.init is None else "start (--init)"


def list_samples(run: Path, start: str = UNTRAINED) -> dict[str, Path]:
    """Return the still pictures of the samples of a run, keyed by the number of the snapshot, oldest first.

    Args:
        run: the run folder.
        start: the key of the samples from before the first step.
    """
    matches = [(_FAKES.fullmatch(file.name), file) for file in run.glob(f"{SAMPLES}/fakes*.png")]
    numbered = [(match[1] or start, file) for match, file in matches if match]
    return dict(sorted(numbered, key=lambda item: _digits(item[0])))


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
    write_atomic(run / _LAUNCH, launch.encode())


def run_of_launch(outdir: str | Path, launch: str) -> Path | None:
    """Return the run that a launch trains; None if it has not started one yet."""
    marks = ((run, run / _LAUNCH) for run in reversed(list_runs(outdir)))
    return next((run for run, mark in marks if mark.is_file() and mark.read_bytes() == launch.encode()), None)


def is_run(folder: Path) -> bool:
    """Return whether a folder was created by a training run."""
    return (folder / CONFIG).is_file() and (folder / "command.sh").is_file()


def run_of(folder: Path) -> Path | None:
    """Return the run that a folder is, or whose snapshots it holds; None if it is neither."""
    return next((path for path in (folder, folder.absolute().parent) if is_run(path)), None)


def clean(run: Path) -> int:
    """Remove the drafts of files that killed processes left in a run folder, and return their number."""
    folders = (run, *(run / name for name in (SAMPLES, SNAPSHOTS, CHECKPOINTS, DIVERGED)))
    return sum(len(remove_drafts(folder)) for folder in folders)


def read_config(run: Path) -> TrainConfig:
    """Return the configuration of a run; fields that it lacks have their defaults.

    Raises:
        ConfigError: config.json is damaged.
    """
    path = run / CONFIG
    try:
        return check(TrainConfig(**known_fields(TrainConfig, parse_json(path.read_bytes()))))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is damaged or was changed ({str(error).rstrip('.')}).") from None


def known_fields(cls: type, values: Any) -> dict[str, Any]:
    """Return the values for which a configuration class has a field; a stored file may be from another version.

    `digan.config.check_values` checks them.

    Raises:
        ValueError: there are no values by name.
    """
    if not isinstance(values, dict):
        raise ValueError("it is not a JSON object")
    names = {field.name for field in fields(cls)}
    return {name: value for name, value in values.items() if name in names}


def append_record(path: Path, record: dict[str, Any]) -> None:
    """Append a record to a file, on a line of its own even if the last one was cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab+") as file:
        if file.tell():
            file.seek(-1, os.SEEK_END)
            if file.read() != b"\n":
                file.write(b"\n")
        file.write(json.dumps(record).encode() + b"\n")


def read_records(path: Path, report: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Return the records of a file, or an empty list if it does not exist.

    Args:
        path: the file.
        report: called with a sentence if lines were skipped because they hold no record, such as a line that was cut
            off, or if the file cannot be read.
    """
    records, skipped = [], []
    for number, line in enumerate(_lines(path, report), 1):
        try:
            record = parse_json(line) if line.strip() else {}
        except ValueError:
            record = None
        if not _is_record(record):
            skipped.append(number)
        elif record:
            records.append(record)
    if skipped and report is not None:
        numbers = first_few([str(number) for number in skipped])
        report(f"{path}: {counted(len(skipped), 'line')} without a complete record skipped ({numbers}).")
    return records


def _lines(path: Path, report: Callable[[str], None] | None) -> list[bytes]:
    try:
        return path.read_bytes().split(b"\n") if os.path.lexists(path) else []
    except OSError as error:
        if report is not None:
            report(f"{path} cannot be read: {error.strerror}.")
        return []


def _is_record(record: Any) -> bool:
    """Return whether a value is a JSON object in which the fields that other code computes with are numbers."""
    if not isinstance(record, dict):
        return False
    return all(_is_number(record[name]) for name in ("value", *TICK_FACTS) if name in record)


def _is_number(value: Any) -> bool:
    """Return whether a value is a float, or an integer that a float can hold."""
    return isinstance(value, float) or (type(value) is int and abs(value) < 2**63)


def is_own(record: dict[str, Any]) -> bool:
    """Return whether a record was written by the run itself, not by `digan evaluate`, whose records have a `row`."""
    return "clips" in record and "row" not in record


def drop_records(path: Path, clips: int, report: Callable[[str], None] | None = None) -> None:
    """Remove the records of a file beyond `clips` clips, which a resumed run will write again, and damaged ones.

    Results that `digan evaluate` appended stay: each names the network file it belongs to.

    Args:
        path: the file; it need not exist.
        clips: number of clips that the resumed run has seen.
        report: called with a sentence about damaged lines.
    """
    if path.is_file():
        kept = [record for record in read_records(path, report) if not is_own(record) or record["clips"] <= clips]
        write_atomic(path, "".join(json.dumps(record) + "\n" for record in kept))
