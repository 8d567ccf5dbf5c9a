"""`digan train`: where a run is resumed and written may be said in a file, and the loop takes any trainer."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from digan.cli import train as command
from digan.cli.main import main
from digan.config import TrainConfig
from digan.data import load_index, make_demo_videos
from digan.errors import ConfigError
from digan.run_dir import read_records
from digan.training.run_lock import run_lock
from digan.training.trainer import Trainer

ROOT = Path(__file__).parents[3]
SMALL = "--resolution 32 --batch 8 --z-dim 8 --w-dim 8 --fourier-dim 4 --fmm-rank 2 --channel-base 256 --channel-max 8 "
SMALL += "--samples 2 --metrics none --tick 0.016 --snap 1000 --workers 0 --report-to none --kimg 0.016"


@pytest.fixture
def options(tmp_path, monkeypatch):
    """Parses the options of a small run, with more of them in a YAML file."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    data = make_demo_videos(tmp_path / "videos", videos=2)

    def parse(text="", *argv):
        file = tmp_path / "options.yaml"
        file.write_text(text)
        return command.parse_options(["--config", str(file), "--data", str(data), *argv])

    return parse


def test_the_file_names_the_outdir_and_the_run_to_resume(options, tmp_path):
    class Counting(Trainer):
        steps = 0

        def step(self, reals):
            Counting.steps += 1
            super().step(reals)

    outdir = tmp_path / "elsewhere"
    folder = command.start(options(f"outdir: {outdir}\n", *SMALL.split()), Counting, keep_memory=False)
    assert folder.parent == outdir
    assert Counting.steps == 2
    resumed = command.start(options(f"outdir: {outdir}\nresume: latest\nkimg: 0.024\n"), Counting, keep_memory=False)
    assert resumed == folder
    assert Counting.steps == 3
    assert json.loads((folder / "config.json").read_text())["kimg"] == 0.024
    with pytest.raises(
        ConfigError, match=r"--lr 0\.5 differs from the resumed run's 0\.0025, --gamma 3\.0 .*: leave them"
    ):
        command.start(options(f"outdir: {outdir}\nresume: latest\ngamma: 3\nlr: 0.5\nkimg: 1\n"), keep_memory=False)


def test_other_data_is_refused_without_its_flag(options, tmp_path, capsys):
    outdir = tmp_path / "runs"
    start = partial(command.start, keep_memory=False)
    folder = start(options("", *SMALL.split(), "--outdir", str(outdir)))
    other = make_demo_videos(tmp_path / "other", videos=3)
    resume = ["--outdir", str(outdir), "--resume", "latest", "--kimg", "0.024"]
    with pytest.raises(ConfigError, match=f"--data {other} holds other videos than the run .* add --other-data"):
        start(options("", "--data", str(other), *resume))
    moved = (tmp_path / "videos").rename(tmp_path / "moved")
    assert start(options("", "--data", str(moved), *resume, "-n")) is None
    assert start(options("", "--data", str(other), "--other-data", *resume)) == folder
    assert f"--other-data: {other} holds other videos" in (folder / "log.txt").read_text()
    capsys.readouterr()
    with pytest.raises(ConfigError, match="add --other-data"):  # the flag holds for one start
        start(options("", "--data", str(moved), *resume, "-n"))


@pytest.mark.parametrize("seed", [0, 1])
def test_other_videos_of_the_same_names_and_lengths_are_noticed(options, tmp_path, seed):
    outdir = tmp_path / "runs"
    start = partial(command.start, keep_memory=False)
    start(options("", *SMALL.split(), "--outdir", str(outdir)))
    other = make_demo_videos(tmp_path / "other", videos=2, seed=seed)
    assert load_index(other, None).fingerprint == load_index(tmp_path / "videos", None).fingerprint
    resumed = options("", "--data", str(other), "--outdir", str(outdir), "--resume", "latest", "--kimg", "0.024")
    if seed == 0:
        assert start(resumed) is not None
    else:
        with pytest.raises(ConfigError, match="holds other videos than the run was trained on, or they are decoded to"):
            start(resumed)


def test_a_run_that_lives_is_not_resumed_by_another(options, tmp_path):
    outdir = tmp_path / "runs"
    start = partial(command.start, keep_memory=False)
    folder = start(options("", *SMALL.split(), "--outdir", str(outdir)))
    before = (folder / "stats.jsonl").read_bytes()
    resumed = options("", "--outdir", str(outdir), "--resume", "latest", "--kimg", "0.024")
    with (
        run_lock(folder),
        pytest.raises(ConfigError, match=f"--resume: another run is writing to {folder} .*{os.getpid()}"),
    ):
        start(resumed)
    assert (folder / "stats.jsonl").read_bytes() == before
    assert start(resumed) == folder


