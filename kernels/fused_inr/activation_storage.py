"""What the backward pass of `render` does about the outputs of the layers: compute them again, or find them stored."""

from collections.abc import Iterator
from contextlib import contextmanager

_stored = False


def stored() -> bool:
    """Whether outputs are stored where a backend can choose."""
    return _stored


@contextmanager
def store_activations() -> Iterator[None]:
    """Inside the `with` block, `render` stores the outputs of its layers for its backward pass.

    Otherwise the kernels compute them again, band by band: a third more arithmetic in forward and backward together,
    and memory that does not grow with the number of frames. The gradients have the same bits. It holds for all threads,
    and for eager calls: compiled code always computes again. The reference backend always stores.
    """
    global _stored
    before, _stored = _stored, True
    try:
        yield
    finally:
        _stored = before
