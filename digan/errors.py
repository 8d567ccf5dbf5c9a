"""Errors caused by user input or by the machine. Every message is one sentence that names the cause and the remedy."""

from __future__ import annotations

import errno


class UserError(ValueError):
    """Base class of all errors caused by user input: a command prints the message and exits with status 2."""


class ConfigError(UserError):
    """An option is unknown, malformed or contradicts another; the message is one sentence that names the flag."""


class SharedError(UserError):
    """An error that ends all processes of a launch together; the message names the processes that it comes from.

    Args:
        message: the sentence.
        quiet: whether another process of the same machine prints it.
    """

    def __init__(self, message: str, quiet: bool = False) -> None:
        super().__init__(message)
        self.quiet = quiet


class DataError(UserError):
    """The data cannot be used as requested; the message names the flag or the file and the remedy."""


class UnreadableVideo(DataError):
    """A video cannot be used; the message is the reason, after the video's name where it was read by name."""


class MetricError(UserError):
    """A metric cannot be computed as requested; the message names the cause and the remedy."""


class NetworkError(UserError):
    """A file does not hold a usable network; the message names the file and what to give instead."""


class NetworkNotFound(NetworkError, FileNotFoundError):
    """No network exists at the specified location."""


class LatentsError(UserError):
    """A file does not hold a clip's latents for the network; the message names the file and the remedy."""


class DivergenceError(UserError):
    """Training diverged; the message names the step and the tensor, and where the state is."""


class MissingPackages(UserError):
    """A command needs packages that are not installed; the message is the rest of a sentence after its name."""


_REMEDIES = {
    errno.ENOSPC: "free some space, or name a folder on another disk",
    errno.EDQUOT: "free some space, or name a folder on another disk",
    errno.EFBIG: "raise the file size limit (ulimit -f), or name a folder on another disk",
    errno.EACCES: "change the permissions, or name another path",
    errno.EPERM: "change the permissions, or name another path",
    errno.EROFS: "name a path on a disk that is not read-only",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
}


_MEMORY_SIGNS = (
    "can't allocate memory",
    "out of memory",
    "_STATUS_ALLOC_FAILED",
    "DataLoader worker",
    "Storage size calculation overflowed",
)
# CUDA errors caused by the machine; others, such as an illegal address, are defects of the program.
_DEVICE_SIGNS = ("busy or unavailable", "no kernel image is available", "driver version is insufficient")


def sentence(error: BaseException) -> str | None:
    """Return the sentence that describes an error of the user or of the machine; None for a defect of the program."""
    text = _own_text(error)
    if isinstance(error, UnreadableVideo):
        text = f"a video could not be decoded ({text}): remove it from the data and run again."
    elif isinstance(error, OSError) and not isinstance(error, UserError):
        text = _of_system(error, text)
    elif sign := memory_sign(error):
        text = next((line for line in text.splitlines() if sign in line), text)  # TorchScript's has its whole trace
        text = f"out of memory ({text.rstrip('.')}): reduce the batch, the resolution or the number of workers."
    elif isinstance(error, (RuntimeError, NotImplementedError)) and any(sign in text for sign in _DEVICE_SIGNS):
        text = f"the device cannot be used ({text.splitlines()[0].rstrip('.')}): choose another one, or the CPU."
    elif not isinstance(error, UserError) and not text.startswith("Symlink loop from"):  # of pathlib, a RuntimeError
        return None
    return text.replace("\n", "\\n")


def _own_text(error: BaseException) -> str:
    """Return the message of an error; of one that a data loading process raised, without that process's traceback."""
    text = str(error).strip() or type(error).__name__
    if "Original Traceback (most recent call last):" in text:
        text = text.splitlines()[-1].partition(": ")[2]
    return text


def _of_system(error: OSError, text: str) -> str:
    if error.strerror is None:
        return text
    remedy = _REMEDIES.get(error.errno or 0)
    path = "" if error.filename is None else f"{error.filename}: "
    return f"{path}{error.strerror}" + (f"; {remedy}." if remedy else ".")


def memory_sign(error: BaseException) -> str:
    """Return the part of a message that shows that memory ran out; "" for any other error.

    PyTorch uses several exception types for this and may not be imported, so its type is recognised by name.
    """
    text = _own_text(error)
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return text
    return next((sign for sign in _MEMORY_SIGNS if isinstance(error, RuntimeError) and sign in text), "")
