"""Compiled libraries of the backends: where one is, and whether it was built from the sources that are here."""

import ctypes
import hashlib
from collections.abc import Sequence
from pathlib import Path


def source_hash(folder: Path, patterns: Sequence[str]) -> str:
    """Return a hash, 16 hex digits, of the sources that match; a library carries the hash it was built from.

    `setup.py` runs this file, as there is no package to import at build time.
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
        folder: where the library `_native*` is.
        sources: what it is built from; in a checkout only.
        patterns: the file names of the sources.
        name: what the sentences call the library.
        missing: the sentence for a library that is not there.
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
        return None, f"{name} was built from other sources than {where} holds: run pip install -e . again"
    return library, "ready"
