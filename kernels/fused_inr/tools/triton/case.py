"""A call whose kernels the command and the tests compile ahead of time."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fused_inr._backends.triton.kernels import configs
from fused_inr._backends.triton.kernels.launch import Launch


@dataclass(frozen=True)
class Case:
    """A call on "meta" tensors, and what its kernels are required to use.

    Attributes:
        name: unique name.
        launches: returns the launches of the call, with block sizes for the architecture of `configs.compiling_for`.
        matrix_instructions: the targets on which every kernel has to use matrix instructions; empty if the kernels
            multiply no matrices. Exact float32 products have matrix instructions on AMD GPUs only.
    """

    name: str
    launches: Callable[[], list[Launch]]
    matrix_instructions: tuple[str, ...] = ()

    def launches_on(self, target: str) -> list[Launch]:
        """Return the launches on one of `ahead_of_time.TARGETS`."""
        with configs.compiling_for(target):
            return self.launches()


def differing(launches: Iterable[Launch]) -> list[Launch]:
    """Return one launch for each kernel that Triton would compile: distinct types, constants or divisibility by 16."""
    kinds: dict[tuple, Launch] = {}
    for launch in launches:
        kind = [launch.kernel, launch.num_warps, launch.num_stages]
        for name, value in launch.arguments.items():
            if hasattr(value, "dtype"):
                kind.append((name, value.dtype))
            elif name.isupper() or value is None or isinstance(value, str):
                kind.append((name, value))
            elif isinstance(value, int):
                kind.append((name, value == 1, value % 16 == 0, value >= 1 << 31))
        kinds.setdefault(tuple(kind), launch)
    return list(kinds.values())


@contextmanager
def products_in(kind: str) -> Iterator[torch.dtype]:
    """Yield the type whose products are "bfloat16", "float16", "tf32" or "float32" inside the `with` block."""
    matmul = torch.backends.cuda.matmul
    before = matmul.fp32_precision
    matmul.fp32_precision = "tf32" if kind == "tf32" else "ieee"
    try:
        yield {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(kind, torch.float32)
    finally:
        matmul.fp32_precision = before
