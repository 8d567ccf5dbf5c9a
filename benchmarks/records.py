"""The measurements of a run as plain data: one record for each path of each case, and the machine; the file of both."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.budget import quartiles
from benchmarks.device import commit, description, device, pick, tf32
from benchmarks.harness import CPU_PRECISIONS, CUDA_PRECISIONS, Measured, Report
from benchmarks.limits import copy_ceiling, gemm_ceiling

Record = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """The file of a run: its command, the size of the cases, its seconds, the machine, and all rows."""

    command: str
    size: str
    seconds: int
    machine: Record
    rows: list[Record]

    @classmethod
    def read(cls, path: Path) -> Run:
        return cls(**json.loads(path.read_text(encoding="utf-8")))

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(asdict(self), indent=1) + "\n", encoding="utf-8")


def by_case(rows: Sequence[Record]) -> list[list[Record]]:
    """Return the rows of each case."""
    groups: dict[tuple[str, str], list[Record]] = {}
    for row in rows:
        groups.setdefault((row["case"], row["dtype"]), []).append(row)
    return list(groups.values())


def records(report: Report) -> list[Record]:
    """Return the record of every path of a case."""
    return [_record(report, row) for row in report.rows]


def _record(report: Report, row: Measured) -> Record:
    case = report.case
    record = {
        "case": case.name,
        "dtype": case.type_name,
        "path": row.path,
        "seconds": row.seconds,
        "rounds": len(row.times),
        "error": row.error if row.error == row.error else None,
        "failure": row.failure,
    }
    if row.seconds is None:
        return record
    low, high = quartiles(row.times)
    rates = {"flop_per_second": case.flops, "bytes_per_second": case.moved}
    return record | {
        "quartiles": [low, high],
        "peak_bytes": row.peak,
        **{name: amount / row.seconds for name, amount in rates.items() if amount},
        **({"amount": list(case.amount)} if case.amount else {}),
        **({"work": {"flops": case.work.flops, "bytes": case.work.bytes}} if case.work else {}),
        **({"of_roofline": report.roofline / row.seconds} if report.roofline else {}),
        **({"of_limits": row.shares} if row.shares else {}),
        **({"scaling": list(case.scaling)} if case.scaling else {}),
    }


def machine() -> Record:
    """Return the machine, and its limits, measured in this run."""
    peaks = {}
    for precision in pick(cpu=CPU_PRECISIONS, cuda=CUDA_PRECISIONS):
        with tf32(precision.tf32):
            peaks[precision.name] = gemm_ceiling(precision.dtype)
    return {
        "device": device().type,
        "description": description(),
        "commit": commit(),
        "date": time.strftime("%Y-%m-%d"),
        "flop_per_second": peaks,
        "bytes_per_second": copy_ceiling(),
    }


def machine_text(machine: Record) -> str:
    """Return a line that describes a machine."""
    peaks = ", ".join(f"{name} {peak / 1e9:.0f}" for name, peak in machine["flop_per_second"].items())
    at = f"commit {machine['commit']}, " if machine["commit"] else ""
    return (
        f"{machine['description']}; {at}{machine['date']}; peak of matrix products: {peaks} GFLOP/s, "
        f"copies {machine['bytes_per_second'] / 1e9:.0f} GB/s"
    )
