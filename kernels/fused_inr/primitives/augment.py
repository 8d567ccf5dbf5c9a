"""Color, translation and cutout of clips as one op, whose adjoint is the same op in the opposite order.

With S what moves the pixels of a frame and zeroes those from outside and in the hole, and A the changes of color less
the brightness b, the op is S(A x + b), or A S x + b where color comes last. A is a sum of multiples of projections (on
the frame, on the means over channels, on the mean over all) and so its own adjoint; that of S moves pixels back. As the
op is linear but for b, its derivative is `adjoint` and the derivative of that is the op without b, to any order.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_inr.primitives import memory_format

torch.library.define(
    "fused_inr::augment",
    "(Tensor x, Tensor? brightness, Tensor? saturation, Tensor? contrast, Tensor? offset, Tensor? hole, "
    "SymInt[2] hole_size, bool color_last, bool adjoint) -> Tensor",
)
_augment = torch.ops.fused_inr.augment.default


class Options(NamedTuple):
    """The arguments of the op beside x: the draw, as of `reference.augment`, and whether the adjoint is applied."""

    brightness: Tensor | None  # [N] float32, as the next two
    saturation: Tensor | None
    contrast: Tensor | None
    offset: Tensor | None  # [N, 2] int64, as the next
    hole: Tensor | None
    hole_size: list[int]
    color_last: bool
    adjoint: bool


def augment(
    x: Tensor,
    brightness: Tensor | None,
    saturation: Tensor | None,
    contrast: Tensor | None,
    offset: Tensor | None,
    hole: Tensor | None,
    hole_size: tuple[int, int],
    color_last: bool,
) -> Tensor:
    """Augment clips; arguments as of `reference.augment`. Kernels get contiguous float32 and int64 amounts."""
    amounts = [None if t is None else t.float().contiguous() for t in (brightness, saturation, contrast)]
    places = [None if t is None else t.long().contiguous() for t in (offset, hole)]
    return _augment(x.contiguous(), *amounts, *places, hole_size, color_last, False)


def supports(
    x: Tensor, brightness: Tensor | None, saturation: Tensor | None, contrast: Tensor | None, *others: Any
) -> tuple[bool, str]:
    """Return whether the kernels of all backends support a call, and if not, why."""
    needs_gradients = any(t is not None and t.requires_grad for t in (brightness, saturation, contrast))
    if torch.is_grad_enabled() and needs_gradients:
        return False, "it has no gradient for the draw"
    return memory_format.supports(x)


@torch.library.register_fake("fused_inr::augment")
def _(x: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, _, *draw, ctx.hole_size, ctx.color_last, ctx.adjoint = inputs
    ctx.save_for_backward(*draw)


def _backward(ctx: Any, gradient: Tensor) -> tuple:
    dx = _augment(gradient.contiguous(), None, *ctx.saved_tensors, ctx.hole_size, ctx.color_last, not ctx.adjoint)
    return dx, *[None] * 8


torch.library.register_autograd("fused_inr::augment", _backward, setup_context=_save)
