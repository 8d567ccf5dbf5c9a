"""`digan info` on everything it knows, as text and as JSON, and its refusals."""

import json
import shutil
import zipfile

import pytest
import torch
from safetensors.torch import save_file

from digan import Generator, GeneratorConfig
from digan.cli.main import main
from digan.data import make_demo_videos
from digan.sampling.latents import Latents, write_latents
from digan.sampling.media import write_png

pytestmark = pytest.mark.filterwarnings("ignore:the Fréchet distance")

TINY = GeneratorConfig(resolution=32, z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8)


@pytest.fixture
def info(capsys):
    """The output of `digan info`: text, or with json=True what the JSON says."""

    def call(path, *options, json_=False):
        capsys.readouterr()
        assert main(["info", str(path), *options, *(["--json"] if json_ else [])]) == 0
        text = capsys.readouterr().out
        return json.loads(text, parse_constant=pytest.fail) if json_ else text

    return call


@pytest.fixture
def finished(make_run):
    """A run of 24 clips with two snapshots, a metric and statistics."""
    run, trainer = make_run(metrics="rfvd2_4f", kimg=0.024, cond=True, desc="mine")
    for clips in (16, 24):
        trainer.clips_seen = clips
        trainer._record("loss_g", torch.tensor(clips / 8))
        run.tick()
        run.snapshot()
    return run


@pytest.mark.parametrize("label", [None, 1])
def test_latents_of_a_clip(label, info, tmp_path):
    file, times = tmp_path / "latents.safetensors", torch.tensor([0.0, 0.5, 1.25])
    write_latents(file, Latents(torch.zeros(4, 8), torch.zeros(6), times, label), "abc", psnr=31.25)
    facts = info(file, json_=True)
    assert (facts["kind"], facts["slots"], facts["w_dim"], facts["z_dim"]) == ("latents", 4, 8, 6)
    assert (facts["times"], facts["label"]) == (times.tolist(), label)
    assert facts["metadata"] == {"format": "digan-latents-1", "network_sha256": "abc", "psnr": 31.25}
    text = info(file)
    assert "4 slots of width 8" in text
    assert "3 frames from 0 to 1.25" in text
    assert ("class" in text) == (label is not None)
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    assert main(["info", str(file)]) == 2


