"""Builds the native CPU kernels; everything that can be declared stands in pyproject.toml.

The library needs a C++ compiler and nothing else: no PyTorch at build time, so an isolated build works, and no Python
header. Without a compiler the package installs all the same, and `python -m fused_inr` says what is missing.
"""

import hashlib
import platform
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

SOURCES = Path("csrc/cpu")
COMMON = ["-O3", "-g0", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"]
# Each instruction set is the same source compiled with other flags; the processor chooses among them at run time.
ISA_FLAGS = {
    "isa_base.cpp": [],
    "isa_avx2.cpp": ["-mavx2", "-mfma"],
    "isa_avx512.cpp": AVX512,
    "isa_avx512_bf16.cpp": [*AVX512, "-mavx512bf16"],
    "api.cpp": [],
}
X86 = platform.machine().lower() in ("x86_64", "amd64")


def source_hash() -> str:
    """What the library says it was built from; the same sum as in fused_inr.backends.cpu.native."""
    digest = hashlib.sha256()
    for path in sorted([*SOURCES.glob("*.cpp"), *SOURCES.glob("*.h")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def extensions() -> list[Extension]:
    """The one library, with every header as a dependency: it is built again when any of its sources changes."""
    names = list(ISA_FLAGS) if X86 else ["isa_base.cpp", "api.cpp"]
    return [
        Extension(
            "fused_inr.backends.cpu._native",
            sources=[str(SOURCES / name) for name in names],
            depends=[str(path) for path in sorted(SOURCES.glob("*.h"))],
            define_macros=[
                ("FUSED_INR_SOURCE_HASH", f'"{source_hash()}"'),
                *([("FUSED_INR_X86", "1")] if X86 else []),
            ],
            language="c++",
            optional=True,
        )
    ]


class BuildExt(build_ext):
    """Compiles each source with the flags of its instruction set."""

    def build_extension(self, ext: Extension) -> None:
        compile_one = self.compiler._compile

        def with_flags(obj, src, suffix, cc_args, extra, pp_opts):
            extra = [*extra, *COMMON, *ISA_FLAGS[Path(src).name]]
            return compile_one(obj, src, suffix, cc_args, extra, pp_opts)

        self.compiler._compile = with_flags
        try:
            super().build_extension(ext)
        finally:
            self.compiler._compile = compile_one


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt})
