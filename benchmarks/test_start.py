"""Waiting before work: imports in a new process, and the start of a training run up to its first saved network."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor

from benchmarks.device import on_cuda, timed
from benchmarks.harness import Case
from benchmarks.limits import Limit
from digan.data import make_demo_videos

ROOT = Path(__file__).parents[1]
SMALL = (
    "--resolution 32 --batch 4 --kimg 0.004 --channel-base 512 --channel-max 16 --z-dim 16 --w-dim 16 --fourier-dim 8 "
    "--fmm-rank 2 --workers 0 --metrics none --report-to none --samples 1"
)


def python(*arguments: str) -> Tensor:
    """Run Python and return its exit status, which is to be 0."""
    paths = [str(ROOT), str(ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    if not on_cuda():
        environment["ACCELERATE_USE_CPU"] = "1"
    subprocess.run([sys.executable, *arguments], env=environment, check=True, capture_output=True)
    return torch.zeros(())


def start(name: str, modules: str, *arguments: str) -> Case:
    """Return the case of a process, whose limit is the import of the modules of other packages."""
    return Case(
        name=name,
        dtype=None,
        paths={"ours": lambda: python(*arguments)},
        flops=0,
        truth=lambda: torch.zeros(()),
        tolerance=0,
        limits=[Limit("imports", lambda: timed(lambda: python("-c", f"import {modules}")))],
    )


@pytest.mark.parametrize("statement", ["import fused_inr", "from digan import Generator"])
def test_import(compare, statement):
    compare(start(statement, "torch", "-c", statement))


def test_start_of_a_run(compare, tmp_path):
    """One small iteration, with the samples and the files before and after it."""
    make_demo_videos(tmp_path / "videos", videos=4, frames=16, resolution=32)
    options = ["--data", str(tmp_path / "videos"), "--outdir", str(tmp_path / "runs"), *SMALL.split()]
    compare(start("start of a training run", "accelerate, av", "-m", "digan", "train", *options))
