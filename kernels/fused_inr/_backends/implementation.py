"""The interface between a backend and the dispatch of ops."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Implementation(NamedTuple):
    """A backend's implementation of one op; the functions take the arguments of the op in `reference`."""

    supports: Callable[..., tuple[bool, str]]
    """Return (True, "") or (False, reason) for the arguments of a call, whose device type has been checked."""
    run: Callable[..., Any]
    memory: Callable[..., int] | None = None
    """Return the peak bytes of the call, its output included; None if unknown."""
    preferred: Callable[..., bool] | None = None
    """True: takes precedence over later backends. False: used only when the sole alternative is the
    reference. None: always True."""
