"""Names in a run folder, and records that are read back."""

import pytest

from digan import run_dir


@pytest.mark.parametrize(
    ("clips", "batch", "number"),
    [(0, 8, "000000"), (7, 8, "000000"), (16, 8, "000000.016"), (400_000, 64, "000400"), (400_063, 64, "000400")],
)
def test_a_snapshot_is_numbered_by_its_kimg(clips, batch, number):
    assert run_dir.snapshot_number(clips, batch) == number


def test_snapshots_are_listed_by_number_from_either_folder(tmp_path):
    for number in ("000010", "000009.500", "000100"):
        path = run_dir.snapshot_path(tmp_path, number)
        path.parent.mkdir(exist_ok=True)
        path.touch()
    names = ["000009.500", "000010", "000100"]
    for folder in (tmp_path, tmp_path / run_dir.SNAPSHOTS):
        assert [f.stem.rpartition("-")[2] for f in run_dir.list_snapshots(folder)] == names
    assert len(run_dir.list_snapshots(tmp_path, until="000010")) == 2


def test_runs_are_listed_oldest_first(tmp_path):
    for name in ("00001-b", "00000-a", "notes", "00002"):
        (tmp_path / name).mkdir()
    assert [p.name for p in run_dir.list_runs(str(tmp_path))] == ["00000-a", "00001-b", "00002"]


def test_records_end_at_a_line_that_was_cut_off(tmp_path):
    file = tmp_path / "stats.jsonl"
    assert run_dir.read_records(file) == []
    file.write_text('{"clips": 8}\n{"clips": 16}\n{"cl')
    assert run_dir.read_records(file) == [{"clips": 8}, {"clips": 16}]


def test_metrics_are_named_by_their_files(tmp_path):
    run_dir.metric_path(tmp_path, "rfvd256_16f").touch()
    assert run_dir.list_metrics(tmp_path) == {"rfvd256_16f": tmp_path / "metric-rfvd256_16f.jsonl"}
