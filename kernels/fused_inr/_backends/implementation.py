"""What a backend says of one op."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Implementation(NamedTuple):
    """One backend's implementation of one op; the functions take the op's arguments as in `reference`."""

    supports: Callable[..., tuple[bool, str]]
    """(True, "") or (False, reason) for these arguments; the device type has been checked."""
    run: Callable[..., Any]
    memory: Callable[..., int] | None = None
    """Peak bytes of the call, its output included, if known."""
    preferred: Callable[..., bool] | None = None
    """True: takes precedence over later backends. False: used only when the sole alternative is the
    reference. None: always True."""
