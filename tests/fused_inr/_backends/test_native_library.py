"""Loading a compiled library, and the reasons why one cannot be used."""

import re
import runpy
import shutil
from pathlib import Path

import pytest
import torch

from fused_inr._backends import native_library
from fused_inr._backends.cpu import native

ROOT = Path(__file__).parents[3]
SOURCES = ROOT / "csrc" / "cpu"


@pytest.fixture
def load_again():
    """Yield `native.load` with an empty cache, and reload the real library after the test."""
    native.load.cache_clear()
    yield native.load
    native.load.cache_clear()


def test_no_library(load_again, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    assert load_again() == (None, "the native extension is not built: install a C++ compiler, then reinstall fused_inr")


def test_file_that_is_not_a_library(load_again, monkeypatch, tmp_path):
    (tmp_path / "_native.so").write_text("not a library")
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    library, reason = load_again()
    assert library is None
    assert re.fullmatch("the native extension cannot be loaded: .+", reason), reason  # one line


def test_library_without_a_hash(load_again, monkeypatch, tmp_path):
    shutil.copy(torch._C.__file__, tmp_path / "_native.so")
    monkeypatch.setattr(native, "_FOLDER", tmp_path)
    library, reason = load_again()
    assert library is None
    assert re.fullmatch("the native extension cannot be loaded: .+", reason), reason


@pytest.mark.parametrize("change", ["edited", "renamed", "added", "removed"])
def test_sources_that_changed(change, load_again, compiled_library, monkeypatch, tmp_path):
    folder = tmp_path / "cpu"
    shutil.copytree(SOURCES, folder)
    monkeypatch.setattr(native, "_SOURCES", folder)
    assert load_again()[1] == "ready"
    header = folder / "simd.h"
    if change == "edited":
        header.write_bytes(header.read_bytes() + b"\n")
    elif change == "renamed":
        header.rename(folder / "vectors.h")
    elif change == "added":
        (folder / "more.cpp").touch()
    else:
        header.unlink()
    native.load.cache_clear()
    library, reason = load_again()
    assert library is None
    assert reason == ("the native extension is out of date with the sources in csrc/cpu: run pip install -e . again")


def test_library_without_sources_is_accepted(load_again, compiled_library, monkeypatch, tmp_path):
    monkeypatch.setattr(native, "_SOURCES", tmp_path / "none")
    assert load_again()[1] == "ready"


def test_build_and_loader_use_the_same_hash(monkeypatch):
    setuptools = pytest.importorskip("setuptools")
    monkeypatch.setattr(setuptools, "setup", lambda **options: None)
    monkeypatch.chdir(ROOT)
    assert runpy.run_path("setup.py")["source_hash"]() == native_library.source_hash(SOURCES, native.SOURCE_NAMES)
