"""The training script as a user runs it: from any folder, resumed, interrupted, refused."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from digan import Generator
from digan.data import make_demo_videos

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "digan" / "train.py"
# As small as it gets; 8 videos of 32 frames are 14 training clips.
OPTIONS = (
    "--resolution 32 --batch 8 --z-dim 8 --w-dim 8 --fourier-dim 4 --fmm-rank 2 --channel-base 256 --channel-max 8 "
)
OPTIONS += "--samples 2 --metrics rfvd4_4f --tick 0.016 --snap 1000 --r1-interval 2"
TIMEOUT = 300  # seconds; many times what anything here takes


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    return make_demo_videos(tmp_path_factory.mktemp("data") / "videos", videos=8)


def launch(cwd, *options, check=True, launcher=()):
    env = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "OMP_NUM_THREADS")}
    env["PYTHONPATH"] = str(ROOT / "kernels")  # where the package is not installed
    command = [sys.executable, *launcher, str(SCRIPT), *map(str, options)]
    done = subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=TIMEOUT)
    assert not check or done.returncode == 0, done.stdout + done.stderr
    return done


def train(cwd, videos, *options, **kwargs):
    return launch(cwd, "--data", videos, *OPTIONS.split(), *options, **kwargs)


def states(folder):
    """All tensors of the newest checkpoint of a run."""
    newest = sorted((folder / "checkpoints").glob("checkpoint-*"))[-1]
    tensors = {f"{f.stem}.{k}": v for f in newest.glob("*.safetensors") for k, v in load_file(f).items()}
    optimizers = torch.load(newest / "optimizers.pt", weights_only=True)
    for name in ("opt_g", "opt_d"):
        for i, state in optimizers[name]["state"].items():
            tensors |= {f"{name}.{i}.{k}": torch.as_tensor(v) for k, v in state.items()}
    return newest.name, tensors


@pytest.mark.slow
def test_resumed_run_has_the_bits_of_a_straight_one_workers_included(tmp_path, videos):
    straight, parts = tmp_path / "straight", tmp_path / "parts"
    train(tmp_path, videos, "--outdir", straight, "--kimg", 0.064, "--workers", 2)
    train(tmp_path, videos, "--outdir", parts, "--kimg", 0.032, "--workers", 1)
    done = launch(tmp_path, "--outdir", parts, "--resume", "latest", "--kimg", 0.064, "--workers", 2)
    assert "resuming" in done.stdout
    (a,), (b,) = straight.glob("0*"), parts.glob("0*")  # the resumed run went on in its own folder
    name_a, one = states(a)
    name_b, two = states(b)
    assert name_a == name_b == "checkpoint-000000064"
    assert one.keys() == two.keys()
    assert all(torch.equal(v, two[k]) for k, v in one.items())
    lines = [[json.loads(line) for line in (f / "stats.jsonl").read_text().splitlines()] for f in (a, b)]
    assert [r["clips"] for r in lines[0]] == [r["clips"] for r in lines[1]] == [16, 32, 48, 64]
    assert [r["loss_d"] for r in lines[0]] == [r["loss_d"] for r in lines[1]]


@pytest.mark.slow
def test_run_folder_holds_what_it_promises(tmp_path, videos):
    copy = shutil.copytree(videos, tmp_path / "copy")
    before = sorted(p.relative_to(copy) for p in copy.rglob("*"))
    done = train(tmp_path, copy, "--kimg", 0.032, "--workers", 0, "--desc", "mine")
    (folder,) = (tmp_path / "runs").glob("0*")
    assert folder.name == "00000-copy-32x16-batch8-mine"
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    expected = "config.json command.sh log.txt stats.jsonl metric-rfvd4_4f.jsonl samples/reals.mp4 samples/reals.png "
    expected += "samples/fakes_init.mp4 samples/fakes000000.032.png snapshots/network-snapshot-000000.032.safetensors "
    expected += "checkpoints/checkpoint-000000032/state.json"
    assert set(expected.split()) <= files
    assert any(f.startswith("events") for f in files)
    assert not any("partial" in f for f in files)
    values = [json.loads(line) for line in (folder / "metric-rfvd4_4f.jsonl").read_text().splitlines()]
    assert [v["clips"] for v in values] == [0, 32]
    assert "loss_g" in done.stdout
    assert str(folder.relative_to(tmp_path)) in done.stdout
    assert sorted(p.relative_to(copy) for p in copy.rglob("*")) == before  # nothing was written into the data
    g = Generator.from_pretrained(folder)
    assert g(torch.randn(1, 8), torch.randn(1, 8), torch.tensor([0.0, 2.0])).shape == (1, 2, 3, 32, 32)


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [(), ("-m", "accelerate.commands.launch")], ids=["script", "launcher"])
def test_terminated_run_is_saved_and_says_how_to_go_on(tmp_path, videos, launcher):
    env = {**os.environ, "PYTHONPATH": str(ROOT / "kernels")}
    options = ["--data", str(videos), *OPTIONS.split(), "--kimg", "1000", "--workers", "0", "--metrics", "none"]
    command = [sys.executable, *launcher, str(SCRIPT), *options]

    def wait_for(text):
        deadline = time.monotonic() + TIMEOUT
        while text not in (tmp_path / "out").read_text() and time.monotonic() < deadline:
            time.sleep(0.2)
        assert text in (tmp_path / "out").read_text(), (tmp_path / "out").read_text()

    with open(tmp_path / "out", "w") as out:
        process = subprocess.Popen(command, cwd=tmp_path, env=env, stdout=out, stderr=out, start_new_session=True)
        try:
            wait_for("clips/s")
            process.send_signal(signal.SIGTERM)
            status = process.wait(TIMEOUT)
            wait_for("--resume")
        finally:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
    # accelerate's launcher dies of the signal without passing it on; the script notices and ends like one that got it.
    assert status == (-signal.SIGTERM if launcher else 0)
    (folder,) = (tmp_path / "runs").glob("0*")
    assert len(list(folder.glob("checkpoints/checkpoint-*"))) == 1
    assert len(list(folder.glob("samples/fakes0*.png"))) == 1


@pytest.mark.slow
def test_dry_run_reports_the_published_model_and_writes_no_run(tmp_path, videos):
    done = launch(tmp_path, "--data", videos, "-n")
    assert "63,538,706" in done.stdout
    assert "56,779,266" in done.stdout
    assert "--batch" in done.stdout
    assert not list((tmp_path / "runs").glob("0*"))


@pytest.mark.slow
def test_conditional_run_learns_the_class_folders(tmp_path, videos):
    train(tmp_path, videos, "--cond", "--kimg", 0.016, "--workers", 0, "--mixed-precision", "bf16")
    assert Generator.from_pretrained(tmp_path / "runs" / "00000-videos-32x16-batch8").config.num_classes == 3


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", "/nowhere"], ["/nowhere"]),
        (["--bacth", "8"], ["unknown option --bacth", "--batch"]),
        (["--data", "x", "--resume", "/nowhere"], ["--resume /nowhere"]),
    ],
    ids=["no-data", "misspelt", "no-checkpoint"],
)
def test_refusals_are_one_line_without_a_traceback(tmp_path, options, words):
    done = launch(tmp_path, *options, check=False)
    assert done.returncode == 2
    assert all(word in done.stderr for word in words)
    assert "Traceback" not in done.stderr


def test_one_process_where_several_were_meant_is_refused(tmp_path, videos):
    launcher = ["-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    done = train(tmp_path, videos, check=False, launcher=launcher)
    assert done.returncode != 0
    assert "--multi_gpu --num_processes" in done.stderr
