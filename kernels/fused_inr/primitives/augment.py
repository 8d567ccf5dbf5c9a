"""Color, translation and cutout of clips as one op, whose adjoint is the same op in the opposite order.

Let S shift the pixels of a frame and zero those from outside or in the hole, and let A change saturation and contrast.
With the brightness b the op is S(A x + b), or A S x + b if color comes last. A is a linear combination of projections
(the identity, the mean over channels and the mean over the frame) and hence self-adjoint; the adjoint of S shifts the
pixels back. Apart from b the op is linear: its derivative is the op with `adjoint` toggled and without b, to any order.
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
    """The arguments of the op after x: those of `reference.augment`, and whether to apply the adjoint."""

    brightness: Tensor | None  # [N] float32
    saturation: Tensor | None  # [N] float32
    contrast: Tensor | None  # [N] float32
    offset: Tensor | None  # [N, 2] int64
    hole: Tensor | None  # [N, 2] int64
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
    """Augment clips; arguments as for `reference.augment`. Kernels get contiguous float32 and int64 amounts."""
    amounts = [None if t is None else t.float().contiguous() for t in (brightness, saturation, contrast)]
    positions = [None if t is None else t.long().contiguous() for t in (offset, hole)]
    return _augment(x.contiguous(), *amounts, *positions, hole_size, color_last, False)


def supports(
    x: Tensor, brightness: Tensor | None, saturation: Tensor | None, contrast: Tensor | None, *others: Any
) -> tuple[bool, str]:
    """Return whether the kernels of all backends support a call, and if not, why."""
    needs_gradients = any(t is not None and t.requires_grad for t in (brightness, saturation, contrast))
    if torch.is_grad_enabled() and needs_gradients:
        return False, "it has no gradient for the amounts"
    return memory_format.supports(x)


@torch.library.register_fake("fused_inr::augment")
def _(x: Tensor, *others: Any) -> Tensor:
    return torch.empty_like(x)


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    _, _, *amounts, ctx.hole_size, ctx.color_last, ctx.adjoint = inputs  # without x and brightness
    ctx.save_for_backward(*amounts)


def _backward(ctx: Any, gradient: Tensor) -> tuple:
    dx = _augment(gradient.contiguous(), None, *ctx.saved_tensors, ctx.hole_size, ctx.color_last, not ctx.adjoint)
    return dx, *[None] * 8


torch.library.register_autograd("fused_inr::augment", _backward, setup_context=_save)
