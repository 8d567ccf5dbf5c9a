"""The Triton kernels compiled ahead of time: registers, spills, shared memory and matrix instructions."""

import importlib.util
import os
import subprocess
import sys

import pytest

# Kernels without matrix products are memory-bound, and programs that share a multiprocessor hide the latency: its 64k
# registers hold 4 programs of 4 warps with this many registers per thread.
MAX_REGISTERS = 128


@pytest.fixture(scope="module")
def triton():
    return pytest.importorskip("triton", minversion="3.6")


def test_compilation_is_refused_in_the_interpreter(triton):
    script = """
import pytest
from fused_inr.tools.triton import ahead_of_time, cases
with pytest.raises(RuntimeError, match="unset TRITON_INTERPRET"):
    ahead_of_time.compiled(cases.CASES[0].launches()[0], "sm_90")
"""
    environment = {**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)


QUICK_CASES = {
    "bias_act_slope-lrelu-bfloat16-channels_last",
    "render_backward-lrelu-bfloat16",
    "render_backward-lrelu-bfloat16-sums",
    "network-sine-bfloat16-W64",
    "network_backward-sine-bfloat16-W64",
}


def cases() -> list:
    """Return the names of all cases; all but the quick ones, of which there are many, are left to CI."""
    if importlib.util.find_spec("triton") is None:
        return ["none"]
    from fused_inr.tools.triton.cases import CASES

    names = [case.name for case in CASES]
    assert len(set(names)) == len(names)
    assert set(names) > QUICK_CASES
    return [pytest.param(name, marks=[] if name in QUICK_CASES else [pytest.mark.ci]) for name in names]


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "gfx942"])
@pytest.mark.parametrize("name", cases())
def test_resources_of_every_kernel(name, target, triton):
    from fused_inr.tools.triton import ahead_of_time
    from fused_inr.tools.triton.cases import CASES

    (case,) = (case for case in CASES if case.name == name)
    for launch in case.launches_on(target):
        needs = ahead_of_time.resources(ahead_of_time.compiled(launch, target))
        where = f"{launch.kernel.__name__} for {target}: {needs}"
        assert needs.local == needs.spills == 0, where
        assert needs.shared <= ahead_of_time.MAX_SHARED[target], where
        assert needs.instructions > 20, where
        assert (needs.matrix_instructions > 0) == (target in case.matrix_instructions), where
        assert case.matrix_instructions or needs.registers <= MAX_REGISTERS, where


@pytest.mark.parametrize(
    ("case", "stores"), [("bias_act-lrelu-bfloat16-channels_last", 2), ("bias_act-lrelu-float32-contiguous", 4)]
)
def test_tensors_are_read_once_in_wide_loads(case, stores, triton):
    from fused_inr.tools.triton import ahead_of_time
    from fused_inr.tools.triton.cases import CASES

    (launch,) = next(each for each in CASES if each.name == case).launches()
    ptx = ahead_of_time.compiled(launch, "sm_90").asm["ptx"]
    assert ptx.count("ld.global.v4.b32") == 2 * stores  # x and the residual
    assert ptx.count("ld.global") == 2 * stores + 1  # and the bias
    assert ptx.count("st.global") == stores


def test_spills_are_detected(triton):
    """Compile a tile far larger than the registers of its warps."""
    from dataclasses import replace

    from fused_inr.tools.triton import ahead_of_time
    from fused_inr.tools.triton.cases import CASES

    (launch,) = next(each for each in CASES if each.name == "bias_act-lrelu-float32-contiguous").launches()
    arguments = launch.arguments | {"ROWS": 1, "COLS": 1 << 13}
    needs = ahead_of_time.resources(ahead_of_time.compiled(replace(launch, arguments=arguments, num_warps=1), "sm_80"))
    assert needs.spills > 0
    assert needs.local > 0


def test_the_command_prints_a_line_for_each_kernel(triton, capsys):
    from fused_inr.tools.triton import __main__

    __main__.main(["-k", "minibatch_stddev-float32", "--target", "sm_90", "--target", "gfx942"])
    head, *lines = capsys.readouterr().out.splitlines()
    assert head.split()[:3] == ["target", "case", "kernel"]
    kernels = ["deviation", "plane", "deviation_backward"]
    assert [line.split()[:3] for line in lines] == [
        [target, "minibatch_stddev-float32", kernel] for target in ("sm_90", "gfx942") for kernel in kernels
    ]
    assert all(len(line.split()) == len(head.split()) for line in lines)
