"""How a long sum is split among the programs of a GPU (split-K), for the Triton and the CUDA backend.

A gradient that sums over pixels or points has few results and many terms. Each of its splits writes a partial sum, and
the partial sums are added in a fixed order afterwards, so that the same call gives the same bits.
"""


def splits_to_fill(programs: int, sums: int, most: int) -> int:
    """Return the number of splits of each of `sums` sums that gives at least `programs` programs, from 1 to `most`."""
    return max(1, min(-(-programs // max(1, sums)), most))


def equal_splits(length: int, splits: int, block: int) -> tuple[int, int]:
    """Split a sum into at most `splits` spans of equal length.

    Args:
        length: number of terms.
        splits: number of spans to aim for.
        block: terms that a program adds at a time; a span is a multiple of it.

    Returns:
        The number of spans and the length of each; the last one may be shorter.
    """
    span = min(-(-length // (splits * block)) * block, 1 << 30)  # kernels count the terms of a span in 32 bits
    return -(-length // span), span
