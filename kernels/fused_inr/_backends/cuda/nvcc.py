"""Compilation of csrc/cuda, shared by setup.py, the table of resources and the tests.

Imports only the standard library, because setup.py runs this file before the package exists. The architectures come
from TORCH_CUDA_ARCH_LIST or the default, never from the GPU of the build machine.
"""

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

DEFAULT_ARCHITECTURES = "8.0;9.0+PTX"
"""Machine code for the A100, which runs on every 8.x, and for the H100; PTX for later GPUs."""
OLDEST = (8, 0)  # the first with mma of bfloat16 and cp.async
SOURCE_NAMES = ("*.cpp", "*.cu", "*.cuh", "*.h")
_NAMES = {"ampere": "8.0;8.6+PTX", "ada": "8.9+PTX", "hopper": "9.0+PTX", "blackwell": "10.0;12.0+PTX"}
_ARCHITECTURE = re.compile(r"(\d+)\.(\d)([af]?)(\+PTX)?")
_FLAGS = ("-std=c++17", "-O3", *(() if os.name == "nt" else ("-Xcompiler=-fPIC,-Wall,-Wextra",)))


class CompileError(Exception):
    """An error of nvcc, with its output as the message."""


def find() -> str | None:
    """Return the path of nvcc in CUDA_HOME or CUDA_PATH, else on PATH, else in /usr/local/cuda."""
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    places = [str(Path(home) / "bin") for home in homes if home]
    candidates = (shutil.which("nvcc", path=place) for place in [*places, None, "/usr/local/cuda/bin"])
    return next((path for path in candidates if path), None)


def architectures(text: str | None = None) -> list[str]:
    """Return the architectures to build for, such as ["8.0", "9.0+PTX"], without those too old for the kernels.

    Args:
        text: in the format of TORCH_CUDA_ARCH_LIST, numbers or names separated by semicolons or spaces; None or empty
            means the default.

    Raises:
        ValueError: an entry is not an architecture, or all are too old.
    """
    selected: list[str] = []
    for entry in re.split(r"[;\s,]+", (text or DEFAULT_ARCHITECTURES).strip("; ,")):
        for name in _NAMES.get(entry.lower(), entry).split(";"):
            match = _ARCHITECTURE.fullmatch(name)
            if match is None:
                raise ValueError(f"TORCH_CUDA_ARCH_LIST must hold entries such as 8.0 or 9.0a+PTX, not {entry!r}.")
            if (int(match[1]), int(match[2])) >= OLDEST and name not in selected:
                selected.append(name)
    if not selected:
        raise ValueError(f"TORCH_CUDA_ARCH_LIST={text} names no architecture from 8.0 on, which the kernels need.")
    return selected


def code_flags(names: Sequence[str]) -> list[str]:
    """Return the options of nvcc for these architectures.

    The kernels use no features newer than the oldest architecture, so its PTX is generated once and machine code for
    all architectures is compiled from it, in half the time. Architecture-specific targets ("9.0a") have their own PTX.
    """
    parts = [_ARCHITECTURE.fullmatch(name).groups() for name in names]
    plain = [major + minor for major, minor, feature, _ in parts if not feature]
    codes: dict[str, list[str]] = {}
    for major, minor, feature, ptx in parts:
        number = f"{major}{minor}{feature}"
        virtual = number if feature else min(plain, key=int)
        codes.setdefault(virtual, []).append(f"sm_{number}")
        if ptx:
            codes[virtual].append(f"compute_{virtual}")
    return [
        f"-gencode=arch=compute_{virtual},code=[{','.join(dict.fromkeys(targets))}]"
        for virtual, targets in codes.items()
    ]


def compile_one(nvcc: str, source: Path, to: Path, names: Sequence[str], source_hash: str, *flags: str) -> str:
    """Compile one .cu file to an object for these architectures, and return the output of nvcc.

    Raises:
        CompileError: nvcc failed.
    """
    defines = [f'-DFUSED_INR_SOURCE_HASH="{source_hash}"', f'-DFUSED_INR_ARCHITECTURES="{" ".join(names)}"']
    return _run([nvcc, "-c", str(source), "-o", str(to), *_FLAGS, *code_flags(names), *defines, *flags])


def build(nvcc: str, sources: Path, library: Path, names: Sequence[str], source_hash: str, work: Path) -> None:
    """Compile all .cu files of a folder in parallel and link them into a library with its own CUDA runtime.

    Args:
        nvcc: path of the compiler.
        sources: folder of the .cu files.
        library: path of the library to write.
        names: architectures, as `architectures` returns them.
        source_hash: hash of the sources, stored in the library.
        work: folder for objects, created if missing.

    Raises:
        CompileError: nvcc failed.
    """
    work.mkdir(parents=True, exist_ok=True)
    library.parent.mkdir(parents=True, exist_ok=True)
    # Slowest first, because only as many compile at a time as there are cores.
    files = sorted(sources.glob("*.cu"), key=lambda path: ("float32" not in path.name, path.name))
    objects = [work / f"{path.stem}.o" for path in files]
    with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
        list(pool.map(lambda path, to: compile_one(nvcc, path, to, names, source_hash), files, objects))
    _run([nvcc, "-shared", "-cudart=static", *code_flags(names), "-o", str(library), *map(str, objects)])


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    output = done.stdout + done.stderr
    if done.returncode:
        errors = [line for line in output.splitlines() if "error" in line.lower() or "fatal" in line.lower()]
        raise CompileError("\n".join(errors[:5]) or output[-500:] or f"{command[0]} ended with {done.returncode}")
    return output
