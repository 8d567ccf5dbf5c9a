"""What the tests of the benchmarks share: the machine of a run."""

import pytest


@pytest.fixture
def machine() -> dict:
    return {
        "device": "cpu",
        "description": "a processor, 2 threads",
        "commit": "abc1234",
        "date": "2026-01-02",
        "flop_per_second": {"float32": 2e11},
        "bytes_per_second": 4e10,
    }
