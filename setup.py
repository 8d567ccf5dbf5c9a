"""Build the native CPU kernels and, where there is nvcc, the CUDA kernels; the rest stands in pyproject.toml.

The libraries need a C++ compiler and nvcc and nothing else: no PyTorch at build time, so an isolated build works, no
Python header, and no GPU. Without a compiler the package installs all the same, and `python -m fused_inr` says what is
missing.

Environment:
    FUSED_INR_CUDA: 0 leaves the CUDA kernels out; 1 makes it an error if they cannot be built.
    TORCH_CUDA_ARCH_LIST: GPUs to build them for, such as "8.0;9.0a+PTX".
"""

import os
import platform
import runpy
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES, CUDA_SOURCES = Path("csrc/cpu"), Path("csrc/cuda")
COMMON = ["-O3", "-g0", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wall", "-Wextra"]
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
CUDA = "fused_inr._backends.cuda._native"
BACKENDS = Path("kernels/fused_inr/_backends")
# The package cannot be imported before it is installed, but files of it that need nothing else can be run.
sum_of_sources = runpy.run_path(str(BACKENDS / "native_library.py"))["source_hash"]
nvcc = runpy.run_path(str(BACKENDS / "cuda" / "nvcc.py"))


def source_hash() -> str:
    """Return the hash of the sources, which the CPU library reports."""
    return sum_of_sources(SOURCES, ("*.cpp", "*.h"))


def extensions() -> list[Extension]:
    """Return the libraries, with every header as a dependency, so that any change of a source rebuilds them."""
    names = list(ISA_FLAGS) if X86 else ["isa_base.cpp", "api.cpp"]
    cpu = Extension(
        "fused_inr._backends.cpu._native",
        sources=[str(SOURCES / name) for name in names],
        depends=[str(path) for path in sorted(SOURCES.glob("*.h"))],
        define_macros=[
            ("FUSED_INR_SOURCE_HASH", f'"{source_hash()}"'),
            *([("FUSED_INR_X86", "1")] if X86 else []),
        ],
        language="c++",
        optional=True,
    )
    return [cpu, *cuda_extension()]


def cuda_extension() -> list[Extension]:
    """Return the CUDA library, or nothing where it cannot be built or is left out."""
    wanted = os.environ.get("FUSED_INR_CUDA", "")
    if wanted not in ("", "0", "1"):
        raise SystemExit(f"FUSED_INR_CUDA must be 0 or 1, not {wanted!r}.")
    if wanted == "0" or (not wanted and nvcc["find"]() is None):
        return []
    files = sorted(path for name in nvcc["SOURCE_NAMES"] for path in CUDA_SOURCES.glob(name))
    sources = [str(path) for path in files if path.suffix == ".cu"]
    return [Extension(CUDA, sources, depends=[str(path) for path in files], optional=wanted != "1")]


class BuildExt(build_ext):
    """Compile each CPU source with the flags of its instruction set, and the CUDA sources with nvcc."""

    def get_ext_filename(self, fullname: str) -> str:
        """Name the library without the suffix of one Python's ABI, as it serves every Python."""
        return str(Path(*fullname.split(".")).with_suffix(".pyd" if os.name == "nt" else ".so"))

    def build_extension(self, ext: Extension) -> None:
        """Build one library."""
        if ext.name == CUDA:
            return self.build_cuda(ext)
        compile_one = self.compiler._compile

        def with_flags(obj, src, suffix, cc_args, extra, pp_opts):
            extra = [*extra, *COMMON, *ISA_FLAGS[Path(src).name]]
            return compile_one(obj, src, suffix, cc_args, extra, pp_opts)

        self.compiler._compile = with_flags
        try:
            super().build_extension(ext)
        finally:
            self.compiler._compile = compile_one

    def build_cuda(self, ext: Extension) -> None:
        """Build the CUDA library.

        Raises:
            CompileError: nvcc is missing or failed.
        """
        library, digest = Path(self.get_ext_fullpath(ext.name)), sum_of_sources(CUDA_SOURCES, nvcc["SOURCE_NAMES"])
        try:
            compiler = nvcc["find"]()
            if compiler is None:
                raise CompileError(
                    "FUSED_INR_CUDA=1 asks for the CUDA kernels, and nvcc is neither on PATH nor in CUDA_HOME."
                )
            names = nvcc["architectures"](os.environ.get("TORCH_CUDA_ARCH_LIST"))
            print(f"building the CUDA kernels for {' '.join(names)} with {compiler}", flush=True)
            nvcc["build"](compiler, CUDA_SOURCES, library, names, digest, Path(self.build_temp) / "cuda")
        except (ValueError, OSError, nvcc["CompileError"]) as error:
            raise CompileError(f"the CUDA kernels were not built: {error}") from error


class BdistWheel(bdist_wheel):
    """Tag the wheel with its platform alone: the libraries are opened with ctypes and use nothing of Python's ABI.

    A wheel built without a compiler holds no library and has the same tag, so that it never stands in for the real one
    on other platforms.
    """

    def get_tag(self) -> tuple[str, str, str]:
        """Return the tags of Python, ABI and platform."""
        return "py3", "none", super().get_tag()[2]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt, "bdist_wheel": BdistWheel})
