"""Splitting sums among programs."""

import pytest

from fused_inr._backends.splits import equal_splits, splits_to_fill


def test_splits_fill_the_device():
    assert splits_to_fill(sums=1, max_splits=1000, programs=264) == 264
    assert splits_to_fill(sums=64, max_splits=1000, programs=264) == 5
    assert splits_to_fill(sums=1, max_splits=7, programs=264) == 7
    assert splits_to_fill(sums=10_000, max_splits=7, programs=264) == 1


@pytest.mark.parametrize(
    ("length", "splits", "block", "expected"),
    [(1, 4, 16, (1, 16)), (1000, 1, 64, (1, 1024)), (1000, 4, 64, (4, 256)), (1 << 32, 1, 32, (4, 1 << 30))],
)
def test_spans_are_equal_and_whole_blocks(length, splits, block, expected):
    assert equal_splits(length, splits, block) == expected
