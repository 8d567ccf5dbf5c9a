"""The run folder: snapshots and their metadata, metrics computed after an interruption, records dropped and kept."""

import json
from types import SimpleNamespace

import pytest
import torch

from digan import Generator, metrics
from digan.errors import ConfigError
from digan.run_dir import STATISTICS, TICK_FACTS, drop_records, list_snapshots, metric_path, read_records
from digan.run_results import BEST
from digan.training import logger, summary
from digan.training.curves import CURVES
from digan.training.flops import forward_macs, step_flops
from digan.training.logger import Stopwatch

pytestmark = pytest.mark.filterwarnings("ignore:the Fréchet distance")

METRIC = "rfvd2_4f"


@pytest.fixture
def clock(monkeypatch):
    """The logger's clock, which only a test advances."""
    clock = SimpleNamespace(now=1e9)
    monkeypatch.setattr(logger, "time", SimpleNamespace(time=lambda: clock.now))
    return clock


def snapshot(run, trainer, clips):
    trainer.clips_seen = clips
    run.snapshot()


def results(run):
    return [(r["clips"], r["snapshot"], r["value"]) for r in read_records(metric_path(run.folder, METRIC))]


def test_snapshots_closer_than_a_kimg_are_all_kept(make_run):
    run, trainer = make_run()
    for clips in (16, 24, 1000, 1016):
        snapshot(run, trainer, clips)
    numbers = ["000000.016", "000000.024", "000001", "000001.016"]
    assert [file.stem.removeprefix("network-snapshot-") for file in list_snapshots(run.folder)] == numbers
    assert sorted(file.stem for file in run.folder.glob("samples/*.mp4")) == [f"fakes{number}" for number in numbers]
    assert Generator.from_pretrained(run.folder).metadata["clips_seen"] == 1016


@pytest.mark.parametrize(("cond", "names"), [(False, []), (True, ["disc", "square", "triangle"])])
def test_a_snapshot_records_its_training_data(make_run, cond, names):
    run, trainer = make_run(cond=cond, stride=2, overlap=1)
    snapshot(run, trainer, 8)
    assert Generator.from_pretrained(run.folder).metadata == {
        "clips_seen": 8,
        "data": {
            "frames": 4,
            "stride": 2,
            "overlap": 1,
            "resize": "antialias",
            "split": "train",
            "fingerprint": run.data.index.fingerprint,
            "class_names": names,
        },
    }


def test_metrics_missing_after_an_interruption_are_computed_once(make_run, monkeypatch):
    run, trainer = make_run(metrics=METRIC)
    snapshot(run, trainer, 16)
    (straight,) = results(run)
    metric_path(run.folder, METRIC).unlink()

    again, trainer = make_run(run.folder, 16, metrics=METRIC)
    torch.nn.init.zeros_(trainer.g_ema.blocks["32"].to_rgb.weight)  # the network is read from the snapshot
    metrics.append_result(
        again.folder, {"metric": METRIC, "value": 0.5}, clips=16, snapshot=straight[1], row="upsample"
    )
    again.evaluate_missing()
    assert results(again)[1:] == [straight]
    again.evaluate_missing()
    assert len(results(again)) == 2


def test_the_best_snapshot_and_the_curves_follow_every_snapshot(make_run):
    run, trainer = make_run(metrics=METRIC)
    run.evaluate(trainer.g_ema, 0, "untrained")
    assert not (run.folder / BEST).exists()
    snapshot(run, trainer, 16)
    _, (clips, name, value) = results(run)
    assert json.loads((run.folder / BEST).read_text()) == {
        "metric": METRIC,
        "value": value,
        "kimg": clips / 1000,
        "snapshot": name,
    }
    drawn = (run.folder / CURVES).read_bytes()
    torch.nn.init.constant_(trainer.g_ema.blocks["32"].to_rgb.bias, 0.2)
    snapshot(run, trainer, 24)
    *_, best = sorted(results(run)[1:], key=lambda result: -result[2])
    assert json.loads((run.folder / BEST).read_text())["snapshot"] == best[1]
    assert (run.folder / CURVES).read_bytes() != drawn
    make_run(run.folder, 0, metrics=METRIC)  # resumed before the first snapshot, whose result goes
    assert not (run.folder / BEST).exists()


