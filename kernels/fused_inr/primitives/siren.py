"""SIRENs as ops of a backend: schema, shapes and derivatives once for all backends.

Unlike the other primitives each backend has ops of its own, as two of them serve the same tensors.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr import composed


def register(
    backend: str, values: Callable[..., Tensor], gradients: Callable[..., list[Tensor]]
) -> tuple[torch.library.CustomOpDef, torch.library.CustomOpDef]:
    """Registers fused_inr::<backend>_siren and fused_inr::<backend>_siren_backward, and returns both.

    Second derivatives are those of a composition of PyTorch calls.

    Args:
        values: takes what the first op takes, and gives [N, P, C] float32. It is not called where that is empty.
        gradients: takes what the second op takes, and gives tensors as `gradients_like` does. It is not called where
            the gradient is empty.
    """

    @torch.library.custom_op(f"fused_inr::{backend}_siren", mutates_args=())
    def siren(
        coords: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        omega: float,
        first_omega: float,
        final_sine: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        """Values [N, P, C] float32 of coords [N, P, K], weights [N, O, I] and biases [N, O], products in `dtype`."""
        empty = values_like(coords, weights)
        return values(coords, weights, biases, omega, first_omega, final_sine, dtype) if empty.numel() else empty

    @siren.register_fake
    def _(coords: Tensor, weights: list[Tensor], *others: Any) -> Tensor:
        return values_like(coords, weights)

    @torch.library.custom_op(f"fused_inr::{backend}_siren_backward", mutates_args=())
    def siren_backward(
        gradient: Tensor,
        coords: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        omega: float,
        first_omega: float,
        final_sine: bool,
        dtype: torch.dtype,
        with_coords: bool,
    ) -> list[Tensor]:
        """Gradients of the coordinates (no elements unless `with_coords`), then of the weights, then of the biases."""
        if not gradient.numel():
            return [tensor.zero_() for tensor in gradients_like(coords, weights, biases, with_coords)]
        return gradients(gradient, coords, weights, biases, omega, first_omega, final_sine, dtype, with_coords)

    @siren_backward.register_fake
    def _(gradient: Tensor, coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any) -> list[Tensor]:
        return gradients_like(coords, weights, biases, options[-1])

    def backward(ctx: Any, gradient: Tensor) -> tuple:
        saved, with_coords = ctx.saved_tensors, ctx.needs_input_grad[0]
        count = len(saved) // 2
        if torch.is_grad_enabled():  # to be differentiated again: PyTorch calls, whose gradients are known
            of_coords, *found = composed.siren_gradients(gradient, saved, *ctx.options)
        else:
            weights, biases = list(saved[1 : 1 + count]), list(saved[1 + count :])
            of_coords, *found = siren_backward(gradient, saved[0], weights, biases, *ctx.options, with_coords)
        return of_coords if with_coords else None, found[:count], found[count:], None, None, None, None

    siren.register_autograd(backward, setup_context=_save_for_backward)
    return siren, siren_backward


def values_like(coords: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Values [N, P, C], not yet written."""
    return coords.new_empty(coords.shape[0], coords.shape[1], weights[-1].shape[1])


def gradients_like(
    coords: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], with_coords: bool
) -> list[Tensor]:
    """Gradients, not yet written; that of the coordinates has no elements where it is not wanted."""
    of_coords = coords.new_empty(coords.shape if with_coords else 0)
    return [of_coords, *(tensor.new_empty(tensor.shape) for tensor in (*weights, *biases))]


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    coords, weights, biases, *options = inputs
    ctx.save_for_backward(coords, *weights, *biases)
    ctx.options = options
