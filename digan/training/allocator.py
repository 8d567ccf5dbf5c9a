"""Freed memory on a CPU: whether the C library keeps it in the process."""

from __future__ import annotations

import ctypes
import platform

# Parameters of mallopt, from glibc's malloc.h. The defaults are the largest values that glibc's own adjustment reaches.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEEP = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_DEFAULT = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}


def keep_freed_memory(keep: bool = True) -> bool:
    """Set whether this process keeps the memory that it frees, for later allocations.

    By default glibc returns every block above 32 MiB to the system as soon as it is freed. A training step on a CPU
    allocates the same blocks again and again, and the system hands out their pages one by one, each filled with zeros:
    10 to 25 % of a step.

    Args:
        keep: True keeps freed memory. False returns all memory that is free now, and restores the default thresholds;
            a later block that fits into a gap of the heap may still be kept when it is freed.

    Returns:
        Whether the C library supports this.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    accepted = [library.mallopt(parameter, value) for parameter, value in (_KEEP if keep else _DEFAULT).items()]
    if not keep:
        library.malloc_trim(0)
    return all(accepted)
