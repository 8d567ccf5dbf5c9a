"""Compile launches without a GPU, and read the resources they need from the machine code."""

import functools
import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from fused_inr._backends.triton.kernels.launch import Launch

TARGETS = {
    "sm_80": GPUTarget("cuda", 80, 32),
    "sm_90": GPUTarget("cuda", 90, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
MAX_SHARED = {"sm_80": 163 * 1024, "sm_90": 227 * 1024, "gfx942": 64 * 1024}
"""Bytes of shared memory available to a program."""


@dataclass(frozen=True)
class Resources:
    """The resources that a compiled kernel needs."""

    registers: int
    """32-bit registers per thread; on AMD, vector registers."""
    shared: int
    """Bytes of shared memory per program."""
    local: int
    """Bytes of local memory per thread: stack and spilled registers."""
    spills: int
    """Loads from and stores to local memory; on AMD, spilled vector registers."""
    instructions: int
    matrix_instructions: int


class _AbsentGPU:
    """A driver for a GPU that is absent, with the methods that compilation calls."""

    def __init__(self, target: GPUTarget) -> None:
        self._target = target

    def get_current_target(self) -> GPUTarget:
        return self._target

    def get_current_device(self) -> str:
        return f"absent {self._target.arch}"  # the key of compiled kernels, a number for real devices

    def get_current_stream(self, device: str) -> int:
        return 0


@contextmanager
def _compiling_for(target: GPUTarget) -> Iterator[None]:
    before = driver._active
    driver.set_active(_AbsentGPU(target))
    try:
        yield
    finally:
        driver.set_active(before)


def compiled(launch: Launch, target: str) -> Any:
    """Compile the kernel of a launch for one of `TARGETS`, exactly as launching it there would.

    Tensors of the launch may be on "meta"; they are assumed to be aligned to 16 bytes.

    Raises:
        RuntimeError: Triton interprets its kernels in this process.
    """
    if not isinstance(launch.kernel, JITFunction):
        raise RuntimeError("Triton interprets kernels in this process and compiles none: unset TRITON_INTERPRET.")
    with _compiling_for(TARGETS[target]):
        return launch.kernel.warmup(**launch.arguments, grid=(launch.programs,), **launch.options)


def resources(kernel: Any) -> Resources:
    """Return the resources of a kernel that `compiled` returned."""
    if "cubin" in kernel.asm:
        return _nvidia_resources(kernel.asm["cubin"], kernel.metadata.shared)
    return _amd_resources(kernel.asm["amdgcn"], kernel.metadata.shared)


@functools.cache  # the disassembler takes half a second, and many cases share kernels
def _nvidia_resources(cubin: bytes, shared: int) -> Resources:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        command = [knobs.nvidia.cuobjdump.path, "-res-usage", "-sass", str(path)]
        text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    usage = dict(re.findall(r"(REG|STACK|LOCAL):(\d+)", text))
    # "/*0010*/  @!P0 LDG.E R2, [R2] ;" without the predicate
    opcodes = re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+ )?([A-Z][A-Z0-9]*)", text, re.MULTILINE)
    return Resources(
        registers=int(usage["REG"]),
        shared=shared,
        local=int(usage["STACK"]) + int(usage["LOCAL"]),
        spills=sum(opcode in ("LDL", "STL") for opcode in opcodes),
        instructions=len(opcodes),
        matrix_instructions=sum(opcode in ("HMMA", "HGMMA") for opcode in opcodes),
    )


def _amd_resources(text: str, shared: int) -> Resources:
    def number(name: str) -> int:
        return int(re.search(rf"^\s*\.{name}:\s*(\d+)", text, re.MULTILINE)[1])

    opcodes = re.findall(r"^\t((?:v|s|ds|global|buffer|flat|scratch)_\w+)", text, re.MULTILINE)
    return Resources(
        registers=number("vgpr_count"),
        shared=shared,
        local=number("private_segment_fixed_size"),
        spills=number("vgpr_spill_count"),  # scalar registers spill to vector registers, not to memory
        instructions=len(opcodes),
        matrix_instructions=sum(opcode.startswith("v_mfma") for opcode in opcodes),
    )
