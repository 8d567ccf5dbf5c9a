"""The count of peak memory on "meta" tensors; `test_render.py` compares that of `render` with real allocations."""

import pytest
import torch
import torch.nn.functional as F

import fused_inr as fi
from fused_inr import peak_memory, reference
from fused_inr.peak_memory import peak_bytes, render_bytes


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


def test_counts_of_rendering_are_remembered_by_sizes_and_strides(make_inr, monkeypatch):
    inr, grid = make_inr(), fi.Grid(4, 5)
    first = render_bytes(reference.render, inr, grid, torch.float32)
    assert first > 0

    def anew(function):
        raise LookupError

    monkeypatch.setattr(peak_memory, "peak_bytes", anew)
    other = inr.mapped(lambda tensor: tensor + 1)
    assert render_bytes(reference.render, other, fi.Grid(4, 5, x=(0.0, 2.0)), torch.float32) == first
    transposed = inr.mapped(lambda tensor: tensor.mT.contiguous().mT if tensor.ndim > 1 else tensor)
    for changed in (
        lambda: render_bytes(reference.render, inr, fi.Grid(5, 4), torch.float32),
        lambda: render_bytes(reference.render, inr, grid, torch.bfloat16),
        lambda: render_bytes(reference.render, inr.at_times(slice(0, 1)), grid, torch.float32),
        lambda: render_bytes(reference.render, transposed, grid, torch.float32),
    ):
        with pytest.raises(LookupError):
            changed()
