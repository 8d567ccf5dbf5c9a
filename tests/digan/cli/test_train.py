"""`digan train`: where a run is resumed and written may be said in a file, and the loop takes any trainer."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from digan.cli import train as command
from digan.config import TrainConfig
from digan.data import make_demo_videos
from digan.errors import ConfigError
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
    with pytest.raises(ConfigError, match=r"--lr 0\.5 differs from the resumed run's"):
        command.start(options(f"outdir: {outdir}\nresume: latest\nlr: 0.5\n"), keep_memory=False)


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
