"""The count of peak memory on "meta" tensors; `test_render.py` compares that of `render` with real allocations."""

import torch
import torch.nn.functional as F

from fused_inr.peak_memory import peak_bytes


def numbers(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def test_tensors_count_while_they_are_referred_to():
    outside = numbers(100)

    def function() -> torch.Tensor:
        x = outside.view(10, 10) + 1  # 400 bytes
        x = x.t() * 2  # 400 more; the view allocates nothing
        return torch.cat([x, x])  # 800 more

    assert peak_bytes(function) == 400 + 800
    assert peak_bytes(lambda: outside[:5]) == 0


def test_temporary_copies_of_operators_count():
    x = numbers(1, 2, 3, 4)
    assert peak_bytes(lambda: F.interpolate(x, scale_factor=2.0, mode="nearest-exact")) == 2 * 4 * 96 + 4 * 24
    assert peak_bytes(lambda: numbers(10, dtype=torch.bfloat16) + numbers(10)) == 20 + 40 + 40 + 40