def test_a_snapshot_that_will_be_made_again_is_not_evaluated(make_run):
    run, trainer = make_run()
    snapshot(run, trainer, 16)
    snapshot(run, trainer, 24)
    again, trainer = make_run(run.folder, 16, metrics=METRIC)
    again.evaluate_missing()
    assert [(clips, name) for clips, name, _ in results(again)] == [(16, "network-snapshot-000000.016.safetensors")]


def test_a_stopwatch_leaves_out_pauses(clock):
    watch = Stopwatch()
    clock.now += 5
    assert watch.elapsed() == 5
    with watch.paused():
        clock.now += 3
        with watch.paused():
            clock.now += 20
        clock.now += 4
    assert watch.elapsed() == 5
    with pytest.raises(ZeroDivisionError), watch.paused():
        clock.now += 7 / 0
    with watch.paused():
        clock.now += 7
    clock.now += 1
    assert watch.elapsed() == 6
    watch.restart()
    clock.now += 2
    assert watch.elapsed() == 2


def test_a_damaged_snapshot_does_not_keep_a_run_from_resuming(make_run):
    run, trainer = make_run(metrics="none")
    snapshot(run, trainer, 16)
    (file,) = list_snapshots(run.folder)
    content = bytearray(file.read_bytes())
    content[-100] ^= 1
    file.write_bytes(content)
    again, trainer = make_run(run.folder, 16, metrics=METRIC)
    again.evaluate_missing()
    assert results(again) == []
    assert f"{file} is not a generator" in (run.folder / "log.txt").read_text()
    assert "its checksum differs" in (run.folder / "log.txt").read_text()


def test_a_folder_that_cannot_be_written_is_named(make_run):
    run, _ = make_run()
    (run.folder / "snapshots").touch()
    with pytest.raises(ConfigError, match=f"{run.folder / 'snapshots'}: it is not a folder"):
        make_run(run.folder)


def test_a_tick_reports_speed_and_fraction_of_peak(make_run, real_batch, clock):
    run, trainer = make_run(gamma=1.0, kimg=1.0)
    trainer.update_d([trainer.reals(real_batch(8, 0))])
    trainer.clips_seen, trainer.iteration = 40, 5
    clock.now += 10.0
    assert run.tick_due() is False
    run.tick()
    (record,) = read_records(run.folder / STATISTICS)
    assert (record["clips"], record["iteration"], record["seconds"]) == (40, 5, 10.0)
    assert record["clips_per_second"] == pytest.approx(40 / 10)
    flops = step_flops(forward_macs(run.config)).weighted(run.config) * record["clips_per_second"]
    assert record["tflops_per_second"] == pytest.approx(flops / 1e12)
    assert record["share_of_peak"] == pytest.approx(flops / run.peak)
    assert 0.05 < record["memory_gb"] < 50
    assert set(record) == {*TICK_FACTS, "loss_d", "nonfinite"} - {"gpu_memory_gb"}
    line = (run.folder / "log.txt").read_text()
    assert line.startswith("kimg 0.04/1  loss_d ")
    assert summary.speed(record) in line
    assert line.endswith(f"{record['memory_gb']:.1f} GiB  elapsed 10s  remaining 4m 0s\n")  # 960 clips
    trainer.clips_seen = 48
    clock.now += 1.0
    run.tick()
    assert read_records(run.folder / STATISTICS)[-1]["clips_per_second"] == pytest.approx(8)
    trainer.clips_seen = 1004  # the last batch goes beyond --kimg
    run.tick()
    assert (run.folder / "log.txt").read_text().endswith("remaining 0s\n")


