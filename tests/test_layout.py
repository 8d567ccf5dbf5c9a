"""The tests mirror the tree: every module has its own test file at the same path."""

from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = {"digan": "tests/digan", "kernels/fused_inr": "tests/fused_inr", "benchmarks": "tests/benchmarks"}
# A package's `__init__` exports names, and its `__main__` is the command of the tools beside it; the tests of pytest's
# own files, and of the benchmarks that pytest runs, are these files themselves.
EXCEPTIONS = ("__init__.py", "__main__.py", "conftest.py", "test_*.py")


@pytest.mark.parametrize("folder", FOLDERS)
def test_every_module_has_a_test_file(folder):
    modules = [path for path in (ROOT / folder).rglob("*.py") if not any(map(path.match, EXCEPTIONS))]
    assert modules
    mirror = {path: ROOT / FOLDERS[folder] / path.relative_to(ROOT / folder) for path in modules}
    missing = {
        module.relative_to(ROOT).as_posix()
        for module, test in mirror.items()
        if not test.with_name(f"test_{test.name}").is_file()
    }
    assert not missing, "add tests/.../test_<module>.py"
