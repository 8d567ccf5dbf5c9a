"""A kernel with all of its arguments: run on a device, or compiled ahead of time without one.

Nothing here depends on the contents of tensors, so a call on "meta" tensors produces the same launches as on a device:
the same block sizes and the same specialization on the arguments.
"""

from collections.abc import Iterable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch

WARPS = 4
# Elements of each tensor that one program of a memory-bound kernel holds: two 16-byte loads per thread in half
# precision, four in float32. That leaves registers for at least 4 programs per multiprocessor, which together hide the
# latency.
TILE_ELEMENTS = 2048


@dataclass(frozen=True)
class Launch:
    """One launch of a Triton kernel over `programs` programs."""

    kernel: Any
    programs: int
    arguments: dict[str, Any]
    num_warps: int = WARPS
    num_stages: int | None = None
    """Number of tiles in flight in a pipelined loop; None leaves it to Triton."""

    @property
    def options(self) -> dict[str, int]:
        """Return the options that Triton takes besides the arguments."""
        stages = {} if self.num_stages is None else {"num_stages": self.num_stages}
        return {"num_warps": self.num_warps} | stages

    def run(self) -> None:
        """Launch on the current device and stream, or run on the CPU in Triton's interpreter."""
        if self.programs:
            self.kernel[(self.programs,)](**self.arguments, **self.options)


def power_of_two(size: int) -> int:
    """Return the smallest power of two that is at least `size` and 1."""
    return 1 << max(0, size - 1).bit_length()


def cdiv(a: int, b: int) -> int:
    """Return a / b rounded up."""
    return -(-a // b)


def run(launches: Iterable[Launch], device: torch.device) -> None:
    """Run launches in order on a device, which need not be the current one."""
    with torch.cuda.device(device) if device.type == "cuda" else nullcontext():
        for launch in launches:
            launch.run()
