"""Every source of csrc compiles without a warning at -Wall -Wextra."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
CPU_SOURCES = sorted(path.name for path in (ROOT / "csrc" / "cpu").glob("*.cpp"))
CUDA_SOURCES = sorted(path.name for path in (ROOT / "csrc" / "cuda").glob("*.cu"))


def test_the_build_asks_for_warnings(isa_flags):
    for name, flags in isa_flags.items():
        assert {"-Wall", "-Wextra"} <= set(flags), name


@pytest.mark.parametrize("name", CPU_SOURCES)
def test_cpu_source(name, check_cpp, isa_flags):
    if name not in isa_flags:
        pytest.skip("this is not an x86 processor")
    check_cpp(f'#include "{ROOT / "csrc" / "cpu" / name}"\n', *isa_flags[name])


@pytest.mark.parametrize("name", CUDA_SOURCES)
def test_cuda_source(name, check_cuda):
    check_cuda(f'#include "{ROOT / "csrc" / "cuda" / name}"\n')


def test_cuda_sources_on_the_host(check_cpp):
    check_cpp(f'#include "{ROOT / "csrc" / "cuda" / "host.cpp"}"\n')