def test_names_that_are_no_text_do_not_end_a_run(options, tmp_path, monkeypatch):
    data = (tmp_path / "videos").rename(tmp_path / os.fsdecode(b"v\xff"))
    train = data / "train" / "disc"
    (train / os.fsdecode(b"broken \xff.mp4")).write_bytes((train / "0000.mp4").read_bytes()[:900])
    words = ["train", "--data", str(data), "--outdir", str(tmp_path / os.fsdecode(b"out\xff")), *SMALL.split()]
    monkeypatch.setattr(sys, "argv", words)
    assert main(words) == 0
    (folder,) = (tmp_path / os.fsdecode(b"out\xff")).glob("0*")
    assert b"v\xff" in (folder / "command.sh").read_bytes()
    assert main(["report", str(folder), "--output", str(tmp_path / "report.html")]) == 0


def test_a_run_from_a_damaged_checkpoint_says_so_and_replaces_it(options, tmp_path):
    outdir = tmp_path / "runs"
    start = partial(command.start, keep_memory=False)
    every = SMALL.replace("--snap 1000", "--snap 1").replace("--tick 0.016", "--tick 0.008").split()
    folder = start(options("", *every, "--outdir", str(outdir)))
    newest = folder / "checkpoints" / "checkpoint-000000016"
    files = {file: file.read_bytes() for file in [*newest.glob("*.safetensors"), *folder.glob("snapshots/*")]}
    (newest / "optimizers.pt").write_bytes(b"")
    (folder / "samples" / ".fakes000000.016.0123abcd.mp4").touch()
    with (folder / "stats.jsonl").open("ab") as file:
        file.write(b'\x80\n{"cl')
    assert start(options("", "--resume", str(folder))) == folder
    log = (folder / "log.txt").read_text()
    assert f"the checkpoint {newest} is damaged (optimizers.pt: its checksum differs); checkpoint-000000008" in log
    assert f"{folder / 'stats.jsonl'}: 2 lines without a complete record skipped (3, 4)." in log
    assert "removed 1 unfinished file(s)" in log
    assert len(files) == 6
    assert all(file.read_bytes() == content for file, content in files.items())
    assert [record["clips"] for record in read_records(folder / "stats.jsonl")] == [8, 16]
    assert not [path for path in folder.rglob(".*") if path.name != ".lock"]


def test_nothing_to_resume_is_said_in_the_log(options, tmp_path, capsys):
    command.start(options("", *SMALL.split(), "--outdir", str(tmp_path / "new"), "--resume", "latest", "-n"))
    assert f"nothing to resume under {tmp_path / 'new'}: a new run starts." in capsys.readouterr().out


def test_every_option_can_stand_in_a_file():
    assert command.parse_options([]) == {}
    assert set(TrainConfig.__dataclass_fields__) == _destinations()


def _destinations():
    parser = command.OptionParser("digan train", **command.PARSER)
    command.configure(parser)
    return {action.dest for action in parser._actions} - {"help"}


@pytest.mark.parametrize(
    "how", [["-m", "digan", "train"], [str(ROOT / "digan" / "train.py")]], ids=["module", "script"]
)
def test_waiting_threads_sleep_however_training_is_started(how, tmp_path):
    """`-n` with data that does not exist ends early, after PyTorch was loaded."""
    env = {k: v for k, v in os.environ.items() if k != "OMP_WAIT_POLICY"}
    env["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"
    (tmp_path / "sitecustomize.py").write_text(
        "import atexit, os, sys\n"
        "atexit.register(lambda: print('policy', os.environ.get('OMP_WAIT_POLICY'), 'torch' in sys.modules))\n"
    )
    env["PYTHONPATH"] += f"{os.pathsep}{tmp_path}"
    done = subprocess.run(
        [sys.executable, *how, "-n", "--data", "/nowhere"], env=env, capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert "/nowhere" in done.stderr
    assert "policy PASSIVE True" in done.stdout


def test_public_classes_are_loaded_at_their_first_use():
    """In one process, which imports the package anew for each class."""
    code = """
import importlib, sys, digan
assert "torch" not in sys.modules
for name in ("Generator", "Discriminator", "GeneratorConfig", "DiscriminatorConfig"):
    for module in [module for module in sys.modules if module.partition(".")[0] == "digan"]:
        del sys.modules[module]
    digan = importlib.import_module("digan")
    assert not [module for module in sys.modules if module.startswith("digan.models")]
    assert getattr(digan, name).__name__ == name
    assert name in dir(digan)
"""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}"}
    subprocess.run([sys.executable, "-c", code], env=env, check=True)
