"""What a call is to the command and the tests that compile its kernels ahead of time."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch

from fused_inr._backends.triton.kernels import configs
from fused_inr._backends.triton.kernels.launch import Launch


@dataclass(frozen=True)
class Case:
    """A call, on tensors without contents, and what is asked of the kernels it launches.

    Attributes:
        name: unique.
        launches: those of the call; block sizes are those of the architecture that `configs.compiling_for` names.
        matrix_instructions: the targets on which all of its kernels multiply with them; none where nothing is
            multiplied. Exact float32 products have them on AMD GPUs only.
    """

    name: str
    launches: Callable[[], list[Launch]]
    matrix_instructions: tuple[str, ...] = ()

    def launches_on(self, target: str) -> list[Launch]:
        """Return the launches on one of `ahead_of_time.TARGETS`."""
        with configs.compiling_for(target):
            return self.launches()


def differing(launches: Iterable[Launch]) -> list[Launch]:
    """Return one launch for each kernel that Triton would compile, by types, constants and divisibility by 16."""
    kinds = {}
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
    """Inside the `with` block, products of the type that it gives are "bfloat16", "float16", "tf32" or "float32"."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = kind == "tf32"
    try:
        yield {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(kind, torch.float32)
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before
