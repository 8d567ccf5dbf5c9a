"""The results of a run, the best of them, and the snapshot that best.json names."""

import json
import math
from datetime import UTC, datetime

import pytest

from digan.errors import NetworkNotFound
from digan.files import parse_json
from digan.run_dir import append_record, is_own, metric_path, snapshot_path
from digan.run_results import BEST, best_result, best_snapshot, own_context, own_results, refresh_best

NAMES = {clips: f"network-snapshot-{clips // 1000:06d}.safetensors" for clips in (1000, 2000, 3000)}


@pytest.fixture
def run(tmp_path):
    """A run folder with three empty snapshots, whose configuration names two metrics."""
    folder = tmp_path / "00000-x"
    for clips in NAMES:
        path = snapshot_path(folder, f"{clips // 1000:06d}")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    (folder / "config.json").write_text(json.dumps({"data": "x", "metrics": "rfvd4_4f,isv8"}))
    (folder / "command.sh").touch()
    return folder


def record(run, metric, *values, **more):
    for clips, value in zip(NAMES, values, strict=True):
        append_record(metric_path(run, metric), {"value": value, "clips": clips, "snapshot": NAMES[clips], **more})


def number(path):
    return int(path.stem.rpartition("-")[2])


def test_results_are_in_order_once_each_and_the_run_s_own(run):
    record(run, "rfvd4_4f", 5.0, 4.0, 3.0)
    record(run, "rfvd4_4f", 1.0, 1.0, 1.0, row="upsample")
    file = metric_path(run, "rfvd4_4f")
    append_record(file, {"value": 6.0, "clips": 1000, "snapshot": NAMES[1000]})
    append_record(file, {"value": 9.0, "clips": 0, "snapshot": "untrained"})
    with file.open("a") as stream:
        stream.write('{"value": 1')
    reports = []
    assert [result["value"] for result in own_results(run, "rfvd4_4f", reports.append)] == [9.0, 6.0, 4.0, 3.0]
    assert len(reports) == 1


@pytest.mark.parametrize(("better", "best"), [("smaller", 1.0), ("larger", 3.0)])
def test_the_best_result_is_finite_and_in_the_direction_of_its_metric(better, best):
    values = [2.0, math.nan, 1.0, math.inf, 3.0, -math.inf]
    assert best_result([{"value": value, "better": better} for value in values])["value"] == best
    assert best_result([{"value": math.nan, "better": better}]) is None


def test_the_first_of_equal_results_is_the_best():
    assert best_result([{"value": 1.0, "clips": clips} for clips in (8, 16)])["clips"] == 8


def test_best_json_follows_the_first_metric_of_the_configuration(run):
    record(run, "fvd2048_16f", 1.0, 2.0, 3.0)
    assert refresh_best(run)["metric"] == "fvd2048_16f"
    record(run, "isv8", 1.0, 2.0, 3.0, better="larger")
    assert number(best_snapshot(run)) == 1  # best.json is as it was written
    assert refresh_best(run) == {"metric": "isv8", "value": 3.0, "kimg": 3.0, "snapshot": NAMES[3000]}
    record(run, "rfvd4_4f", 3.0, 1.0, 2.0)
    assert refresh_best(run) == parse_json((run / BEST).read_bytes())
    assert number(best_snapshot(run)) == number(best_snapshot(run / "snapshots")) == 2


def test_without_metrics_in_the_configuration_the_first_recorded_one_decides(run):
    config = json.dumps({"data": "x", "metrics": "none"})
    (run / "config.json").write_text(config)
    record(run, "rfvd9_4f", 3.0, 1.0, 2.0, time="2026-01-01T00:00:00.5+00:00")
    record(run, "isv8", 1.0, 2.0, 3.0, time="2026-01-01T00:00:01.5+00:00", better="larger")
    record(run, "fvd2048_16f", 1.0, 2.0, 3.0, time="2025-01-01T00:00:00+00:00", row="upsample")
    record(run, "fvd2048_16f", 1.0, 2.0, 3.0, time="2026-01-02T00:00:00+00:00")
    assert refresh_best(run)["metric"] == "rfvd9_4f"
    record(run, "rfvd9_4f", 3.0, 1.0, 2.0, time="2026-01-03T00:00:00+00:00")  # computed again
    assert refresh_best(run)["metric"] == "rfvd9_4f"
    record(run, "kvd4_4f", 3.0, 1.0, 2.0)  # of a version that recorded no time
    assert refresh_best(run)["metric"] == "kvd4_4f"


def test_the_run_s_own_results_state_their_time():
    context = own_context(8, "x")
    assert datetime.fromisoformat(context["time"]).tzinfo == UTC
    assert is_own(context)


def test_results_of_networks_that_are_gone_do_not_count(run):
    record(run, "rfvd4_4f", 3.0, 1.0, 2.0)
    append_record(metric_path(run, "rfvd4_4f"), {"value": 0.5, "clips": 0, "snapshot": "untrained"})
    append_record(metric_path(run, "rfvd4_4f"), {"value": 0.1, "clips": 8, "snapshot": ["x"]})
    refresh_best(run)
    (run / "snapshots" / NAMES[2000]).unlink()
    assert number(best_snapshot(run)) == 3
    assert refresh_best(run)["snapshot"] == NAMES[3000]
    metric_path(run, "rfvd4_4f").unlink()
    assert refresh_best(run) is None
    assert not (run / BEST).exists()


@pytest.mark.parametrize("content", [None, b"", b'{"snap', b"[1]", b'{"snapshot": 1}', b'{"snapshot": "other"}'])
def test_without_a_sound_best_json_the_records_decide(run, content):
    record(run, "rfvd4_4f", 3.0, 1.0, 2.0)
    if content is not None:
        (run / BEST).write_bytes(content)
    (run / "config.json").write_text("{")
    assert number(best_snapshot(run)) == 2


def test_without_results_no_snapshot_is_the_best(run):
    with pytest.raises(NetworkNotFound, match=r"no snapshot in .* --snapshots all`, or take the latest\.$") as refused:
        best_snapshot(run)
    assert f"`digan evaluate --network {run} --snapshots all`" in str(refused.value)  # the run knows its videos
    (run / "command.sh").unlink()  # now it is a folder of networks
    with pytest.raises(NetworkNotFound, match=r" --data DIR --snapshots all`, or take the latest\.$"):
        best_snapshot(run)
