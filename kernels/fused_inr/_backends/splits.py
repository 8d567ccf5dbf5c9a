"""Splitting of long sums among the programs of a GPU (split-K), for the Triton and CUDA backends.

A gradient that sums over pixels or points has few results and many terms. Each split writes a partial sum, and the
partial sums are then added in a fixed order, so that repeated calls give bitwise identical results.
"""


def splits_to_fill(programs: int, sums: int, max_splits: int) -> int:
    """Return the fewest splits per sum, from 1 to `max_splits`, with which `sums` sums occupy `programs` programs."""
    return max(1, min(-(-programs // max(1, sums)), max_splits))


def equal_splits(length: int, splits: int, block: int) -> tuple[int, int]:
    """Split a sum into at most `splits` spans of equal length.

    Args:
        length: number of terms.
        splits: number of spans to aim for.
        block: terms that a program adds per step; the length of a span is a multiple of it.

    Returns:
        The number of spans and their length; the last span may be shorter.
    """
    span = min(-(-length // (splits * block)) * block, 1 << 30)  # kernels count the terms of a span in 32 bits
    return -(-length // span), span
