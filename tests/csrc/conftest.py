"""Compile sources of csrc as setup.py does, with warnings as errors and without writing objects."""

import platform
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CUDA = ROOT / "csrc" / "cuda"
COMPILERS = [name for name in ("g++", "clang++") if shutil.which(name)]
STRINGS = ('-DFUSED_INR_SOURCE_HASH="test"', '-DFUSED_INR_ARCHITECTURES="8.0"')


def run(command: list[str], text: str | None = None) -> None:
    """Run a compiler and fail with its output unless it succeeds."""
    done = subprocess.run(command, input=text, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(params=COMPILERS or ["g++"])
def check_cpp(request) -> Callable[..., None]:
    """Assert that C++ code compiles without a warning. Skip if there is no compiler."""
    if not COMPILERS:
        pytest.skip("neither g++ nor clang++ is installed")

    def check(text: str, *flags: str) -> None:
        command = [request.param, "-x", "c++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror"]
        run([*command, *STRINGS, *flags, "-"], text)

    return check


@pytest.fixture
def check_cuda(tmp_path) -> Callable[[str], None]:
    """Assert that CUDA code compiles without a warning of nvcc or of its host compiler. Skip without nvcc."""
    compiler = shutil.which("nvcc")
    if compiler is None:
        pytest.skip("nvcc is not on PATH")

    def check(text: str) -> None:
        source = tmp_path / "source.cu"
        source.write_text(text)
        # Device code is not optimised, which would take most of the time.
        flags = ["-Werror=all-warnings", "-Xcompiler=-Wall,-Wextra,-Werror,-fsyntax-only", "-Xcicc=-O0"]
        architecture = "-gencode=arch=compute_80,code=compute_80"
        output = tmp_path / "source.o"
        run([compiler, "-std=c++17", "-c", str(source), "-o", str(output), f"-I{CUDA}", architecture, *flags, *STRINGS])

    return check


@pytest.fixture(scope="session")
def isa_flags() -> dict[str, list[str]]:
    """The flags with which setup.py compiles each file of csrc/cpu."""
    setuptools = pytest.importorskip("setuptools")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(setuptools, "setup", lambda **options: None)
        # Importing setuptools puts what it bundles on the path, from which a test that restores it may remove it.
        patch.setattr(sys, "path", [*sys.path, str(Path(setuptools.__file__).parent / "_vendor")])
        patch.chdir(ROOT)
        build = runpy.run_path("setup.py")
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return {
        name: [*build["COMMON"], *flags, *(["-DFUSED_INR_X86=1"] if x86 else [])]
        for name, flags in build["ISA_FLAGS"].items()
        if x86 or not flags
    }
