"""Every header of csrc stands alone: it has a guard and includes what it uses."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPU_HEADERS = sorted(path.name for path in (ROOT / "csrc" / "cpu").glob("*.h"))
CUDA_HEADERS = sorted(path.name for pattern in ("*.h", "*.cuh") for path in (ROOT / "csrc" / "cuda").glob(pattern))
NVCC_ONLY, HOST_ONLY = "device.cuh", "host.h"  # two definitions of the same names


@pytest.mark.parametrize("path", [*(f"cpu/{name}" for name in CPU_HEADERS), *(f"cuda/{name}" for name in CUDA_HEADERS)])
def test_guard(path):
    lines = (ROOT / "csrc" / path).read_text().splitlines()
    code = [line for line in lines if line and not line.startswith("//")]
    assert code[0] == "#pragma once"


@pytest.mark.parametrize("isa", ["base", "avx2", "avx512"])
@pytest.mark.parametrize("name", CPU_HEADERS)
def test_cpu_header(name, isa, check_cpp, isa_flags):
    if f"isa_{isa}.cpp" not in isa_flags:
        pytest.skip("this is not an x86 processor")
    macros = ["-DISA_NAME=header_test", "-DISA_TABLE=header_test_table"]
    check_cpp(f'#include "{name}"\n', f"-I{ROOT / 'csrc' / 'cpu'}", *isa_flags[f"isa_{isa}.cpp"], *macros)


@pytest.mark.parametrize("name", [name for name in CUDA_HEADERS if name != NVCC_ONLY])
def test_cuda_header_on_the_host(name, check_cpp):
    check_cpp(f'#include "{name}"\n', f"-I{ROOT / 'csrc' / 'cuda'}", "-DFUSED_INR_HOST")


@pytest.mark.parametrize("name", [name for name in CUDA_HEADERS if name != HOST_ONLY])
def test_cuda_header(name, check_cuda):
    check_cuda(f'#include "{name}"\n')
