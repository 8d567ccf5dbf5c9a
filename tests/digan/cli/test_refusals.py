"""Whatever an option or a file holds, a command refuses it in one sentence: every option, by enumeration."""

import datetime
import importlib
import lzma
import math
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from digan import Generator
from digan.cli import options as options_module
from digan.cli import train as train_command
from digan.cli.main import COMMANDS, main
from digan.cli.options import OptionParser
from digan.cli.train import resolve
from digan.config import GeneratorConfig, TrainConfig, option_range
from digan.data import make_demo_videos
from digan.errors import ConfigError
from digan.files import checksum
from digan.run_dir import clean
from digan.sampling.latents import Latents, clip_times, write_latents
from digan.train import train

ROOT = Path(__file__).parents[3]
SIZES = dict(z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=128, channel_max=8, resolution=32)
SMALL = "--resolution 32 --batch 8 --z-dim 8 --w-dim 8 --fourier-dim 4 --fmm-rank 2 --channel-base 128 --channel-max 8 "
SMALL += "--samples 2 --metrics none --tick 0.016 --snap 1000 --workers 0 --report-to none --frames 4"
# Options and arguments that name files and folders. All other text is checked when it is parsed, or names something.
FILES = {"data", "outdir", "resume", "config", "split_list", "detector", "network", "fake", "cache", "source", "out"}
FILES |= {"discriminators", "path", "runs", "output", "init", "video", "perceptual", "latents", "motion"}
TEXTS = {"cfg", "desc", "split", "aug", "mixed_precision", "metrics", "report_to", "mode", "classes", "only", "dtype"}
TEXTS |= {"device", "fake_split", "experiment", "resize", "host", "allow_host", "which", "snapshots", "name"}
IMPOSSIBLE = ["nan", "inf", "-inf", "1e308", "-1e308", str(10**30), str(-(10**30)), "9" * 5000, "x", ""]
WRONG_TYPES = {
    "true": True,
    "false": False,
    "mapping": {"a": 1},
    "nested": [[1]],
    "nulls": [None],
    "nothing": [],
    "bytes": b"\xff",
    "set": {1},
    "date": datetime.date(2026, 11, 26),
    "nan": math.nan,
    "infinity": -math.inf,
    "huge": 10**5000,
    "negative": -1,
    "zero": 0,
    "fraction": 1.5,
    "empty": "",
    "null-character": "a\0b",
    "option": "--help",
}


def make_parser(command):
    module = importlib.import_module(COMMANDS[command][0])
    parser = OptionParser(f"digan {command}", **getattr(module, "PARSER", {}))
    module.configure(parser)
    return parser


def actions(command):
    """The options and arguments of a command that take a value."""
    return [a for a in make_parser(command)._actions if a.nargs != 0 and a.dest != "config"]


def outcome(function, *args):
    """The result and the message of a refusal, one of which is empty."""
    try:
        return function(*args), ""
    except ConfigError as error:
        return None, str(error)


def is_sentence(error, *words):
    text = str(error)
    return all(word in text for word in words) and "\n" not in text and "Traceback" not in text


@pytest.mark.parametrize("command", COMMANDS)
def test_every_text_is_known_to_name_a_file_or_not(command):
    for action in actions(command):
        if action.type in (None, str, Path):
            assert action.dest in FILES | TEXTS, f"{action.dest}: enter it in one of the two sets"


