"""Build the CPU kernels with AddressSanitizer, UndefinedBehaviorSanitizer and ThreadSanitizer, and run all of them.

Run in a checkout. A finding ends the run with its report. The kernels are compiled as one instruction set: the widest
of this processor and, with the first two sanitizers, the base one as well.
"""

import os
import runpy
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from unittest import mock

import setuptools

ROOT = Path(__file__).parents[1]
SOURCES, DRIVER = ROOT / "csrc" / "cpu", ROOT / "tests" / "fused_inr" / "_backends" / "cpu" / "sanitizers.cpp"
MEMORY = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
THREADS = ["-fsanitize=thread"]
with mock.patch.object(setuptools, "setup"):
    os.chdir(ROOT)
    SETUP = runpy.run_path("setup.py")


def widest() -> str:
    """Return the source of the widest instruction set that this processor supports."""
    flags = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if {"avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512_bf16"} <= set(flags.split()):
        return "isa_avx512_bf16.cpp"
    return "isa_avx2.cpp" if {"avx2", "fma"} <= set(flags.split()) else "isa_base.cpp"


def build(folder: Path, name: str, sanitizers: list[str], source: str) -> Path:
    """Return the driver, linked with the kernels of one instruction set as the library's only one.

    The namespace and the table are those of the base set, whose flags alone are replaced. -O0 keeps the build short.
    """
    common = [flag for flag in SETUP["COMMON"] if flag not in ("-O3", "-g0")]
    flags = ["-O0", "-g1", "-pthread", f"-I{SOURCES}", '-DFUSED_INR_SOURCE_HASH=""', *common, *sanitizers]
    compiler = os.environ.get("CXX", "g++")
    objects = []
    for path, extra in (
        (SOURCES / "isa_base.cpp", SETUP["ISA_FLAGS"][source]),
        (SOURCES / "api.cpp", []),
        (DRIVER, []),
    ):
        objects.append(str(folder / f"{name}-{path.stem}.o"))
        subprocess.run([compiler, *flags, *extra, "-c", str(path), "-o", objects[-1]], check=True)
    program = folder / name
    subprocess.run([compiler, *sanitizers, "-pthread", *objects, "-o", str(program)], check=True)
    return program


def check(folder: Path, name: str, sanitizers: list[str], source: str) -> None:
    """Build and run one program.

    Raises:
        subprocess.CalledProcessError: it does not compile, or a sanitizer found something.
    """
    start = time.monotonic()
    program = build(folder, name, sanitizers, source)
    built = time.monotonic()
    # ThreadSanitizer of GCC 12 does not run where addresses are randomized over more bits than it expects.
    command = ["setarch", "-R", str(program)] if sanitizers is THREADS and sys.platform == "linux" else [str(program)]
    options = {
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "TSAN_OPTIONS": "halt_on_error=1",
        "ASAN_OPTIONS": "detect_leaks=1",
    }
    result = subprocess.run(command, env=os.environ | options, capture_output=True, text=True, check=False)
    print(result.stdout + result.stderr, end="")
    result.check_returncode()
    print(f"{name} ({source}): built in {built - start:.0f} s, run in {time.monotonic() - built:.0f} s", flush=True)


def main() -> None:
    """Check all programs, two at a time."""
    programs = [("memory", MEMORY, widest()), ("threads", THREADS, widest())]
    if widest() != "isa_base.cpp":
        programs.append(("memory-base", MEMORY, "isa_base.cpp"))
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(os.cpu_count()) as pool:
        for future in [pool.submit(check, Path(folder), *program) for program in programs]:
            future.result()


if __name__ == "__main__":
    main()
