"""The peak memory of a call, and the memory that a path keeps."""

import pytest
import torch

from benchmarks import memory

MEGABYTE = 2**20


def test_the_peak_includes_what_a_call_frees():
    def call() -> torch.Tensor:
        return torch.ones(64 * MEGABYTE, dtype=torch.uint8)[:8].clone()

    result, peak, seconds = memory.observed(call)
    assert result.tolist() == [1] * 8
    assert 60 * MEGABYTE < peak < 90 * MEGABYTE
    assert seconds > 0


@pytest.fixture
def switches(monkeypatch) -> list[bool]:
    calls: list[bool] = []
    monkeypatch.setattr(memory, "keep_freed_memory", lambda keep=True: calls.append(keep))
    monkeypatch.setattr(memory, "WARMING", 2)
    return calls


def test_memory_is_switched_between_kinds_of_paths_only(switches):
    calls = []
    plain, kept, other = lambda: calls.append("plain"), *(memory.Kept(lambda n=n: calls.append(n)) for n in "ab")
    allocator = memory.Allocator()
    allocator.prepare(plain)
    assert (calls, switches) == (["plain"], [])
    allocator.prepare(kept)
    assert (calls[1:], switches) == (["a", "a"], [True])
    allocator.prepare(other)
    assert switches == [True]
    assert allocator.ready(other, 1e-3)
    assert allocator.ready(kept, 9.0)
    assert not allocator.ready(kept, 1e-3)  # short calls notice the memory that another path left
    assert not allocator.ready(plain, 9.0)
    allocator.restore()
    allocator.restore()
    assert switches == [True, False]
