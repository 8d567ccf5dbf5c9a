"""A lock on a run folder that ends with its process: one run at a time writes there."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list

from digan.errors import ConfigError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

LOCK = ".lock"
_held: weakref.WeakSet[BinaryIO] = weakref.WeakSet()


@contextlib.contextmanager
def run_lock(folder: Path, accelerator: Accelerator) -> Iterator[str]:
    """Hold the lock of a run folder inside the `with` block. The main process holds it for all of them.

    Yields:
        A sentence if the file system has no locks, else "".

    Raises:
        ConfigError: another run holds the lock; raised in every process.
    """
    file, refusal, note = None, "", ""
    if accelerator.is_main_process:
        try:
            file = _acquire(folder / LOCK)
        except BlockingIOError:
            refusal = (
                f"--resume: another run is writing to {folder} (process {_holder(folder / LOCK)}): wait for its end or "
                "stop it first."
            )
        except OSError as error:
            note = f"{folder} cannot be locked ({error.strerror}): make sure that no other run writes there."
    refusal = broadcast_object_list([refusal])[0]
    if refusal:
        raise ConfigError(refusal)
    try:
        yield note
    finally:
        if file is not None:
            file.close()


def _acquire(path: Path) -> BinaryIO:
    """Return the locked file, which is unlocked when it is closed.

    Raises:
        BlockingIOError: it is locked.
        OSError: there are no locks.
    """
    if fcntl is None:
        raise OSError(errno.ENOTSUP, "this system has no locks")
    file = open(path, "ab", buffering=0)  # noqa: SIM115 - open as long as the run
    try:
        # Not lockf, which would grant the lock to a second run of the same process.
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        file.truncate(0)
        file.write(f"{os.getpid()} on {socket.gethostname()}".encode())
    except OSError:
        file.close()
        raise
    _held.add(file)
    return file


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
