"""Whether the backward pass of `render` recomputes the outputs of the layers or stores them in the forward pass."""

from collections.abc import Iterator
from contextlib import contextmanager

_stored = False


def stored() -> bool:
    """Return whether backends store the outputs of layers."""
    return _stored


@contextmanager
def store_activations() -> Iterator[None]:
    """Make `render` store the outputs of its layers for the backward pass, inside the `with` block.

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