@pytest.mark.parametrize("command", COMMANDS)
def test_no_number_out_of_range_is_accepted(command):
    parser = make_parser(command)
    for action in (a for a in actions(command) if a.type not in (None, str, Path) and a.option_strings):
        flag = action.option_strings[0]
        for text in IMPOSSIBLE:
            for words in ([f"{flag}={text}"], [flag, text, "1"]) if action.nargs == 2 else ([f"{flag}={text}"],):
                with pytest.raises(ConfigError) as refusal:
                    options_module._only_given(parser, words)
                assert is_sentence(refusal.value, flag)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_default_is_in_range(command):
    parser = make_parser(command)
    for action in (a for a in actions(command) if a.type not in (None, str, Path) and a.option_strings):
        if isinstance(action.default, int | float) and not isinstance(action.default, bool):
            values = vars(options_module._only_given(parser, [f"{action.option_strings[0]}={action.default}"]))
            assert values[action.dest] == action.default


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("kind", WRONG_TYPES)
def test_every_option_in_a_file_with_every_type_of_value(command, kind, monkeypatch):
    parser = make_parser(command)
    accepted = {}
    for action in (a for a in actions(command) if a.option_strings):
        flag = action.option_strings[0]
        monkeypatch.setattr(options_module, "_load_yaml", lambda _, flag=flag: {flag[2:]: WRONG_TYPES[kind]})
        values, problem = outcome(parser._read_yaml, "FILE")
        if problem:
            assert is_sentence(problem, "--config FILE: ", flag)
            continue
        for value in values.values():
            for item in value if isinstance(value, list) else [value]:
                assert isinstance(item, str | int | float | Path | tuple)
                assert not isinstance(item, float) or math.isfinite(item)
        accepted |= values
    if command == "train" and kind != "empty":
        for name, value in accepted.items():  # what the parser accepts is a configuration, or refused by its check
            _, problem = outcome(resolve, {"data": "x", name: value})
            assert is_sentence(problem)


def test_the_least_tick_and_length_are_one_clip():
    assert round(option_range("tick").minimum * 1000) == round(option_range("kimg").minimum * 1000) == 1


@pytest.mark.parametrize("name", [name for name, f in TrainConfig.__dataclass_fields__.items() if "float" in f.type])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e308])
def test_stored_configurations_are_checked_too(name, value):
    with pytest.raises(ConfigError) as refusal:
        resolve({}, {"data": "x", name: value})
    assert is_sentence(refusal.value, "--" + name.replace("_", "-"))


@pytest.fixture(scope="module")
def inputs(tmp_path_factory, official):
    """What the commands need, by destination."""
    folder = tmp_path_factory.mktemp("inputs")
    torch.manual_seed(0)
    g, network, latents = Generator(GeneratorConfig(**SIZES)), folder / "network.safetensors", folder / "latents"
    g.save(network, clips_seen=1)
    clip = Latents(torch.zeros(g.num_slots, g.config.w_dim), torch.zeros(g.config.z_dim), clip_times(2))
    write_latents(latents, clip, checksum(network))
    data = make_demo_videos(folder / "videos", videos=4, frames=8, resolution=32)
    video = next(data.rglob("*.mp4"))
    return {"network": network, "data": data, "official": official, "latents": latents, "video": video}


@pytest.fixture(scope="module")
def official(tmp_path_factory):
    file = tmp_path_factory.mktemp("official") / "network.pkl"
    file.write_bytes(lzma.decompress((ROOT / "tests/fixtures/official_snapshot_small.pkl.xz").read_bytes()))
    return file


def _damage(folder):
    """Paths that are wrong in some way, by what is wrong."""
    folder.mkdir()
    (folder / "folder").mkdir()
    (folder / "empty").touch()
    (folder / "text").write_text("no such thing\n")
    (folder / "binary").write_bytes(bytes(range(256)) * 16)
    (folder / "latin").write_bytes(b"name: \xe9\n")
    (folder / "nested").write_text("[" * 100_000)
    (folder / "loop").symlink_to("loop")
    names = ["missing", "folder", "empty", "text", "binary", "latin", "nested", "loop", "text/below", "x" * 300]
    return [folder / name for name in names]


