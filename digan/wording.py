"""Wording that messages of all commands share."""

from __future__ import annotations

from collections.abc import Sequence


def counted(count: int, one: str, many: str = "") -> str:
    """Return a count with its noun: `1 video`, `2 videos`; `many` gives an irregular plural."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"


def first_few(items: Sequence[str], limit: int = 5, separator: str = ", ") -> str:
    """Return the first items, and an ellipsis if there are more than `limit`."""
    return separator.join([*items[:limit], *(["…"] if len(items) > limit else [])])


def reason(error: Exception) -> str:
    """Return a short reason for an exception."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
