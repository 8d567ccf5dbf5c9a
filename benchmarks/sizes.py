"""The size of the measured work: tiny, to try the benchmarks; default, for minutes; full, for large cases."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")
NAMES = ("tiny", "default", "full")
_name = "default"


def use(name: str) -> None:
    """Choose the size for all benchmarks; call it before their modules are imported."""
    global _name
    assert name in NAMES
    _name = name


def name() -> str:
    return _name


def tiny() -> bool:
    return _name == "tiny"


def full() -> bool:
    return _name == "full"


def scaled(*, default: T, tiny: T | None = None, full: T | None = None) -> T:
    """Return the value for the size in use, or `default` if it has no value of its own."""
    value = {"tiny": tiny, "default": default, "full": full}[_name]
    return default if value is None else value
