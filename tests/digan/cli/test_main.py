"""The command line: help of every command, errors in one sentence, flags in both spellings."""

import importlib.util
import io
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from digan.cli.main import COMMANDS, main

ROOT = Path(__file__).parents[3]


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([command, "--help"])
    assert stopped.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: digan {command}")


@pytest.mark.parametrize(("command", "package", "extra"), [("info", "av", "train"), ("report", "matplotlib", "report")])
def test_a_missing_package_is_named_with_its_extra(command, package, extra, monkeypatch, capsys):
    find, load = importlib.util.find_spec, importlib.import_module

    def import_module(name, *args):
        if name == COMMANDS[command][0]:
            raise ModuleNotFoundError(name=f"{package}.part")
        return load(name, *args)

    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *args: None if name == package else find(name, *args))
    monkeypatch.setattr(importlib, "import_module", import_module)
    assert main([command, "x"]) == 2
    error = capsys.readouterr().err
    assert error == f"digan {command} needs packages that are not installed ({package}): pip install 'digan[{extra}]'\n"


def test_a_network_that_is_not_there_is_one_sentence_and_status_2(tmp_path, capsys):
    assert main(["sample", "--network", str(tmp_path / "none.safetensors"), "--outdir", str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("digan sample: ")
    assert error.count("\n") == 1


def test_an_interrupt_whose_clean_up_fails_is_an_interrupt(monkeypatch, capsys):
    class File(io.BytesIO):
        def write(self, data):
            if self.tell() > 1000:  # the writer of torch.save then raises a RuntimeError about the position
                raise KeyboardInterrupt
            return super().write(data)

    module = importlib.import_module(COMMANDS["info"][0])
    monkeypatch.setattr(module, "run", lambda options: torch.save(torch.zeros(1000), File()))
    handler = signal.getsignal(signal.SIGINT)
    try:
        assert main(["info", "x"]) == 130
    finally:
        signal.signal(signal.SIGINT, handler)
    assert capsys.readouterr().err == "digan info: interrupted\n"


@pytest.mark.parametrize("flag", ["--fake-split", "--fake_split", "--fake_split=test_a"])
def test_flags_take_dashes_and_underscores_and_values_stay(flag, tmp_path, capsys):
    words = [flag] if "=" in flag else [flag, "test_a"]
    data = tmp_path / "a_b"
    assert main(["evaluate", "--data", str(data), *words]) == 2
    assert "a_b" in capsys.readouterr().err


def test_runs_as_a_module():
    command = [sys.executable, "-m", "digan", "--help"]
    env = {"PYTHONPATH": f"{ROOT}:{ROOT / 'kernels'}", "PATH": ""}
    shown = subprocess.run(command, capture_output=True, text=True, env=env, check=True).stdout
    assert all(command in shown for command in COMMANDS)
