"""Results of a run's metrics, and the snapshot that is best by them."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Callable, Collection, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from digan.errors import ConfigError, NetworkNotFound
from digan.files import parse_json, write_atomic
from digan.run_dir import is_own, list_metrics, list_snapshots, metric_path, read_config, read_records, run_of

BEST = "best.json"
WHICH = ("latest", "best")  # snapshots of a run that can be asked for


def own_results(run: Path, metric: str, report: Callable[[str], None] | None = None) -> list[dict[str, Any]]:
    """Return the results of a metric for the networks of a run, by clips seen; of equal clips, the last one.

    Args:
        run: the run folder.
        metric: name of the metric.
        report: called with a sentence about skipped lines, as by `read_records`.
    """
    records = read_records(metric_path(run, metric), report)
    results = {record["clips"]: record for record in records if is_own(record) and "value" in record}
    return [results[clips] for clips in sorted(results)]


def own_context(clips: int, snapshot: str) -> dict[str, Any]:
    """Return what `metrics.append_result` records with a result that is the run's own.

    Args:
        clips: number of real clips that the generator has seen.
        snapshot: name of the generator's file, or what it is called before the first step.
    """
    return {"clips": clips, "snapshot": snapshot, "time": datetime.now(UTC).isoformat(timespec="milliseconds")}


def best_result(results: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the best of the finite results of one metric, the first among equal ones; None if there is none."""
    finite = [result for result in results if math.isfinite(result["value"])]
    larger = any(result.get("better") == "larger" for result in finite)
    return (max if larger else min)(finite, key=lambda result: result["value"], default=None)


def refresh_best(run: Path, without: Collection[str] = ()) -> dict[str, Any] | None:
    """Write best.json, or remove it if no snapshot has a result, and return its content.

    Args:
        run: the run folder.
        without: names of snapshots that do not count, because they cannot be read.
    """
    best = _compute_best(run, without)
    if best is None:
        (run / BEST).unlink(missing_ok=True)
    else:
        write_atomic(run / BEST, json.dumps(best) + "\n")
    return best


def best_snapshot(folder: Path) -> Path:
    """Return the best snapshot of a run, given its folder or its snapshots folder.

    best.json names it. If it is missing, or names no snapshot of the run, the records of the metrics decide.

    Raises:
        NetworkNotFound: no snapshot has a result.
    """
    run = run_of(folder) or folder
    data = "" if run_of(folder) else " --data DIR"
    files = {file.name: file for file in list_snapshots(folder)}
    for find in (_read_best, _compute_best):
        best = find(run)
        if best is not None and best["snapshot"] in files:
            return files[best["snapshot"]]
    raise NetworkNotFound(
        f"no snapshot in {folder} has a result of a metric, so none is known to be the best: evaluate them with "
        f"`digan evaluate --network {shlex.quote(str(run))}{data} --snapshots all`, or take the latest."
    )


def _read_best(run: Path) -> dict[str, Any] | None:
    try:
        best = parse_json((run / BEST).read_bytes())
    except (OSError, ValueError):
        return None
    return best if isinstance(best, dict) and isinstance(best.get("snapshot"), str) else None


def _compute_best(run: Path, without: Collection[str] = ()) -> dict[str, Any] | None:
    """Return the content of best.json, by the first metric that has results for snapshots that are there."""
    names = {file.name for file in list_snapshots(run)} - set(without)
    for metric in _metrics(run):
        results = [result for result in own_results(run, metric) if _names(result) in names]
        best = best_result(results)
        if best is not None:
            kimg = best["clips"] / 1000
            return {"metric": metric, "value": best["value"], "kimg": kimg, "snapshot": best["snapshot"]}
    return None


def _recorded(run: Path, metric: str) -> str:
    """Return the time of the first result of a metric for the networks of a run; "" if it is not known."""
    records = filter(is_own, read_records(metric_path(run, metric)))
    return min((str(record.get("time", "")) for record in records), default="")


def _names(result: dict[str, Any]) -> str | None:
    snapshot = result.get("snapshot")
    return snapshot if isinstance(snapshot, str) else None


def _metrics(run: Path) -> list[str]:
    """Return the metrics that have records: those of the run's configuration in its order, then in that of recording.

    The first recorded metric is the one that was asked for first. Records of older versions state no time: they come
    before the others.
    """
    recorded = sorted(list_metrics(run), key=lambda metric: _recorded(run, metric))
    try:
        own = [name for name in read_config(run).metric_names() if name in recorded]
    except ConfigError:
        own = []
    return list(dict.fromkeys([*own, *recorded]))
