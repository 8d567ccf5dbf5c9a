"""Call ops in a process whose free memory is filled with NaN, and write their results to a file.

    python poisoned_memory.py CALLS RESULTS

CALLS is a file with a list of (name of an op of fused_inr, arguments). RESULTS receives, for every instruction set and
every call, the list of tensors that the op returns.
"""

import ctypes
import sys

import torch

import fused_inr  # noqa: F401 (registers the ops)
from fused_inr._backends.cpu import native

_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # parameters of glibc's mallopt
_BLOCK, _BLOCKS = 1 << 20, 32  # bytes, and number; more than a call allocates


def poison(libc: ctypes.CDLL) -> None:
    """Grow the heap, fill it and its holes with one bits (NaN in every floating-point type), and free it again."""
    libc.malloc.restype = ctypes.c_void_p
    libc.malloc.argtypes, libc.free.argtypes = (ctypes.c_size_t,), (ctypes.c_void_p,)
    libc.mallopt(_MMAP_MAX, 0)  # all memory comes from the heap ...
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1)  # ... and stays there when freed
    blocks = [libc.malloc(_BLOCK) for _ in range(_BLOCKS)]
    for block in blocks:
        ctypes.memset(block, 0xFF, _BLOCK)
    for block in blocks:
        libc.free(block)
    block = libc.malloc(_BLOCK)
    assert ctypes.string_at(block, _BLOCK).count(b"\xff") > 0.99 * _BLOCK, "freed memory did not keep its contents"
    ctypes.memset(block, 0xFF, _BLOCK)
    libc.free(block)


def main() -> None:
    calls, results = torch.load(sys.argv[1]), []
    torch.set_num_threads(1)  # other threads would have their own heaps
    libc = ctypes.CDLL(None)
    for isa in native.ISAS[: native.best_isa() + 1]:
        native.use_isa(isa)
        for name, arguments in calls:
            poison(libc)
            result = getattr(torch.ops.fused_inr, name)(*arguments)
            results.append([result] if isinstance(result, torch.Tensor) else list(result))
    torch.save(results, sys.argv[2])


if __name__ == "__main__":
    main()
