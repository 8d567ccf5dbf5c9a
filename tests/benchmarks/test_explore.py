"""The measurements of `digan explore` in a browser."""

import re
import shutil

import pytest
import torch

from benchmarks import explore
from digan import Generator
from digan.config import GeneratorConfig

SIZES = dict(z_dim=8, w_dim=8, fourier_dim=4, fmm_rank=2, channel_base=512, channel_max=8, resolution=64)


def test_a_short_run(tmp_path, capsys, monkeypatch):
    if not any(map(shutil.which, explore.BROWSERS)):
        pytest.skip("no browser")
    monkeypatch.setattr(explore, "machine_text", lambda machine: "this machine")
    monkeypatch.setattr(explore, "machine", dict)
    torch.manual_seed(0)
    Generator(GeneratorConfig(**SIZES)).save(tmp_path / "g.safetensors")
    words = f"--network {tmp_path / 'g.safetensors'} --seconds 2 --drags 2 --minutes 0.01"
    assert explore.main(words.split()) == 0
    text = capsys.readouterr().out
    rate, median, largest = map(float, re.findall(r"([\d.]+) (?:frames/s|ms)", text))
    assert 0 < rate <= 100
    assert 0 < median <= largest
