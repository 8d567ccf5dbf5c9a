"""Build the native CPU kernels and, if nvcc is available, the CUDA kernels; everything else is in pyproject.toml.

The build needs only a C++ compiler and, for CUDA, nvcc. It does not need PyTorch (so isolated builds work), the Python
headers or a GPU. Without a compiler the package still installs, and `python -m fused_inr` reports what is missing.

Environment:
    FUSED_INR_CUDA: 0 skips the CUDA kernels; 1 makes it an error if they cannot be built.
    TORCH_CUDA_ARCH_LIST: GPU architectures to build for, for example "8.0;9.0a+PTX".
"""

import os
import platform
import runpy
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext
from setuptools.errors import CompileError

SOURCES, CUDA_SOURCES = Path("csrc/cpu"), Path("csrc/cuda")
COMMON = ["-O3", "-g0", "-std=c++17", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-Wall", "-Wextra"]
AVX512 = ["-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq", "-mfma", "-mprefer-vector-width=512"]
# The same source is compiled once per instruction set; the library selects one for the processor at run time.
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
# The package cannot be imported before it is installed, but files that import nothing from it can be run.
hash_sources = runpy.run_path(str(BACKENDS / "native_library.py"))["source_hash"]
nvcc = runpy.run_path(str(BACKENDS / "cuda" / "nvcc.py"))


def source_hash() -> str:
    """Return the hash of the CPU sources, which the compiled library reports."""
    return hash_sources(SOURCES, ("*.cpp", "*.h"))


def extensions() -> list[Extension]:
    """Return the libraries to build; headers are dependencies, so that a change in one triggers a rebuild."""
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
    """Return the CUDA library, or an empty list if it cannot be built or FUSED_INR_CUDA=0 skips it."""
    setting = os.environ.get("FUSED_INR_CUDA", "")
    if setting not in ("", "0", "1"):
        raise SystemExit(f"FUSED_INR_CUDA must be 0 or 1, not {setting!r}.")
    if setting == "0" or (not setting and nvcc["find"]() is None):
        return []
    files = sorted(path for name in nvcc["SOURCE_NAMES"] for path in CUDA_SOURCES.glob(name))
    sources = [str(path) for path in files if path.suffix == ".cu"]
    return [Extension(CUDA, sources, depends=[str(path) for path in files], optional=setting != "1")]


class BuildExt(build_ext):
    """Compile each CPU source with the flags of its instruction set, and the CUDA sources with nvcc."""

    def get_ext_filename(self, fullname: str) -> str:
        """Return the file name without an ABI suffix, because the library works with every Python version."""
        return str(Path(*fullname.split(".")).with_suffix(".pyd" if os.name == "nt" else ".so"))

    def build_extension(self, ext: Extension) -> None:
        """Build one library, each source with its own flags, and as many at a time as there are cores."""
        if ext.name == CUDA:
            return self.build_cuda(ext)
        compile_one, link = self.compiler._compile, self.compiler.link_shared_object
        running = []
        with ThreadPoolExecutor(os.cpu_count()) as pool:

            def compile_later(obj, src, suffix, cc_args, extra, pp_opts):
                flags = [*extra, *COMMON, *ISA_FLAGS[Path(src).name]]
                running.append(pool.submit(compile_one, obj, src, suffix, cc_args, flags, pp_opts))

            def link_when_compiled(*args, **options):
                for future in running:
                    future.result()
                link(*args, **options)

            self.compiler._compile, self.compiler.link_shared_object = compile_later, link_when_compiled
            try:
                super().build_extension(ext)
            finally:
                self.compiler._compile, self.compiler.link_shared_object = compile_one, link

    def build_cuda(self, ext: Extension) -> None:
        """Build the CUDA library.

        Raises:
            CompileError: nvcc is missing or failed.
        """
        library, digest = Path(self.get_ext_fullpath(ext.name)), hash_sources(CUDA_SOURCES, nvcc["SOURCE_NAMES"])
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
    """Tag the wheel for its platform only: the libraries are opened with ctypes and do not depend on Python's ABI.

    A wheel built without a compiler contains no library but has the same tag, so that it is never installed in place of
    the complete wheel on another platform.
    """

    def get_tag(self) -> tuple[str, str, str]:
        """Return the Python, ABI and platform tags."""
        return "py3", "none", super().get_tag()[2]


setup(ext_modules=extensions(), cmdclass={"build_ext": BuildExt, "bdist_wheel": BdistWheel})
