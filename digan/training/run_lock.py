"""A lock on a run folder that ends with its process: one run at a time writes there."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from digan.errors import ConfigError
from digan.training.processes import ALONE, Processes

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
_PATIENCE = 20.0  # seconds; the processes of an attempt that failed end within half of that
_POLL = 0.1  # seconds between two tries to get a lock
_held: weakref.WeakSet[BinaryIO] = weakref.WeakSet()


@contextlib.contextmanager
def run_lock(folder: Path, processes: Processes = ALONE) -> Iterator[str]:
    """Hold the lock of a run folder inside the `with` block. The main process holds it for all processes.

    Processes that their launcher has restarted wait some seconds for the end of those that they replace.

    Args:
        folder: the run folder.
        processes: all processes of the launch.

    Yields:
        A sentence if the file system has no locks, else "".

    Raises:
        ConfigError: another run holds the lock; raised in every process.
    """
    file: BinaryIO | None = None

    def lock() -> str:
        nonlocal file
        try:
            file = _acquire(folder / LOCK, _PATIENCE if processes.attempt else 0)
        except BlockingIOError:
            raise ConfigError(
                f"--resume: another run is writing to {folder} (process {_holder(folder / LOCK)}): wait until it "
                "ends, or stop it first."
            ) from None
        except OSError as error:
            return f"{folder} cannot be locked ({error.strerror}): make sure that no other run writes there."
        return ""

    try:
        yield processes.from_main("the lock of the run folder", lock)
    finally:
        if file is not None:
            file.close()


def _acquire(path: Path, patience: float = 0) -> BinaryIO:
    """Return the locked file, which is unlocked when it is closed.

    Args:
        path: the file.
        patience: seconds to wait while it is locked.

    Raises:
        BlockingIOError: it is locked.
        OSError: there are no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no locks")
    file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run
    try:
        _lock(file, time.monotonic() + patience)
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}".encode())
    except OSError:
        file.close()
        raise
    _held.add(file)
    return file


def _lock(file: BinaryIO, deadline: float) -> None:
    while True:
        try:
            # Not lockf, which would grant the lock to a second run of the same process.
            return fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                raise
        time.sleep(_POLL)


def _holder(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return "unknown"


def _close_in_child() -> None:
    for file in list(_held):
        file.close()


# A forked data worker that outlives a killed run must not hold its lock.
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_in_child)
