"""The build of the CUDA library: architectures, flags, and the behaviour of setup.py with and without nvcc."""

import re
import runpy
from pathlib import Path

import pytest

from fused_inr._backends.cuda import nvcc

ROOT = Path(__file__).parents[4]
SOURCES = ROOT / "csrc" / "cuda"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        (None, ["8.0", "9.0+PTX"]),
        ("", ["8.0", "9.0+PTX"]),
        ("8.0;9.0a+PTX", ["8.0", "9.0a+PTX"]),
        ("7.0 7.5 8.6", ["8.6"]),
        ("Ampere;Hopper", ["8.0", "8.6+PTX", "9.0+PTX"]),
        ("9.0;9.0", ["9.0"]),
    ],
)
def test_architectures(text, names):
    assert nvcc.architectures(text) == names


@pytest.mark.parametrize(
    ("text", "message"),
    [("sm_80", "not 'sm_80'"), ("8.0;9", "not '9'"), ("7.5", "=7.5 names no architecture from 8.0 on")],
)
def test_invalid_architectures(text, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        nvcc.architectures(text)


def test_code_for_architectures():
    assert nvcc.code_flags(["8.0", "9.0+PTX"]) == ["-gencode=arch=compute_80,code=[sm_80,sm_90,compute_80]"]
    assert nvcc.code_flags(["8.0", "9.0a+PTX"]) == [
        "-gencode=arch=compute_80,code=[sm_80]",
        "-gencode=arch=compute_90a,code=[sm_90a,compute_90a]",
    ]


@pytest.fixture
def setup_file(monkeypatch):
    """Return the names in setup.py, with or without a CUDA compiler."""
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    monkeypatch.chdir(ROOT)
    monkeypatch.delenv("FUSED_INR_CUDA", raising=False)

    def run(compiler: str | None) -> dict:
        names = runpy.run_path("setup.py")
        names["nvcc"]["find"] = lambda: compiler
        return names

    return run


def extension_names(build: dict) -> list[str]:
    return [extension.name.split(".")[2] for extension in build["extensions"]()]


def test_built_if_nvcc_is_present(setup_file, monkeypatch):
    assert extension_names(setup_file("/opt/nvcc")) == ["cpu", "cuda"]
    assert extension_names(setup_file(None)) == ["cpu"]
    (extension,) = setup_file("/opt/nvcc")["cuda_extension"]()
    assert extension.optional
    files = {path.name for pattern in nvcc.SOURCE_NAMES for path in SOURCES.glob(pattern)}
    assert {Path(path).name for path in extension.depends} == files
    monkeypatch.setenv("FUSED_INR_CUDA", "0")
    assert extension_names(setup_file("/opt/nvcc")) == ["cpu"]
    monkeypatch.setenv("FUSED_INR_CUDA", "1")
    (extension,) = setup_file(None)["cuda_extension"]()
    assert not extension.optional
    monkeypatch.setenv("FUSED_INR_CUDA", "yes")
    with pytest.raises(SystemExit, match="FUSED_INR_CUDA must be 0 or 1, not 'yes'"):
        setup_file("/opt/nvcc")


@pytest.mark.parametrize(
    ("compiler", "architectures", "message"),
    [
        (None, "8.0", "FUSED_INR_CUDA=1 asks for the CUDA kernels, and nvcc is neither on PATH nor in CUDA_HOME"),
        ("/nowhere/nvcc", "8.0", "the CUDA kernels were not built: .*No such file"),
        ("/nowhere/nvcc", "new", "the CUDA kernels were not built: TORCH_CUDA_ARCH_LIST must hold entries such as"),
    ],
    ids=["no-nvcc", "missing-nvcc", "bad-list"],
)
def test_failed_builds_report_the_reason(compiler, architectures, message, setup_file, monkeypatch, tmp_path):
    from setuptools import Distribution
    from setuptools.errors import CompileError

    monkeypatch.setenv("FUSED_INR_CUDA", "1")
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", architectures)
    build = setup_file(compiler)
    command = build["BuildExt"](Distribution({"name": "x", "ext_modules": build["cuda_extension"]()}))
    command.build_lib, command.build_temp = str(tmp_path / "lib"), str(tmp_path / "temp")
    command.finalize_options()
    with pytest.raises(CompileError, match=message):
        command.build_extension(command.extensions[0])


def test_compiler_errors_are_reported(tmp_path):
    script = tmp_path / "nvcc"
    script.write_text("#!/bin/sh\necho 'x.cu(3): error: identifier \"y\" is undefined' >&2\nexit 2\n")
    script.chmod(0o755)
    with pytest.raises(nvcc.CompileError, match=r'^x\.cu\(3\): error: identifier "y" is undefined$'):
        nvcc.build(str(script), SOURCES, tmp_path / "library.so", ["8.0"], "", tmp_path / "work")
