"""The layout of a SIREN on a GPU: the warps of a block, the bytes of shared memory, and which networks fit.

The byte counts repeat those of csrc/cuda/layout.h, because torch.compile has to determine which backend serves a call
without calling a library.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

WIDTHS = (16, 32, 64, 128)
MAX_INPUTS = MAX_OUTPUTS = 16
MAX_LAYERS = 32


def _up(x: int, unit: int) -> int:
    return -(-x // unit) * unit


@dataclass(frozen=True)
class Shape:
    """The sizes of a network that determine its layout."""

    width: int  # one of `WIDTHS`
    layers: int
    inputs: int
    element: int  # bytes per element of the compute type

    @property
    def packed(self) -> int:
        """Bytes that a sample's weights and biases take in shared memory."""
        squares = (self.layers - 2) * self.width**2 * self.element
        last = MAX_OUTPUTS * self.width * self.element
        return squares + last + 4 * (self.inputs * self.width + (self.layers - 1) * self.width + MAX_OUTPUTS)

    @property
    def rows(self) -> int:
        """Number of points that a warp of the forward kernel processes at a time."""
        return 16 if self.element == 4 and self.width == 128 else 32

    @property
    def max_warps(self) -> int:
        """Largest number of warps in a block of the forward kernel."""
        return 4 if self.width < 128 else 8

    @property
    def max_blocks(self) -> int:
        """Number of blocks of the forward kernel that a multiprocessor has registers for."""
        return {16: 4, 32: 4, 64: 2 if self.element == 4 else 3, 128: 1}[self.width]

    def _with_coords(self, rows: int) -> int:
        return _up(self.packed, 128) + _up(rows * (self.inputs | 1) * 4, 128)

    def forward_shared(self, warps: int) -> int:
        """Return the bytes of shared memory of a block of the forward kernel."""
        return self._with_coords(self.rows * warps)

    def backward_shared(self, warps: int) -> int:
        """Return the bytes of shared memory of a block of the backward kernel."""
        rows = 16 * warps
        columns = 16 if self.element == 4 or self.inputs <= 8 else 32
        return self._with_coords(rows) + rows * self.element * (self.layers * self.width + MAX_OUTPUTS + columns)

    def forward_warps(self, limit: int) -> int | None:
        """Return the warps of a block of the forward kernel in `limit` bytes of shared memory, or None if none fits."""
        return next((n for n in (8, 4, 2, 1) if n <= self.max_warps and self.forward_shared(n) <= limit), None)

    def backward_warps(self, limit: int) -> int | None:
        """Return the same as `forward_warps` for the backward kernel."""
        return next((n for n in (8, 4, 2, 1) if self.backward_shared(n) <= limit), None)


def padded_width(weights: Sequence[Tensor]) -> int | None:
    """Return the kernel width for these hidden layers, or None if they are too wide."""
    widest = max([0, *(weight.shape[1] for weight in weights[:-1])])
    return next((width for width in WIDTHS if width >= widest), None)


def shape_of(weights: Sequence[Tensor], element: int) -> Shape:
    """Return the shape of a network that `refusal` accepts."""
    return Shape(padded_width(weights), len(weights), weights[0].shape[2], element)


def refusal(weights: Sequence[Tensor], element: int, limit: int, backward: bool) -> str | None:
    """Return why the kernels do not support a network, or None if they do.

    Args:
        weights: [N, O, I] of every layer.
        element: bytes per element of the compute type.
        limit: bytes of shared memory available to a block on the device.
        backward: whether gradients are needed.
    """
    if not 2 <= len(weights) <= MAX_LAYERS:
        return f"it takes 2 to {MAX_LAYERS} layers, not {len(weights)}"
    inputs, outputs = weights[0].shape[2], weights[-1].shape[1]
    if inputs > MAX_INPUTS:
        return f"it takes at most {MAX_INPUTS} coordinates, not {inputs}"
    if outputs > MAX_OUTPUTS:
        return f"it takes at most {MAX_OUTPUTS} outputs, not {outputs}"
    if padded_width(weights) is None:
        widest = max(weight.shape[1] for weight in weights[:-1])
        return f"it takes hidden layers of at most {WIDTHS[-1]}, not {widest}"
    shape = shape_of(weights, element)
    for name, needed in (("values", shape.forward_shared(1)), ("gradients", shape.backward_shared(1))):
        if needed > limit and (backward or name == "values"):
            return f"its {name} take {needed} bytes of shared memory, and the device has {limit} for a block"
    return None
