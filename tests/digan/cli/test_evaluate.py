"""`digan evaluate` as a user runs it, in this process and under accelerate."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from digan import Generator, metrics
from digan.cli.evaluation import OnePerVideo
from digan.cli.main import main
from digan.config import GeneratorConfig
from digan.data import Clips, ClipWindows, load_index, make_demo_videos
from digan.data.clips import cut_clips
from digan.sampling.latents import paced_times
from digan.sampling.render import GeneratedClips

ROOT = Path(__file__).parents[3]
SIZES = dict(z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8, resolution=32)
pytestmark = pytest.mark.filterwarnings("ignore:the Fréchet distance", "ignore:`torch.jit.script`")
CUT = {"frames": 4, "stride": 2, "overlap": 0, "split": "train"}


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """21 videos of three classes in train and 3 in val, 16 frames of 32x32 each: 4 clips of CUT in each."""
    return make_demo_videos(tmp_path_factory.mktemp("data") / "videos", videos=24, frames=16, resolution=32)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("network") / "network-snapshot-000012.safetensors"
    Generator(GeneratorConfig(**SIZES)).save(path, clips_seen=12000, data=CUT)
    return path


@pytest.fixture
def evaluate(tmp_path, monkeypatch):
    """Runs the command in an empty folder; returns the records that it appended, by metric."""
    monkeypatch.chdir(tmp_path)

    def call(*options, status=0):
        before = {p: len(p.read_text().splitlines()) for p in tmp_path.rglob("metric-*.jsonl")}
        assert main(["evaluate", *map(str, options), "--threads", "1"]) == status
        records = {}
        for path in tmp_path.rglob("metric-*.jsonl"):
            lines = path.read_text().splitlines()[before.get(path, 0) :]
            records[path.stem.removeprefix("metric-")] = [json.loads(line) for line in lines]
        return records

    return call


def real_clips(videos, frames=4, stride=2, resolution=32, split="train"):
    return Clips(ClipWindows(load_index(videos, None, split=split), frames, stride), resolution)


def test_network_has_the_value_of_the_metric_and_the_record_says_what_it_is(evaluate, network, videos, capsys):
    (record,) = evaluate("--network", network, "--data", videos, "--metrics", "rfvd8_4f", "--seed", 3)["rfvd8_4f"]
    fakes = GeneratedClips(Generator.from_pretrained(network), 8, paced_times(4, 4), seed=3)
    expected = metrics.compute("rfvd8_4f", real_clips(videos), fakes, seed=3)
    assert record["value"] == pytest.approx(expected["value"], rel=1e-6)
    assert (record["n_real"], record["n_fake"], record["trials"]) == (8, 8, 1)
    assert record["protocol"] == {"kind": "rfvd", "count": 8, "frames": 4, "subsample": 1}
    assert record["data_fingerprint"] == load_index(videos, None).fingerprint
    assert (record["split"], record["stride"], record["resolution"]) == ("train", 2, 32)
    assert (record["clips"], record["span"], record["psi"]) == (12000, 4, 1.0)
    assert len(record["network_sha256"]) == 64
    assert record["versions"]["torch"] == torch.__version__
    out = capsys.readouterr().out
    assert f"{record['value']:.5g}" in out
    assert "84 real clips at stride 2" in out


def test_trials_draw_other_clips_and_latents(evaluate, network, videos, capsys):
    options = ("--network", network, "--data", videos)
    (record,) = evaluate(*options, "--metrics", "rfvd8_4f", "--trials", 3)["rfvd8_4f"]
    values = record["values"]
    assert len(set(values)) == 3
    assert record["value"] == pytest.approx(sum(values) / 3)
    assert record["std"] == pytest.approx(torch.tensor(values, dtype=torch.float64).std().item())
    assert "±" in capsys.readouterr().out
    (second,) = evaluate(*options, "--metrics", "rfvd8_4f", "--seed", 1)["rfvd8_4f"]
    assert second["value"] == pytest.approx(values[1], rel=1e-6)


def test_features_of_reals_are_kept_until_the_videos_change(evaluate, network, videos, tmp_path, monkeypatch):
    copy = shutil.copytree(videos, tmp_path / "data" / "copy")
    options = ("--network", network, "--data", copy, "--metrics", "rfvd8_4f")
    read, batch = [], Clips.batch
    monkeypatch.setattr(Clips, "batch", lambda self, indices: read.extend(indices) or batch(self, indices))
    (first,) = evaluate(*options)["rfvd8_4f"]
    assert len(read) == 8
    (again,) = evaluate(*options)["rfvd8_4f"]
    assert len(read) == 8
    assert again["value"] == first["value"]

    one, two = sorted(copy.glob("train/*/*.mp4"))[:2]
    stat = one.stat()
    shutil.copyfile(two, one)  # another video of that name
    os.utime(one, ns=(stat.st_atime_ns, stat.st_mtime_ns + 1_000_000))
    evaluate(*options)
    assert len(read) == 16
    evaluate(*options, "--resolution", 64)
    assert len(read) == 24


def test_two_folders(evaluate, videos, tmp_path):
    (same,) = evaluate("--fake", videos, "--data", videos, "--metrics", "rfvd99_4f")["rfvd99_4f"]
    assert same["value"] == pytest.approx(0, abs=1e-6)
    assert same["resolution"] == 32
    other = make_demo_videos(tmp_path / "other", videos=4, frames=8, resolution=48, seed=1)
    (record,) = evaluate("--fake", other, "--data", videos, "--metrics", "rfvd99_4f", "--stride", 2)["rfvd99_4f"]
    reals, fakes = real_clips(videos, resolution=48), real_clips(other, stride=1, resolution=48)
    assert record["value"] == pytest.approx(metrics.compute("rfvd99_4f", reals, fakes)["value"], rel=1e-6)
    assert (record["n_real"], record["n_fake"]) == (84, len(fakes))
    assert record["fake_fingerprint"] == load_index(other, None).fingerprint != record["data_fingerprint"]


def test_splits_against_each_other(evaluate, videos):
    options = ("--data", videos, "--fake-split", "val", "--metrics", "rfvd99_4f", "--stride", 2)
    (record,) = evaluate(*options)["rfvd99_4f"]
    reals, fakes = real_clips(videos), real_clips(videos, split="val")
    assert record["value"] == pytest.approx(metrics.compute("rfvd99_4f", reals, fakes)["value"], rel=1e-6)
    assert (record["split"], record["fake_split"]) == ("train", "val")


def test_one_clip_of_each_video(evaluate, network, videos):
    options = ("--network", network, "--data", videos, "--metrics", "rfvd99_4f")
    (record,) = evaluate(*options, "--one-per-video")["rfvd99_4f"]
    assert record["n_real"] == 21
    assert evaluate(*options)["rfvd99_4f"][0]["n_real"] == 84


def test_results_lie_in_the_run_folder_of_a_network(evaluate, network, videos, tmp_path):
    run = tmp_path / "runs" / "00000-mine"
    (run / "snapshots").mkdir(parents=True)
    shutil.copy(network, run / "snapshots")
    (run / "config.json").write_text("{}")
    (run / "command.sh").write_text("")
    evaluate("--network", run, "--data", videos, "--metrics", "rfvd8_4f")
    assert (run / "metric-rfvd8_4f.jsonl").is_file()
    assert (tmp_path / "runs" / ".index").is_dir()
    evaluate("--network", run, "--data", videos, "--metrics", "rfvd8_4f", "--outdir", "mine")
    assert (tmp_path / "mine" / "metric-rfvd8_4f.jsonl").is_file()
    assert (tmp_path / "mine" / ".index").is_dir()


@pytest.mark.parametrize(
    ("name", "metric", "rows"),
    [
        ("interpolate", "rfvd8_8f", ["generator", "frames blended", "frames repeated"]),
        ("extrapolate", "rfvd8_4f", ["from time 0", "after time 1"]),
        ("upsample", "rfvd8_4f", ["nearest", "bilinear", "bicubic", "generator"]),
    ],
)
def test_experiments_are_tables(evaluate, network, videos, capsys, name, metric, rows):
    records = evaluate("--network", network, "--data", videos, "--experiment", name, "--metrics", metric)[metric]
    assert [record["row"] for record in records] == rows
    assert len({record["value"] for record in records}) == len(rows)
    assert {record["experiment"] for record in records} == {name}
    assert {record["resolution"] for record in records} == {64 if name == "upsample" else 32}
    assert {record["stride"] for record in records} == {1 if name == "interpolate" else 2}
    printed = [line for line in capsys.readouterr().out.splitlines() if line.startswith(metric + "  ")]
    assert [line.split("  ")[1].strip() for line in printed] == rows


def test_upsampled_by_nearest_is_as_by_hand(evaluate, network, videos):
    options = ("--network", network, "--data", videos, "--experiment", "upsample", "--metrics", "rfvd8_4f")
    record = evaluate(*options)["rfvd8_4f"][0]
    small = GeneratedClips(Generator.from_pretrained(network), 8, paced_times(4, 4), seed=0).batch(range(8))
    large = small.repeat_interleave(2, 3).repeat_interleave(2, 4)
    expected = metrics.compute("rfvd8_4f", real_clips(videos, resolution=64), large)
    assert record["row"] == "nearest"
    assert record["value"] == pytest.approx(expected["value"], rel=1e-6)


def test_reals_that_are_faster_are_named(evaluate, network, videos, capsys):
    options = ("--network", network, "--data", videos, "--experiment", "interpolate")
    (record, *_) = evaluate(*options, "--metrics", "rfvd8_16f")["rfvd8_16f"]
    assert record["real_pace"] == pytest.approx(2.5)  # stride 1 in place of 2 * 3/15
    assert "2.5 times as fast" in capsys.readouterr().out


def conditional(folder, classes, **data):
    torch.manual_seed(0)
    Generator(GeneratorConfig(num_classes=classes, **SIZES)).save(folder / "cond.safetensors", data={**CUT, **data})
    return folder / "cond.safetensors"


def test_classes_are_those_of_the_data_or_named(evaluate, videos, tmp_path, capsys):
    network = conditional(tmp_path, 3, class_names=["disc", "square", "triangle"])
    options = ("--data", videos, "--metrics", "rfvd8_4f")
    of_data = evaluate("--network", network, *options)["rfvd8_4f"][0]
    named = evaluate("--network", network, *options, "--labels", 1)["rfvd8_4f"][0]
    assert of_data["value"] != named["value"]
    assert (of_data["labels"], named["labels"]) == (None, [1])
    evaluate("--network", network, *options, "--labels", 3, status=2)
    assert "classes 0 to 2" in capsys.readouterr().err
    for wrong in (conditional(tmp_path, 2), conditional(tmp_path, 3, class_names=["a", "b", "c"])):
        evaluate("--network", wrong, *options, status=2)
        assert "--labels" in capsys.readouterr().err


def test_classes_of_the_fakes_do_not_depend_on_the_other_metrics(evaluate, videos, tmp_path):
    options = ("--network", conditional(tmp_path, 3), "--data", videos)
    alone = evaluate(*options, "--metrics", "rfvd8_8f")["rfvd8_8f"][0]
    both = evaluate(*options, "--metrics", "rfvd8_4f,rfvd8_8f")["rfvd8_8f"][-1]
    assert both["value"] == alone["value"]


def test_classes_of_the_fakes_are_as_frequent_as_those_of_chosen_clips(videos):
    clips = cut_clips(load_index(videos, videos.parent / "index"), 4, 1, 0, 32, "antialias")
    chosen = OnePerVideo(clips, seed=0)
    assert len(chosen) < len(clips)
    assert len(chosen.labels()) == len(chosen)
    for position in range(len(chosen)):
        assert torch.equal(chosen.batch([position])[0], clips.batch([chosen._chosen[position]])[0])
        assert chosen.labels()[position] == clips.labels()[chosen._chosen[position]]


def test_inception_score_needs_no_reals(evaluate, network, tmp_path, capsys):
    class Classes(torch.nn.Module):
        def forward(self, x: torch.Tensor):
            return (x.float().mean((1, 2, 3, 4))[:, None] / 255 * torch.arange(101)).sin()

    torch.jit.script(Classes()).save(str(tmp_path / "c3d.pt"))
    options = ("--network", network, "--metrics", "isv20_4f", "--detector", "c3d=c3d.pt")
    (record,) = evaluate(*options)["isv20_4f"]
    assert record["n_real"] == 0
    assert 1 <= record["value"] <= 101
    assert "data" not in record
    assert f"± {record['std_of_splits']:.2g}" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ("--data {videos}", "--network"),
        ("--network {network} --fake {videos} --data {videos}", "--fake"),
        ("--network {network} --metrics rfvd8_4f", "--data"),
        ("--network {network} --data {videos} --metrics rfvd8", "rfvd8"),
        ("--network {network} --data {videos} --metrics fvd8_4f", "--detector"),
        ("--network {network} --data {videos} --metrics rfvd8_64f", "rfvd8_64f needs clips of 64 frames at stride 2"),
        ("--network {network} --data {videos} --metrics rfvd8_4f --labels 0", "no classes"),
        ("--network {network} --data {videos} --metrics rfvd8_4f --resolution 0", "--resolution 0 must be at least 1"),
        ("--network {network} --data {videos} --metrics rfvd8_4f --split test", "test split"),
        ("--network {network} --data {videos} --metrics rfvd8_4f --fake-stride 2", "--fake-stride"),
        ("--network {network}x --data {videos}", "does not exist"),
        ("--fake {videos} --data {videos} --experiment upsample", "--experiment"),
        ("--fake {videos} --data {videos} --psi 0.5", "--psi"),
        ("--data {videos} --fake-split train", "with itself"),
        ("--fake-split train", "--data"),
    ],
)
def test_what_cannot_be_measured_is_one_sentence(evaluate, network, videos, capsys, options, words):
    argv = options.format(network=network, videos=videos).split()
    evaluate(*argv, status=2)
    error = capsys.readouterr().err.strip().splitlines()
    assert words in error[-1]
    assert not list(Path().rglob("metric-*.jsonl"))


def test_fakes_of_other_shapes_need_a_resolution(evaluate, videos, tmp_path, capsys):
    from digan.sampling.media import write_video

    (tmp_path / "wide").mkdir()
    for i in range(3):
        write_video(tmp_path / "wide" / f"{i}.mp4", torch.full((4, 32, 64, 3), 80 * i, dtype=torch.uint8))
    options = ("--fake", "wide", "--data", videos, "--metrics", "rfvd8_4f")
    evaluate(*options, status=2)
    assert "--resolution" in capsys.readouterr().err
    assert evaluate(*options, "--resolution", 24)["rfvd8_4f"][0]["resolution"] == 24


@pytest.mark.slow
def test_two_processes_give_the_number_of_one(evaluate, network, videos, tmp_path):
    options = ("--network", network, "--data", videos, "--metrics", "rfvd9_4f", "--trials", 2)
    (alone,) = evaluate(*options)["rfvd9_4f"]
    command = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    command += ["--num_machines", "1", "--dynamo_backend", "no", "--mixed_precision", "no", "--main_process_port", "0"]
    command += ["-m", "digan", "evaluate", *options, "--outdir", "together", "--threads", "1"]
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        list(map(str, command)), check=True, env=env, cwd=tmp_path, timeout=300, capture_output=True, text=True
    )
    (line,) = (tmp_path / "together" / "metric-rfvd9_4f.jsonl").read_text().splitlines()
    assert json.loads(line)["values"] == pytest.approx(alone["values"], rel=1e-5)
    assert done.stdout.count("rfvd9_4f  generator") == 1
