"""The cost of an import (time, no compiler, no extra packages), and the report of `python -m fused_inr`."""

import os
import subprocess
import sys
from pathlib import Path

import fused_inr as fi
from fused_inr.ops.dispatch import OPS

LIBRARY = Path(fi.__file__).parents[1]


def run_python(*arguments: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(LIBRARY)}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, env=environment, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_is_cheap_and_compiles_nothing():
    script = """
import subprocess, sys, time, torch
def refuse(*arguments, **options):
    raise AssertionError(f"importing started {arguments}")
subprocess.Popen.__init__ = refuse
before = set(sys.modules)
start = time.process_time()
import fused_inr
print(time.process_time() - start)
import fused_inr._backends.cuda, fused_inr._backends.triton
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
print(torch.cuda.is_initialized())
"""
    seconds, packages, cuda = run_python("-c", script).splitlines()
    assert float(seconds) < 0.5
    assert "fused_inr" in packages.split()
    assert not {"digan", "triton", "numpy"} & set(packages.split())
    assert cuda == "False"


def test_public_names():
    for name in fi.__all__:
        assert getattr(fi, name) is not None
    assert callable(fi.backends)
    assert (LIBRARY / "fused_inr" / "py.typed").exists()


def test_report():
    report = run_python("-m", "fused_inr")
    lines = {line.split()[0]: line for line in report.splitlines() if line.startswith("  ")}
    for package in ("fused_inr", "python", "torch", "triton"):
        assert len(lines[package].split()) >= 2
    for name in ("reference", "cpu", "cuda"):
        assert fi.backends()[name] in report
    for op in OPS:
        assert "cpu tensors: " in lines[op] or "cuda tensors: " in lines[op]