def test_ticks_and_snapshots_are_due_once_per_interval_and_at_the_end(make_run):
    run, trainer = make_run(tick=0.016, snap=2, kimg=0.072)
    due = []
    for clips in range(0, 73, 8):
        trainer.clips_seen = clips
        due.append((run.tick_due(), run.snapshot_due()))
        if due[-1][0]:
            run._clips_at_tick = clips
        if due[-1][1]:
            run._clips_at_snapshot = clips
    assert [8 * i for i, (tick, _) in enumerate(due) if tick] == [16, 32, 48, 64, 72]
    assert [8 * i for i, (_, snap) in enumerate(due) if snap] == [32, 64, 72]


def test_records_of_the_future_go_and_those_of_evaluate_stay(tmp_path):
    file = tmp_path / "records"
    own = [{"clips": clips} for clips in (8, 16, 24)]
    others = [{"value": 1.0}, {"clips": 24, "row": "upsample"}]
    file.write_text("".join(json.dumps(record) + "\n" for record in own + others) + '{"clips": 3')  # cut off
    drop_records(file, 16)
    assert read_records(file) == own[:2] + others


@pytest.mark.parametrize("finished", [False, True], ids=["stopped", "finished"])
def test_the_end_names_what_is_there(make_run, finished):
    run, trainer = make_run(metrics=METRIC, kimg=0.016)
    trainer.clips_seen = 16 if finished else 8
    if finished:
        run.snapshot()
    else:
        run.write_fakes()
    text = summary.end(run.folder, run.config, trainer.clips_seen)
    assert text.startswith("Done." if finished else "Stopped at 0.01 of 0.016 kimg.")
    for path in ("snapshots", f"metric-{METRIC}.jsonl"):
        assert (str(run.folder / path) in text) == finished
    assert str(run.folder / "samples") in text
    assert text.endswith(f"--resume {run.folder}" + (" --kimg 0.032" if finished else ""))


def test_the_time_of_samples_and_metrics_is_not_in_the_speed(make_run, monkeypatch, clock):
    run, trainer = make_run(metrics=METRIC)
    slow = []

    def slowed(owner, name):
        work = getattr(owner, name)

        def longer(*args, **options):
            slow.append(name)
            clock.now += 50
            return work(*args, **options)

        monkeypatch.setattr(owner, name, longer)

    slowed(logger, "sample_clips")
    slowed(logger, "write_video")
    slowed(logger.checkpoint, "save")
    slowed(logger.metrics, "compute")
    slowed(type(trainer.g_ema), "save")
    run.write_reals()
    clock.now += 2
    snapshot(run, trainer, 8)
    assert slow == ["write_video", "save", "sample_clips", "write_video", "save", "compute"]
    run.tick()
    assert read_records(run.folder / "stats.jsonl")[-1]["clips_per_second"] == pytest.approx(8 / 2)


def test_the_log_takes_any_name(make_run):
    run, _ = make_run()
    run.log("a\udcff.mp4 is damaged")
    assert "a\\udcff.mp4 is damaged" in (run.folder / "log.txt").read_text("utf-8")


def test_runs_are_numbered_and_named(tiny, tmp_path):
    config = tiny(outdir=str(tmp_path), cfg="sky", desc="first", frames=4)
    assert logger.make_run_dir(config) == tmp_path / "00000-sky-32x4-batch8-first"
    (tmp_path / "00041-other").mkdir()
    (tmp_path / "notes").mkdir()
    config = tiny(outdir=str(tmp_path), data="some/videos.zip", frames=4)
    folder = logger.make_run_dir(config)
    assert folder == tmp_path / "00042-videos-32x4-batch8"
    assert folder.is_dir()
    config = tiny(outdir=str(tmp_path), data="Phone clips", desc="a  b", frames=4)
    assert logger.make_run_dir(config) == tmp_path / "00043-Phone-clips-32x4-batch8-a-b"
    for desc in ("a/b", "/a/../../b/", "a\\b"):  # a run lies in its --outdir, where commands look for it
        assert logger.make_run_dir(tiny(outdir=str(tmp_path), cfg="sky", desc=desc)).parent == tmp_path
    assert logger.make_run_dir(tiny(outdir=str(tmp_path / "new" / "runs"))).is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match=r"--outdir .*file: .* cannot be created: Not a directory"):
        logger.make_run_dir(tiny(outdir=str(tmp_path / "file")))
