"""Control of whether the C library returns memory that PyTorch frees on a CPU to the system."""

from __future__ import annotations

import ctypes
import platform

# From glibc's malloc.h. By default, malloc ends up keeping freed blocks of up to 32 MiB, and 64 MiB at the top.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_DEFAULT = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}


def keep_freed_memory(keep: bool = True) -> bool:
    """Keep freed memory in this process for later allocations.

    glibc returns every block above 32 MiB to the system at once. A training step on a CPU allocates the same blocks
    over and over, and the system supplies their pages one by one, each filled with zeros: 10 to 25 % of a step.

    Args:
        keep: False restores the default and returns free memory to the system.

    Returns:
        Whether the C library accepted the settings; only glibc has them.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    accepted = [library.mallopt(parameter, value) for parameter, value in (_KEPT if keep else _DEFAULT).items()]
    if not keep:
        library.malloc_trim(0)
    return all(accepted)
