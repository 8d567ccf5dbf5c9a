"""Memory that PyTorch frees on a CPU, and what the C library does with it."""

from __future__ import annotations

import ctypes
import platform

# Of glibc's malloc.h. By default blocks of up to 32 MiB come to be kept, and 64 MiB of free memory at the end.
_TRIM_THRESHOLD, _MMAP_THRESHOLD, _MMAP_MAX = -1, -3, -4
_KEPT = {_MMAP_MAX: 0, _TRIM_THRESHOLD: -1}
_DEFAULT = {_MMAP_MAX: 65536, _MMAP_THRESHOLD: 32 << 20, _TRIM_THRESHOLD: 64 << 20}


def keep_freed_memory(keep: bool = True) -> bool:
    """Makes this process keep the memory that it frees, for the allocations to come; False ends that and gives it back.

    glibc gives every block above 32 MiB back to the system at once. A training step on a CPU allocates the same blocks
    over and over, and the system hands their pages out one by one, each filled with zeros: 10 to 25 % of a step.

    Returns:
        whether the C library is one that can be told.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    told = [library.mallopt(parameter, value) for parameter, value in (_KEPT if keep else _DEFAULT).items()]
    if not keep:
        library.malloc_trim(0)
    return all(told)
