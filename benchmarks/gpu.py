"""Run everything that needs a GPU, in steps of less than ten minutes each, on a machine without a network.

    python benchmarks/gpu.py check       build the kernels, report the backends, run the tests marked gpu
    python benchmarks/gpu.py sanitize    run small tests under compute-sanitizer's memcheck and racecheck
    python benchmarks/gpu.py bench       measure what runs on the GPU, as `pytest benchmarks/ --benchmark-only` does

All need the packages of `.[test]`, except that `check` needs only those of fused_inr, av and accelerate.

Results are written to the folder in the environment variable OUT, or to benchmarks/results, and the output of the
commands to its subfolder logs. A command that fails or takes too long does not keep the others from running. Without a
GPU the kernels are still built, and every other command reports that there is none. The exit status is 0 if every
command succeeded.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NO_DEVICE = "no CUDA device"
LIMIT = 570.0  # seconds of a step, all its commands together
DEVICE_NAME = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else '')"
PYTEST = (sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-q")
# Most of the tests' time goes into compiling kernels, which processes share among the cores.
SHARED = ("-n", str(os.cpu_count())) if importlib.util.find_spec("xdist") else ()
# The paths with tests marked gpu; others import packages that such a machine need not have.
TESTS = (*PYTEST, "-m", "gpu", "--durations", "15", "tests/fused_inr", "tests/digan/training/test_synchronization.py")
DETERMINISTIC = {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # without it some versions of PyTorch refuse to be deterministic
# The most important first; without the benchmarks of decoding and of start-up, which do not use the GPU.
BENCHMARKS = tuple(
    f"benchmarks/test_{name}.py"
    for name in "step render siren discriminator discriminator_ops mlp layers jet fit sampling features".split()
)
LARGE = "large or 2_31 or 32_bits"  # tests that take tens of GiB each
# Small tests, because the sanitizer checks every memory access.
SANITIZER_TESTS = (
    "(gradients and (small or P1- or P100-) or values_and_derivatives) and (float32 or bfloat16) and not graph"
)
SANITIZER = ("compute-sanitizer", "--target-processes", "all", "--error-exitcode", "9", "--print-limit", "20")


@dataclass(frozen=True)
class Command:
    """One command of a step.

    Attributes:
        name: name of its log.
        arguments: the program and its arguments.
        seconds: time limit.
        environment: variables added to the environment.
        needs_device: whether to skip it without a GPU.
    """

    name: str
    arguments: Sequence[str]
    seconds: float
    environment: dict[str, str] = field(default_factory=dict)
    needs_device: bool = True


@dataclass(frozen=True)
class Outcome:
    """How a command ended: "ok" or the reason it is not, and the last line it printed."""

    name: str
    result: str
    seconds: float
    last: str = ""


BUILD = Command(
    "build",
    (sys.executable, "setup.py", "build_ext", "--inplace"),
    240,
    {"FUSED_INR_CUDA": "1"},
    needs_device=False,
)


def sanitizer(tool: str) -> Command:
    return Command(
        tool,
        (*SANITIZER, "--tool", tool, *PYTEST, "-m", "gpu", "-k", SANITIZER_TESTS, "tests/fused_inr/_backends"),
        260,
        {**DETERMINISTIC, "PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},  # every tensor has bounds of its own
    )


def steps(out: Path, device: str) -> dict[str, list[Command]]:
    """Return the commands of every step; `device` is part of the name of the results."""
    slug = re.sub(r"[^a-z0-9]+", "-", device.lower()).strip("-") or "no-device"
    results = ("--json", str(out / f"cuda-{slug}.json"))
    return {
        "check": [
            BUILD,
            Command("driver", ("nvidia-smi",), 30),
            Command("backends", (sys.executable, "-m", "fused_inr"), 60, needs_device=False),
            Command("tests", (*TESTS, "-k", f"not ({LARGE})", *SHARED), 400, DETERMINISTIC),
            Command("large-tests", (*TESTS, "-k", LARGE), 150, DETERMINISTIC),
        ],
        "sanitize": [BUILD, sanitizer("memcheck"), sanitizer("racecheck")],
        "bench": [
            BUILD,
            Command("benchmarks", (*PYTEST, *BENCHMARKS, "--benchmark-only", "--device", "cuda", *results), 400),
        ],
    }


def run(command: Command, log: Path, seconds: float) -> Outcome:
    """Run a command for at most `seconds`, and show its output and write it to `log`."""
    print(f"\n== {command.name}: {' '.join(command.arguments)}", flush=True)
    if shutil.which(command.arguments[0]) is None:
        return Outcome(command.name, f"not run: there is no {command.arguments[0]} on this machine", 0)
    paths = [str(ROOT), str(ROOT / "kernels"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **command.environment}
    start, lines = time.monotonic(), [""]
    popen = subprocess.Popen(
        command.arguments,
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    with popen as process, log.open("w") as file:
        signal.signal(signal.SIGALRM, lambda *_: os.killpg(process.pid, signal.SIGKILL))
        signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
        try:
            for line in process.stdout:
                print(line, end="", flush=True)
                file.write(line)
                lines.append(line.strip() or lines[-1])
                del lines[:-1]
            status = process.wait()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    elapsed = time.monotonic() - start
    if status == -signal.SIGKILL and elapsed >= seconds:
        return Outcome(command.name, f"stopped after {elapsed:.0f} s", elapsed, lines[-1])
    return Outcome(command.name, "ok" if status == 0 else f"failed with status {status}", elapsed, lines[-1])


def summary(step: str, device: str, outcomes: Sequence[Outcome]) -> str:
    rows = [f"{o.name:32} {o.result:32} {o.seconds:6.0f} s  {o.last[:200]}".rstrip() for o in outcomes]
    where = device or f"{NO_DEVICE}: nothing below was run or measured on a GPU"
    return "\n".join([f"{step} on {where}", *rows])


def device_name() -> str:
    """Return the name of the GPU that PyTorch sees, or an empty string."""
    completed = subprocess.run([sys.executable, "-c", DEVICE_NAME], stdout=subprocess.PIPE, text=True)
    return completed.stdout.strip()


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a step, print a summary and return the exit status."""
    names = list(steps(Path(), ""))
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=[*names, "all"])
    parser.add_argument(
        "--limit", type=float, default=LIMIT, help="time limit of a step in seconds; default %(default).0f"
    )
    options = parser.parse_args(arguments)
    out = Path(os.environ.get("OUT") or ROOT / "benchmarks" / "results").resolve()
    os.environ["PATH"] += os.pathsep + "/usr/local/cuda/bin"  # the usual place of the toolkit
    logs = out / "logs"
    logs.mkdir(parents=True, exist_ok=True)
    device = device_name()
    print(f"device: {device or NO_DEVICE}", flush=True)
    texts, fine = [], True
    for step in names if options.step == "all" else [options.step]:
        end, outcomes = time.monotonic() + options.limit, []
        for command in steps(out, device)[step]:
            if command.needs_device and not device:
                outcomes.append(Outcome(command.name, f"not run: {NO_DEVICE}", 0))
                continue
            seconds = min(command.seconds, end - time.monotonic())
            log = logs / f"{step}-{command.name}.log"
            outcomes.append(
                run(command, log, seconds) if seconds > 0 else Outcome(command.name, "not run: no time left", 0)
            )
        fine &= all(o.result == "ok" for o in outcomes)
        texts.append(summary(step, device, outcomes))
        (logs / f"{step}-summary.txt").write_text(texts[-1] + "\n")
    print("\n" + "\n\n".join(texts), flush=True)
    return 0 if fine else 1


if __name__ == "__main__":
    sys.exit(main())
