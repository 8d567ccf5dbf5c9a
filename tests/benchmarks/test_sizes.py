"""The choice of the measured size."""

import pytest

from benchmarks import sizes


@pytest.mark.parametrize(("name", "value"), [("tiny", 1), ("default", 2), ("full", 3)])
def test_values_of_sizes(monkeypatch, name, value):
    monkeypatch.setattr(sizes, "_name", "default")
    sizes.use(name)
    assert sizes.name() == name
    assert (sizes.tiny(), sizes.full()) == (name == "tiny", name == "full")
    assert sizes.scaled(tiny=1, default=2, full=3) == value
    assert sizes.scaled(default=2) == 2