# (command, argument): the rest of the command line, and the kinds of path that are right for it.
CASES = {
    ("train", "--data"): ("-n --outdir {out} " + SMALL, ()),
    ("train", "--resume"): ("-n --outdir {out} --data {data} " + SMALL, ()),
    ("train", "--outdir"): ("--data {data} --kimg 0.008 " + SMALL, ("missing", "folder")),
    ("train", "--split-list"): ("-n --outdir {out} --data {data} " + SMALL, ()),
    ("train", "--config"): ("-n --outdir {out} --data {data} " + SMALL, ("empty",)),
    ("sample", "--network"): ("--outdir {out}", ()),
    ("sample", "--outdir"): ("--network {network} --videos 1 --frames 1", ("missing", "folder")),
    ("sample", "--config"): ("--network {network} --outdir {out} --videos 1 --frames 1", ("empty",)),
    ("explore", "--network"): ("--port 0", ()),
    ("sample", "--latents"): ("--network {network} --outdir {out}", ()),
    ("sample", "--motion"): ("--network {network} --latents {latents} --outdir {out}", ()),
    ("invert", "--network"): ("--video {video} --outdir {out}", ()),
    ("invert", "--video"): ("--network {network} --outdir {out}", ()),
    ("invert", "--perceptual"): ("--network {network} --video {video} --outdir {out} --frames 2", ()),
    ("invert", "--outdir"): (
        "--network {network} --video {video} --frames 2 --steps 1 --restarts 1 --draws 0",
        ("missing", "folder"),
    ),
    ("invert", "--config"): (
        "--network {network} --video {video} --outdir {out} --frames 2 --steps 1 --restarts 1 --draws 0",
        ("empty",),
    ),
    ("evaluate", "--network"): ("--data {data} --metrics rfvd4_4f --outdir {out}", ()),
    ("evaluate", "--data"): ("--network {network} --metrics rfvd4_4f --outdir {out}", ()),
    ("evaluate", "--fake"): ("--data {data} --metrics rfvd4_4f --outdir {out}", ()),
    ("evaluate", "--detector"): ("--network {network} --data {data} --metrics fvd4_16f --outdir {out}", ()),
    ("evaluate", "--split-list"): ("--network {network} --data {data} --metrics rfvd4_4f --outdir {out}", ()),
    ("evaluate", "--outdir"): ("--network {network} --data {data} --metrics rfvd4_4f", ("missing", "folder")),
    ("evaluate", "--cache"): ("--network {network} --data {data} --metrics rfvd4_4f", ("missing", "folder")),
    ("convert", "source"): ("{wrong} {out}/g.safetensors", ()),
    ("convert", "out"): ("{official} {wrong}", ("missing", "empty", "text", "binary", "latin", "nested", "loop")),
    ("convert", "--discriminators"): (
        "{official} {out}/g.safetensors",
        ("missing", "empty", "text", "binary", "latin", "nested", "loop"),
    ),
    ("info", "path"): ("{wrong}", ()),
}


