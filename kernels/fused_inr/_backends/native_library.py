"""Compiled libraries of the backends: finding one, and checking that it was built from the current sources."""

import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path


def source_hash(folder: Path, patterns: Sequence[str]) -> str:
    """Return a hash (16 hex digits) of the files that match the patterns; a library contains the hash of its sources.

    This module imports nothing from the package, because `setup.py` runs it before the package is installed.
    """
    digest = hashlib.sha256()
    for path in sorted(path for pattern in patterns for path in folder.glob(pattern)):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def opened(
    folder: Path, sources: Path, patterns: Sequence[str], name: str, missing: str
) -> tuple[ctypes.CDLL | None, str]:
    """Open a library and compare it with its sources.

    Args:
        folder: folder of the library `_native*`.
        sources: folder of its sources, which exists only in a checkout.
        patterns: glob patterns of the source files.
        name: name of the library in the returned messages.
        missing: message if the library does not exist.

    Returns:
        (library, "ready"), or (None, the reason why it cannot be used).
    """
    libraries = sorted(folder.glob("_native*.so")) + sorted(folder.glob("_native*.pyd"))
    if not libraries:
        return None, missing
    try:
        library = ctypes.CDLL(str(libraries[-1]))
        library.fused_inr_source_hash.restype = ctypes.c_char_p
        built_from = library.fused_inr_source_hash().decode()
    except (OSError, AttributeError) as error:
        return None, f"{name} cannot be loaded: {error}"
    if sources.is_dir() and source_hash(sources, patterns) != built_from:
        where = f"csrc/{sources.name}"
        return None, f"{name} is out of date with the sources in {where}: run pip install -e . again"
    return library, "ready"
