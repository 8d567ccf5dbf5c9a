"""The examples as modules, whose folder is that of a script when one is run."""

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], ModuleType]]:
    """Import an example by name; its imports of its neighbors end with the test."""
    monkeypatch.syspath_prepend(EXAMPLES)
    before = set(sys.modules)
    yield importlib.import_module
    for name in set(sys.modules) - before:
        if (EXAMPLES / f"{name}.py").exists():
            del sys.modules[name]


@pytest.fixture
def picture_size() -> Callable[[Path], tuple[int, int]]:
    """Return the width and height of a picture."""

    def size(path: Path) -> tuple[int, int]:
        with Image.open(path) as file:
            file.load()
            return file.size

    return size
