"""The table row of a finished run, and the refusal to compare on one core."""

import json
import os

import pytest

from benchmarks import learning
from digan.run_dir import STATISTICS


def write(path, records) -> None:
    path.write_text("".join(json.dumps(record) + "\n" for record in records))


def test_outcome_of_a_run(tmp_path):
    write(tmp_path / STATISTICS, [{"clips": 1000, "clips_per_second": 10.0}, {"clips": 4000, "clips_per_second": 20.0}])
    write(tmp_path / "metric-rfvd16_16f.jsonl", [{"kimg": 0, "value": 90.04}, {"kimg": 4, "value": 12.34}])
    row = learning.outcome(tmp_path, "ours", 3)
    assert row.pop("seconds") == 1000 / 10 + 3000 / 20
    assert row == {"path": "ours", "seed": "3", "kimg": "4", "rfvd16_16f untrained": "90.0", "trained": "12.3"}


def test_one_core_is_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0}, raising=False)
    with pytest.raises(SystemExit, match="needs two cores; this process has one"):
        learning.compare([0], tmp_path, [], [])
