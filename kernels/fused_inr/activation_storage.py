"""The choice between recomputing the layers' outputs in the backward pass of `render` and storing them."""

from collections.abc import Iterator
from contextlib import contextmanager

_stored = False
_open_blocks: dict[object, None] = {}  # of all threads


def stored() -> bool:
    """Return whether `render` stores the layers' outputs for the backward pass."""
    return _stored


@contextmanager
def store_activations() -> Iterator[None]:
    """Make `render` store its layers' outputs for the backward pass inside the `with` block.

    By default the kernels recompute them, band by band, which adds a third to the arithmetic of forward and backward
    together but keeps memory independent of the number of frames. The gradients are bitwise identical either way. The
    setting applies to all threads, but only to eager calls: compiled code always recomputes. The reference backend
    always stores.
    """
    global _stored
    key = object()
    _open_blocks[key] = None
    _stored = True
    try:
        yield
    finally:
        del _open_blocks[key]
        _stored = bool(_open_blocks)
