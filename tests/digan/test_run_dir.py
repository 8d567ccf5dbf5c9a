"""Names in a run folder, and records that are read back."""

import pytest

from digan import run_dir
from digan.errors import ConfigError


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


def test_the_run_of_a_launch_is_found_whatever_stands_in_its_mark(tmp_path):
    for name in ("00000-a", "00001-b", "00002-c"):
        (tmp_path / name).mkdir()
        run_dir.mark_launch(tmp_path / name, f"job {name}")
    (mark,) = (tmp_path / "00001-b").iterdir()
    mark.write_bytes(b"\xff\x00")
    assert run_dir.run_of_launch(tmp_path, "job 00000-a") == tmp_path / "00000-a"
    assert run_dir.run_of_launch(tmp_path, "job 00001-b") is None


def test_records_around_damaged_lines_are_kept_and_the_damage_is_reported(tmp_path):
    file, reports = tmp_path / "stats.jsonl", []
    assert run_dir.read_records(file, reports.append) == []
    assert not reports
    damaged = [b'{"clips": 1', b"\x80\xff", b"[1]", b"null", b'{"clips": "8"}', b'{"seconds": [1]}', b"[" * 100_000]
    file.write_bytes(b'{"clips": 8}\n' + b"\n".join(damaged) + b'\n\n{"clips": 16}\n{"cl')
    assert run_dir.read_records(file, reports.append) == [{"clips": 8}, {"clips": 16}]
    assert reports == [f"{file}: 8 lines without a complete record skipped (2, 3, 4, 5, 6, …)."]


def test_a_record_after_a_line_that_was_cut_off_has_its_own_line(tmp_path):
    file = tmp_path / "new" / "stats.jsonl"
    run_dir.append_record(file, {"clips": 8})
    with file.open("a") as stream:
        stream.write('{"cl')
    run_dir.append_record(file, {"clips": 16})
    assert run_dir.read_records(file) == [{"clips": 8}, {"clips": 16}]


def test_a_file_that_cannot_be_read_is_reported(tmp_path):
    reports = []
    assert run_dir.read_records(tmp_path, reports.append) == []
    assert reports == [f"{tmp_path} cannot be read: Is a directory."]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"\x80", b'{"data": "x", "batch": "8"}', b'{"data": "x", "kimg": 1e999}', b'{"data": 1}']
)
def test_a_damaged_configuration_is_named(tmp_path, content):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ConfigError, match=r"config\.json is damaged or was changed"):
        run_dir.read_config(tmp_path)


def test_drafts_of_killed_runs_are_removed_and_nothing_else(tmp_path):
    drafts = ["samples/.fakes000400.0123abcd.mp4", "snapshots/.tmpAb1c2D", "checkpoints/.checkpoint-000000016.partial"]
    drafts += ["snapshots/.network-snapshot-000400.89abcdef.safetensors", ".stats.0123abcd.jsonl"]
    kept = ["samples/fakes000400.mp4", "samples/.DS_Store", ".lock", ".gitignore", "snapshots/.keep.txt", "stats.jsonl"]
    for name in drafts + kept:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert run_dir.clean(tmp_path) == len(drafts)
    assert {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()} == set(kept)


def test_metrics_are_named_by_their_files(tmp_path):
    run_dir.metric_path(tmp_path, "rfvd256_16f").touch()
    assert run_dir.list_metrics(tmp_path) == {"rfvd256_16f": tmp_path / "metric-rfvd256_16f.jsonl"}


def test_samples_are_listed_by_number(tmp_path):
    folder = tmp_path / run_dir.SAMPLES
    folder.mkdir()
    for stem in ("fakes000010", "fakes000009.500", "fakes_init", "reals", "fakes1x"):
        (folder / f"{stem}.png").touch()
    (folder / "fakes000020.mp4").touch()
    assert list(run_dir.list_samples(tmp_path)) == ["untrained", "000009.500", "000010"]
    assert run_dir.list_samples(tmp_path)["untrained"].name == "fakes_init.png"
    assert list(run_dir.list_samples(tmp_path, "start")) == ["start", "000009.500", "000010"]


def test_the_number_of_a_snapshot_is_that_of_its_name(tmp_path):
    assert run_dir.number_of(run_dir.snapshot_path(tmp_path, "000000.016")) == "000000.016"


def test_the_run_of_a_folder(tmp_path):
    run = tmp_path / "00000-x"
    (run / run_dir.SNAPSHOTS).mkdir(parents=True)
    assert run_dir.run_of(run) is None
    for name in (run_dir.CONFIG, "command.sh"):
        (run / name).touch()
    assert run_dir.run_of(run) == run_dir.run_of(run / run_dir.SNAPSHOTS) == run
