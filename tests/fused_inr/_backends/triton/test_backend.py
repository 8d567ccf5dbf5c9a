"""The Triton backend without a GPU: its state, the calls it declines, and its kernels in the interpreter."""

import importlib.util
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
import torch

import fused_inr as fi
from fused_inr._backends import triton as backend

KERNEL_TESTS = Path(__file__).with_name("kernels")
# The files test_*.py of a group share a process. The groups take about equally long, so that workers can share them.
GROUPS = {
    "images": ("augment", "bias_act", "large_images", "minibatch_stddev", "registration"),
    "render-backward": ("fourier_features", "fourier_features_backward", "large_render_backward", "render_backward"),
    "render-forward": ("fused_stages", "layers", "layers_backward", "render_forward", "render_layers"),
    "networks": ("configs", "large_networks", "network_backward", "network_forward", "network_layers"),
    "upfirdn2d": ("activations", "launch", "network_activations", "sines", "to_rgb", "upfirdn2d"),
}


def test_status(monkeypatch):
    assert torch.cuda.is_available() or fi.backends()["triton"] != "ready"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backend, "_MISSING", "")
    assert backend.status() == "no CUDA device"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert backend.status() == "ready"
    monkeypatch.setattr(backend, "_MISSING", "triton is not installed")
    assert backend.status() == "triton is not installed"


def test_what_triton_needs_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert backend._missing() == "triton is not installed"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert backend._missing() == "Triton needs a C compiler: install gcc or clang, or set CC"
    monkeypatch.setenv("CC", "cc")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert "install python3-dev" in backend._missing()
    (tmp_path / "Python.h").touch()
    assert backend._missing() == ""


def test_unsupported_calls():
    x = torch.zeros(128, 1, 1, 1)
    supports = backend.KERNELS["minibatch_stddev"].supports
    assert supports(x, 64, 1)[0]
    assert supports(x, 128, 1) == (False, "it takes groups of at most 64 samples, not 128")
    assert not supports(x.double(), 4, 1)[0]


def test_every_file_of_kernels_is_in_one_group():
    files = sorted(path.stem.removeprefix("test_") for path in KERNEL_TESTS.glob("test_*.py"))
    assert files == sorted(name for names in GROUPS.values() for name in names)


@pytest.mark.ci
@pytest.mark.parametrize("group", GROUPS)
def test_kernels_in_the_interpreter(group):
    """Run tests of the folder `kernels` in a process in which Triton interprets its kernels."""
    pytest.importorskip("triton", minversion="3.7", reason="the interpreter before 3.7 does not work with NumPy 2.4")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    files = [str(KERNEL_TESTS / f"test_{name}.py") for name in GROUPS[group]]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    assert " passed" in done.stdout
