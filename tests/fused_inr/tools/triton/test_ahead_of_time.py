"""The Triton backend without a GPU: its state, its kernels in the interpreter, and compiled ahead of time."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import fused_inr as fi
from fused_inr.backends import triton as backend

KERNEL_TESTS = Path(__file__).with_name("triton_kernels")
# Kernels without matrix products are bound by memory, whose latency is hidden by programs that share a multiprocessor:
# its 64k registers hold 4 programs of 4 warps with as many as this.
MOST_REGISTERS = 128


@pytest.fixture(scope="module")
def triton():
    return pytest.importorskip("triton", minversion="3.6")


def test_says_what_is_missing(monkeypatch):
    assert torch.cuda.is_available() or fi.backends()["triton"] != "ready"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(backend, "_INSTALLED", True)
    assert backend.status() == "no CUDA device"
    monkeypatch.setattr(backend, "_INSTALLED", False)
    assert backend.status() == "triton is not installed"
    monkeypatch.setattr(backend, "_INSTALLED", True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert backend.status() == "ready"


def test_calls_it_does_not_serve():
    x = torch.zeros(128, 1, 1, 1)
    supports = backend.KERNELS["minibatch_stddev"].supports
    assert supports(x, 64, 1)[0]
    assert supports(x, 128, 1) == (False, "it takes groups of at most 64 samples, not 128")
    assert not supports(x.double(), 4, 1)[0]


def test_kernels_in_the_interpreter():
    """Runs the tests of the folder triton_kernels in a process whose Triton interprets."""
    pytest.importorskip("triton", minversion="3.7", reason="the interpreter before 3.7 does not work with NumPy 2.4")
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(KERNEL_TESTS)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-20000:] + done.stderr[-5000:]
    assert " passed" in done.stdout


def test_nothing_is_compiled_where_triton_interprets(triton):
    script = """
import pytest
from fused_inr.backends.triton import aot, cases
with pytest.raises(RuntimeError, match="unset TRITON_INTERPRET"):
    aot.compiled(cases.CASES[0].launches()[0], "sm_90")
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


def case_names() -> list[str]:
    if importlib.util.find_spec("triton") is None:
        return ["none"]
    from fused_inr.backends.triton.cases import CASES

    assert len({case.name for case in CASES}) == len(CASES)
    return [case.name for case in CASES]


def check_resources(case_name: str, target: str) -> None:
    from fused_inr.backends.triton import aot
    from fused_inr.backends.triton.cases import CASES

    (case,) = (case for case in CASES if case.name == case_name)
    for launch in case.launches_on(target):
        needs = aot.resources(aot.compiled(launch, target))
        where = f"{launch.kernel.__name__} for {target}: {needs}"
        assert needs.local == needs.spills == 0, where
        assert needs.shared <= aot.MOST_SHARED[target], where
        assert needs.instructions > 20, where
        assert (needs.matrix_instructions > 0) == (target in case.matrix_instructions), where
        assert case.matrix_instructions or needs.registers <= MOST_REGISTERS, where


QUICK_CASES = (
    "bias_act_slope-lrelu-bfloat16-channels_last",
    "render_backward-lrelu-bfloat16",
    "render_backward-lrelu-bfloat16-sums",
    "siren-bfloat16-W64",
    "siren_backward-bfloat16-W64",
)


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("case", QUICK_CASES)
def test_resources_on_every_target(case, target, triton):
    check_resources(case, target)


@pytest.mark.slow
@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("case", case_names())
def test_resources_of_every_kernel(case, target, triton):
    check_resources(case, target)


@pytest.mark.parametrize(
    ("case", "stores"), [("bias_act-lrelu-bfloat16-channels_last", 2), ("bias_act-lrelu-float32-contiguous", 4)]
)
def test_tensors_are_read_once_in_wide_loads(case, stores, triton):
    from fused_inr.backends.triton import aot
    from fused_inr.backends.triton.cases import CASES

    (launch,) = next(each for each in CASES if each.name == case).launches()
    ptx = aot.compiled(launch, "sm_90").asm["ptx"]
    assert ptx.count("ld.global.v4.b32") == 2 * stores  # x and the residual
    assert ptx.count("ld.global") == 2 * stores + 1  # and the bias
    assert ptx.count("st.global") == stores


def test_spills_are_seen(triton):
    """A tile far beyond the registers of its warps."""
    from dataclasses import replace

    from fused_inr.backends.triton import aot
    from fused_inr.backends.triton.cases import CASES

    (launch,) = next(each for each in CASES if each.name == "bias_act-lrelu-float32-contiguous").launches()
    arguments = launch.arguments | {"ROWS": 1, "COLS": 1 << 13}
    needs = aot.resources(aot.compiled(replace(launch, arguments=arguments, num_warps=1), "sm_80"))
    assert needs.spills > 0
    assert needs.local > 0


def test_the_command_prints_a_line_for_each_kernel(triton, capsys):
    from fused_inr.backends.triton import __main__

    __main__.main(["-k", "minibatch_stddev-float32", "--target", "sm_90", "--target", "gfx942"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["target", "case", "kernel"]
    kernels = ["deviation", "plane", "deviation_backward"]
    assert [line.split()[:3] for line in lines] == [
        [target, "minibatch_stddev-float32", kernel] for target in ("sm_90", "gfx942") for kernel in kernels
    ]
    assert all(len(line.split()) == len(head.split()) for line in lines)
