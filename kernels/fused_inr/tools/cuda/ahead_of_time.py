"""Compile the kernels without a GPU, and read the resources they need from the machine code."""

import importlib.util
import re
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from fused_inr._backends.cuda import layout, nvcc

SOURCES = Path(__file__).parents[4] / "csrc" / "cuda"
MAX_SHARED = {"8.0": 163 * 1024, "9.0": 227 * 1024, "9.0a": 227 * 1024}
"""Bytes of shared memory available to a block, for each architecture of the table."""
ELEMENTS = {"float32": 4, "bfloat16": 2, "float16": 2}
_OPCODE = re.compile(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9]*)", re.MULTILINE)
_FUNCTION = re.compile(r"^\s*Function\s*:?\s+(\S+?):?\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Resources:
    """The resources that a compiled kernel needs, per thread."""

    target: str  # such as "9.0"
    kernel: str  # "siren_forward", "siren_backward", "pack_weights" or "reduce_gradients"
    type: str  # compute type; "" if the kernel does not depend on it
    width: int  # 0 if the kernel does not depend on it
    registers: int
    local: int  # bytes of local memory: stack and spilled registers
    spills: int  # loads from and stores to local memory
    instructions: int
    matrix_instructions: int

    def shared(self, layers: int, inputs: int = 2) -> tuple[int, int]:
        """Return (bytes of shared memory, warps) of a block for this many layers, or (0, 0) if it does not fit."""
        if not self.width:
            return 0, 0
        shape = layout.Shape(self.width, layers, inputs, ELEMENTS[self.type])
        limit = MAX_SHARED[self.target]
        backward = self.kernel == "siren_backward"
        warps = shape.backward_warps(limit) if backward else shape.forward_warps(limit)
        if warps is None:
            return 0, 0
        return shape.backward_shared(warps) if backward else shape.forward_shared(warps), warps


def cuobjdump() -> str | None:
    """Return the path of cuobjdump on PATH, beside nvcc, or in the Triton package; None if there is none."""
    compiler, triton = nvcc.find(), importlib.util.find_spec("triton")
    folders = [str(Path(compiler).resolve().parent)] if compiler else []
    folders += [str(Path(triton.origin).parent / "backends/nvidia/bin")] if triton and triton.origin else []
    candidates = (shutil.which("cuobjdump", path=folder) for folder in [None, *folders])
    return next((path for path in candidates if path), None)


def compiled(targets: list[str], work: Path) -> list[Resources]:
    """Compile every .cu file for these architectures into a folder, and return the resources of each kernel.

    Raises:
        RuntimeError: nvcc or cuobjdump is missing.
        nvcc.CompileError: the sources do not compile.
    """
    compiler = nvcc.find()
    if compiler is None:
        raise RuntimeError("nvcc is missing: put it on PATH or set CUDA_HOME.")
    files = sorted(SOURCES.glob("*.cu"))
    with ThreadPoolExecutor(2) as pool:
        objects = [work / f"{path.stem}.o" for path in files]
        list(pool.map(lambda path, to: nvcc.compile_one(compiler, path, to, targets, ""), files, objects))
    return [needs for path in objects for needs in resources(path)]


def resources(path: Path) -> list[Resources]:
    """Return the resources of every kernel of an object or library, once per architecture, from its machine code.

    Raises:
        RuntimeError: cuobjdump is missing.
    """
    tool = cuobjdump()
    if tool is None:
        raise RuntimeError("cuobjdump is missing: it comes with CUDA and with Triton.")
    usage = _by_kernel(_run(tool, "-res-usage", path))
    return [_needs(key, usage[key], text) for key, text in _by_kernel(_run(tool, "-sass", path)).items()]


def _run(tool: str, option: str, path: Path) -> str:
    return subprocess.run([tool, option, str(path)], check=True, capture_output=True, text=True).stdout


def _by_kernel(text: str) -> dict[tuple[str, str], str]:
    """Return {(architecture, mangled name): output of cuobjdump for the kernel}."""
    return {(arch, name): body for arch, part in _by_architecture(text) for name, body in _by_function(part)}


def _by_architecture(text: str) -> Iterator[tuple[str, str]]:
    parts = re.split(r"^Fatbin elf code:\n=+\narch = sm_(\d+)(\d)([af]?)\n", text, flags=re.MULTILINE)
    for major, minor, feature, body in zip(*(parts[index::4] for index in range(1, 5)), strict=True):
        yield f"{major}.{minor}{feature}", body


def _by_function(text: str) -> Iterator[tuple[str, str]]:
    parts = _FUNCTION.split(text)
    yield from zip(parts[1::2], parts[2::2], strict=True)


def _needs(key: tuple[str, str], usage: str, text: str) -> Resources:
    target, name = key
    numbers = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", usage))
    kernel = re.search(r"siren_forward|siren_backward|pack_weights|reduce_gradients", name)[0]
    type_ = re.search(r"Float32|Bfloat16|Float16", name)
    width = re.search(r"Li(\d+)E", name)
    opcodes = _OPCODE.findall(text)
    return Resources(
        target=target,
        kernel=kernel,
        type=type_[0].lower() if type_ else "",
        width=int(width[1]) if width else 0,
        registers=int(numbers["REG"]),
        local=int(numbers["STACK"]) + int(numbers["LOCAL"]),
        spills=sum(opcode in ("LDL", "STL") for opcode in opcodes),
        instructions=len(opcodes),
        matrix_instructions=sum(opcode in ("HMMA", "HGMMA") for opcode in opcodes),
    )