class TestNetwork:
    def test_what_it_is_and_what_it_was_trained_on(self, finished, info):
        facts = info(finished.folder / "snapshots", json_=True)
        g = Generator.from_pretrained(finished.folder)
        assert facts["kind"] == "network"
        assert facts["file"].endswith("network-snapshot-000000.024.safetensors")
        assert (facts["resolution"], facts["classes"], facts["nonfinite"]) == (32, 3, 0)
        assert facts["parameters"] == sum(p.numel() for p in g.parameters())
        parts = ["mapping", "heads, per clip", "rendering a frame", "  in naive form"]
        assert [part["part"] for part in facts["parts"]] == parts
        assert facts["metadata"] == g.metadata
        text = info(facts["file"])
        assert "32x32, 3 classes: disc, square, triangle" in text
        assert f"{facts['parts'][1]['parameters']:,}" in text
        assert '"fingerprint": "' in text

    def test_values_that_are_not_finite_are_a_problem(self, info, tmp_path):
        g = Generator(TINY)
        g.mapping.w_avg[:3] = float("nan")
        g.save_pretrained(tmp_path)
        assert info(tmp_path, json_=True)["nonfinite"] == 3
        assert "3 values are not finite" in info(tmp_path)

    def test_an_official_snapshot_is_sent_to_convert_unopened(self, info, tmp_path):
        file = tmp_path / "official model.pkl"
        file.write_bytes(b"\x80\x04cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
        target = tmp_path / "official model.safetensors"
        assert f"digan convert '{file}' '{target}'" in info(file)
        assert not (tmp_path / "ran").exists()


class TestRun:
    def test_progress_metrics_and_how_to_resume(self, finished, info):
        facts = info(finished.folder, json_=True)
        assert (facts["kind"], facts["clips"], facts["finished"]) == ("run", 24, True)
        assert facts["statistics"]["loss_g"] == 3.0
        found = facts["metrics"]["rfvd2_4f"]
        assert [found[which]["clips"] for which in ("first", "last")] == [16, 24]
        assert found["best"]["value"] == min(found["first"]["value"], found["last"]["value"])
        assert [len(facts[name]) for name in ("snapshots", "samples", "checkpoints")] == [2, 2, 2]
        text = info(finished.folder)
        assert "DIGAN at 32x32, clips of 4 frames, 0.024 kimg in batches of 8" in text
        assert "0.024 of 0.024 kimg, finished" in text
        assert "loss_g 3" in text
        assert "problem" not in text
        assert f"samples      2, the last is {finished.folder / 'samples' / 'fakes000000.024.mp4'}" in text
        assert text.rstrip().endswith(f"resume with  --resume {finished.folder} --kimg 0.048")

    def test_gradients_that_were_not_finite_are_a_problem(self, make_run, info):
        run, trainer = make_run()
        for trainer.clips_seen, count in ((8, 0.0), (16, 5.0), (24, 0.0)):
            trainer._record("nonfinite", torch.tensor(count))
            run.tick()
        assert info(run.folder, json_=True)["nonfinite_at"] == [16]
        assert "not finite in 1 ticks, last at 0.016 kimg" in info(run.folder)

    def test_before_the_first_tick_and_checkpoint(self, make_run, info):
        run, _ = make_run()
        text = info(run.folder)
        assert "0 of 25000 kimg, 0 %" in text
        assert "there is no checkpoint yet" in text
        assert info(run.folder, json_=True)["resume"] is None

    def test_a_run_that_was_stopped_between_ticks_is_where_its_checkpoint_is(self, make_run, info):
        run, trainer = make_run()
        trainer.clips_seen = 5000
        run.save_checkpoint()
        facts = info(run.folder, json_=True)
        assert (facts["clips"], facts["finished"]) == (5000, False)
        assert facts["resume"] == f"--resume {run.folder}"

    def test_a_score_is_best_where_it_is_largest(self, make_run, info):
        run, _ = make_run()
        values = [2.0, 5.0, float("nan"), 3.0]
        for name, better in (("isv2048", "larger"), ("rfvd2_4f", "smaller")):
            records = [{"value": v, "clips": i * 8, "snapshot": "x", "better": better} for i, v in enumerate(values)]
            lines = map(json.dumps, records)
            (run.folder / f"metric-{name}.jsonl").write_text("\n".join(lines))
        found = info(run.folder, json_=True)["metrics"]
        assert {name: result["best"]["value"] for name, result in found.items()} == {"isv2048": 5.0, "rfvd2_4f": 2.0}

    def test_folder_of_runs(self, finished, info):
        facts = info(finished.folder.parent, json_=True)
        assert [run["clips"] for run in facts["runs"]] == [24]
        assert "0.024 of 0.024 kimg  rfvd2_4f" in info(finished.folder.parent)

    def test_checkpoint(self, finished, info):
        folder = finished.folder / "checkpoints" / "checkpoint-000000024"
        facts = info(folder, json_=True)
        assert facts["counters"]["clips_seen"] == 24
        assert {"g.safetensors", "d_image.safetensors", "optimizers.pt", "state.json"} <= facts["files"].keys()
        assert info(folder) == info(folder.parent)  # the newest one
        assert f"--resume {folder}" in info(folder)


class TestData:
    @pytest.fixture
    def videos(self, tmp_path):
        """Six videos to train on, one of them no video, one for validation, and a folder of four pictures."""
        folder = make_demo_videos(tmp_path / "my videos", videos=7, frames=20, resolution=32)
        broken, moved = sorted(folder.glob("train/square/*.mp4"))[:2]
        broken.write_text("<html>")
        (folder / "val" / "square").mkdir(parents=True)
        shutil.move(moved, folder / "val" / "square")
        for i in range(4):
            write_png(folder / "train" / "disc" / "shot" / f"{i}.png", torch.zeros(16, 16, 3, dtype=torch.uint8))
        return folder

    def test_what_is_in_a_folder(self, videos, info):
        before = sorted(videos.rglob("*"))
        facts = info(videos, "--frames", "8", "--stride", "2", "--overlap", "12", json_=True)
        assert (facts["kind"], facts["videos"], facts["frames"]) == ("data", 7, 6 * 20 + 4)
        assert facts["lengths"] == dict(
            zip(("minimum", "lower quartile", "median", "upper quartile", "maximum"), (4, 20, 20, 20, 20), strict=True)
        )
        assert facts["codecs"] == {"h264": 6, "pictures": 1}
        assert sum(facts["frame_rates"].values()) == 6  # pictures have none
        assert facts["clips"] == {"frames": 8, "stride": 2, "overlap": 12, "count": 6 * 4, "too_short": 1}
        assert facts["splits"] == {"train": {"videos": 6, "clips": 5 * 4}, "val": {"videos": 1, "clips": 4}}
        assert set(facts["classes"]) == {"disc", "square", "triangle"}
        (problem,) = facts["problems"]
        assert problem.startswith("train/square/")
        text = info(videos)
        assert problem in text
        assert "val split    1 video, 1 clip" in text
        assert sorted(videos.rglob("*")) == before

    def test_zip_is_as_its_folder_and_a_video_is_data(self, videos, tmp_path, info):
        with zipfile.ZipFile(tmp_path / "v.zip", "w") as archive:
            for file in videos.rglob("*.*"):
                archive.write(file, file.relative_to(videos))
        one, two = info(videos, json_=True), info(tmp_path / "v.zip", json_=True)
        differing = {"path", "problems"}
        assert {k: v for k, v in one.items() if k not in differing} == {
            k: v for k, v in two.items() if k not in differing
        }
        facts = info(next(videos.glob("val/*/*.mp4")), json_=True)
        assert (facts["videos"], facts["classes"], facts["clips"]["count"]) == (1, {}, 1)

    def test_no_clip_is_long_enough(self, videos, info):
        assert info(videos, "--frames", "32", json_=True)["clips"]["count"] == 0
        assert "7 videos are too short" in info(videos, "--frames", "32")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("absent", "absent does not exist: give a network"),
        ("empty", "empty holds no video"),
        ("text.txt", "text.txt is neither a folder"),
        ("other.safetensors", "other.safetensors is not a generator saved by this project"),
        ("page.safetensors", "page.safetensors is neither a folder"),
    ],
)
def test_refusals_are_one_sentence(tmp_path, capsys, name, words):
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.txt").write_text("words")
    (tmp_path / "page.safetensors").write_text("<html>not found</html>")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert main(["info", str(tmp_path / name)]) == 2
    out, err = capsys.readouterr()
    assert words in err
    assert "--data" not in err
    assert not out


def test_clips_that_cannot_be_cut(tmp_path, capsys):
    videos = make_demo_videos(tmp_path / "videos", videos=1, frames=8, resolution=32)
    assert main(["info", str(videos), "--frames", "4", "--overlap", "4"]) == 2
    assert "overlap 4 must be at least 0 and below" in capsys.readouterr().err
