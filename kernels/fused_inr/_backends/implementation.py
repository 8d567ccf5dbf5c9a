"""What a backend says of one op."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Implementation(NamedTuple):
    """One backend's implementation of one op; the functions take the op's arguments as `reference` defines them."""

    supports: Callable[..., tuple[bool, str]]
    """(True, "") or (False, reason) for these very arguments; the device type has been checked before."""
    run: Callable[..., Any]
    memory: Callable[..., int] | None = None
    """Peak bytes of the call, its output included, if the backend can tell."""
    preferred: Callable[..., bool] | None = None
    """Whether it goes before the backends after it; if not, it serves where only the reference would. None: always."""