@pytest.mark.parametrize(("command", "argument"), CASES, ids=lambda v: v.strip("-"))
def test_wrong_paths_are_refused_and_nothing_is_left(command, argument, inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    rest, right = CASES[command, argument]
    for path in _damage(tmp_path / "damaged"):
        if path.name in right:
            continue
        values = {**inputs, "out": tmp_path / "out", "wrong": path}
        words = [word.format(**values) for word in rest.split()]
        capsys.readouterr()
        status = main([command, *([f"{argument}={path}"] if argument.startswith("--") else []), *words])
        error = capsys.readouterr().err
        assert status == 2, (path.name, error)
        last = error.splitlines()[-1]
        assert last.startswith(f"digan {command}: "), (path.name, error)
        assert "Traceback" not in error
        assert not list(tmp_path.rglob(".*.safetensors"))
        assert not list(tmp_path.rglob("*.partial"))


def test_videos_deleted_after_they_were_indexed(inputs, tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("ACCELERATE_USE_CPU", "1")
    videos = shutil.copytree(inputs["data"], tmp_path / "videos")

    def delete_and_train(*args):
        shutil.rmtree(videos)
        return train(*args)

    monkeypatch.setattr(train_command, "train", delete_and_train)
    words = [*SMALL.split(), "--kimg", "0.008", "--data", videos, "--outdir", tmp_path / "runs"]
    assert main(["train", *map(str, words)]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("digan train: a video could not be decoded (")
    assert error.endswith("remove it from the data and run again.")


def start(*words, limit=0, **options):
    """Start the true command line; with a limit, of bytes per file."""

    def prepare():
        if limit:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

    env = {**os.environ, "PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'kernels'}", "ACCELERATE_USE_CPU": "1"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "preexec_fn": prepare}
    return subprocess.Popen([sys.executable, "-m", "digan", *map(str, words)], env=env, **{**pipes, **options})


@pytest.mark.slow
def test_a_disk_that_fills_up_during_training_ends_it_with_a_sentence(inputs, tmp_path):
    words = [*SMALL.split(), "--snap", "1", "--kimg", "0.032", "--data", inputs["data"], "--outdir", tmp_path / "runs"]
    process = start("train", *words, limit=32_000)  # less than a discriminator
    error = process.communicate(timeout=300)[1]
    assert process.returncode == 2, error
    assert error.splitlines()[-1].startswith("digan train: ")
    assert "File too large; raise the file size limit" in error
    assert "Traceback" not in error
    (run,) = (tmp_path / "runs").glob("0*")
    assert clean(run) == 0
    assert not list(run.glob("checkpoints/*"))


@pytest.mark.slow
def test_a_second_interrupt_ends_at_once_without_a_traceback(inputs, tmp_path):
    words = [
        *SMALL.split(),
        "--kimg",
        "1000",
        "--data",
        inputs["data"],
        "--outdir",
        tmp_path / "runs",
        "--workers",
        "1",
    ]
    process = start("train", *words, start_new_session=True)
    try:
        for line in process.stdout:
            if "clips/s" in line:
                break
        for _ in range(5):  # as a terminal does: to every process of the command
            os.killpg(process.pid, signal.SIGINT)
            time.sleep(0.02)
        error = process.communicate(timeout=120)[1]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 130, error
    assert error.splitlines()[-1] == "digan train: interrupted"
    assert "Traceback" not in error
    (run,) = (tmp_path / "runs").glob("0*")
    assert clean(run) == 0


@pytest.mark.slow
@pytest.mark.parametrize("target", ["closed", "full"])
def test_output_that_nobody_can_read(inputs, target):
    words = ["info", inputs["network"]]
    if target == "full":
        with open("/dev/full", "w") as full:
            process = start(*words, stdout=full)
        error = process.communicate(timeout=60)[1]
        assert (process.returncode, error.count("\n")) == (2, 1)
        assert "No space left on device" in error
    else:
        with start(*words) as process:
            process.stdout.close()
            error = process.stderr.read()
        assert (process.returncode, error) == (141, "")


@pytest.mark.parametrize(
    "command",
    [
        "sample --outdir {out} --network {file}",
        "evaluate --data {videos} --network {file}",
        "invert --video {videos} --outdir {out} --network {file}",
        "explore --network {file}",
        "convert {file} {out}/a.safetensors",
        "train --cfg demo --outdir {out} --init {file}",
    ],
)
def test_latents_in_the_place_of_a_network_are_refused(command, tmp_path, capsys):
    write_latents(tmp_path / "latents.safetensors", Latents(torch.zeros(3, 4), torch.zeros(4), clip_times(4)), "0" * 64)
    (tmp_path / "config.json").write_text("{}")  # as in a run folder: not that of the latents
    videos = make_demo_videos(tmp_path / "videos", videos=2, frames=16, resolution=32)
    names = {"file": tmp_path / "latents.safetensors", "out": tmp_path / "out", "videos": videos}
    assert main(command.format(**names).split()) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("digan ")]
    assert "latents.safetensors is not a network, but holds latents of `digan invert`: give it with --latents" in line
    assert line.endswith(".")
