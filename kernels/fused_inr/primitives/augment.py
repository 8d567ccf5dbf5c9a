"""Color, translation and cutout of clips as one op, whose adjoint is the same op in the opposite order.

Let S shift the pixels of a frame and zero those from outside or in the hole, and let A change saturation and contrast.
With the brightness b the op is S(A x + b), or A S x + b if color comes last. A is a linear combination of projections
(the identity, the mean over channels and the mean over the frame) and hence self-adjoint; the adjoint of S shifts the
pixels back. Apart from b the op is linear: its derivative is the op with `adjoint` toggled and without b, to any order.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_inr import composed, reference
from fused_inr.primitives import memory_format
from fused_inr.primitives.transforms import Op, batched, folded

torch.library.define(
    "fused_inr::augment",
    "(Tensor x, Tensor? brightness, Tensor? saturation, Tensor? contrast, Tensor? offset, Tensor? hole, "
    "SymInt[2] hole_size, bool color_last, bool adjoint) -> Tensor",
)


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
    """Augment clips; arguments as for `reference.augment`."""
    return _augment(x, brightness, saturation, contrast, offset, hole, hole_size, color_last, False)


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


def _prepare(x: Tensor, *others: Any) -> tuple:
    """Return the arguments as kernels take them: contiguous clips, float32 amounts and int64 positions."""
    options = Options(*others)
    amounts = [None if t is None else t.float().contiguous() for t in options[:3]]
    positions = [None if t is None else t.long().contiguous() for t in options[3:5]]
    return x.contiguous(), *amounts, *positions, *options[5:]


def _composed(x: Tensor, *others: Any) -> Tensor:
    """Return what the op returns, as a composition of PyTorch calls."""
    options: list[Any]
    *options, adjoint = Options(*others)
    if not adjoint:
        return reference.augment(x, *options)
    options[0] = None  # the op is linear up to the brightness
    return composed.vjp(lambda y: reference.augment(y, *options), [torch.zeros_like(x)], x, [True])[0]


def _save(ctx: Any, inputs: tuple, output: Tensor) -> None:
    x, *options = inputs
    *tensors, ctx.hole_size, ctx.color_last, ctx.adjoint = Options(*options)
    ctx.save_for_backward(x if any(ctx.needs_input_grad[1:4]) else None, *tensors)


def _backward(ctx: Any, gradient: Tensor) -> tuple:
    x, *tensors = ctx.saved_tensors
    options = ctx.hole_size, ctx.color_last
    of_x, *of_amounts = ctx.needs_input_grad[:4]
    dx = None
    amounts: list[Tensor | None] = [None] * 3
    if of_x:
        dx = _augment(gradient, None, *tensors[1:], *options, not ctx.adjoint)
    if any(of_amounts):

        def clips(*amounts: Tensor | None) -> Tensor:
            return _composed(x, *amounts, *tensors[3:], *options, ctx.adjoint)

        amounts = composed.vjp(clips, tensors[:3], gradient, of_amounts)
    return dx, *amounts, *[None] * 5


def _batch(op: Op, size: int, dims: tuple, x: Tensor, *others: Any) -> tuple[Tensor, int]:
    *tensors, hole_size, color_last, adjoint = Options(*others)
    stacked = batched(x, dims[0], size)  # [B, N, T, C, H, W]
    per_clip = [None if t is None else folded(t, dim, size) for t, dim in zip(tensors, dims[1:6], strict=True)]
    clips = op(stacked.flatten(0, 1), *per_clip, hole_size, color_last, adjoint)
    return clips.unflatten(0, stacked.shape[:2]), 0


_augment = Op(torch.ops.fused_inr.augment.default, _save, _backward, _batch, _composed, _prepare)
