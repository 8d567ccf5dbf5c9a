"""A kernel with everything it is called with: what runs on a device, and what is compiled ahead of time without one.

Nothing here is made of tensors' contents, so the launches of calls on "meta" tensors are those of the same calls on a
device: same block sizes, same specialization on the arguments.
"""

from dataclasses import dataclass
from typing import Any

import torch

WARPS = 4
# Elements of a tile by the bytes of one: four 16-byte loads a thread with 4 warps.
_TILE_ELEMENTS = {2: 4096, 4: 2048}


@dataclass(frozen=True)
class Launch:
    """One launch of a Triton kernel over `programs` programs."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    num_warps: int = WARPS

    def run(self) -> None:
        """Launches it on the current device and stream, or runs it on the CPU where Triton interprets."""
        if self.programs:
            self.kernel[(self.programs,)](**self.arguments, num_warps=self.num_warps)


def tile_elements(dtype: torch.dtype) -> int:
    """Elements that one program of a memory-bound kernel holds of each tensor; a power of two."""
    return _TILE_ELEMENTS[dtype.itemsize]


def power_of_two(size: int) -> int:
    """The smallest power of two that is at least `size` and 1."""
    return 1 << max(0, size - 1).bit_length()


def cdiv(a: int, b: int) -> int:
    """a / b rounded up."""
    return -(-a // b)
