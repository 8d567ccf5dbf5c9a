"""`siren` as PyTorch ops: schemas, shapes and derivatives, defined once for all backends.

Unlike the other primitives, each backend has its own ops, because two backends serve tensors on the same device.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr import composed

Values = Callable[[Tensor, list[Tensor], list[Tensor], float, float, bool, torch.dtype], Tensor]
Gradients = Callable[[Tensor, Tensor, list[Tensor], list[Tensor], float, float, bool, torch.dtype, bool], list[Tensor]]


def register(backend: str, values: Values, gradients: Gradients) -> Callable[..., Tensor]:
    """Register fused_inr::<backend>_siren and fused_inr::<backend>_siren_backward, and return `siren` on them.

    Second derivatives come from a composition of PyTorch calls. Neither function is called if the result is empty.

    Args:
        backend: name of the backend.
        values: takes the arguments of the first op and returns the values `[N, P, C]` float32.
        gradients: takes the arguments of the second op and returns gradients shaped like those of `gradients_like`.

    Returns:
        A function with the arguments of `reference.siren`, differentiable in every tensor to any order.
    """

    @torch.library.custom_op(f"fused_inr::{backend}_siren", mutates_args=())
    def network(
        coords: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        omega: float,
        first_omega: float,
        final_sine: bool,
        dtype: torch.dtype,
    ) -> Tensor:
        """Return the values `[N, P, C]` at coordinates `[N, P, K]`; `dtype` is that of the matrix products."""
        empty = values_like(coords, weights)
        return values(coords, weights, biases, omega, first_omega, final_sine, dtype) if empty.numel() else empty

    @network.register_fake
    def _(coords: Tensor, weights: list[Tensor], *others: Any) -> Tensor:
        return values_like(coords, weights)

    @torch.library.custom_op(f"fused_inr::{backend}_siren_backward", mutates_args=())
    def network_backward(
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
        """Return the gradients of the coordinates (empty unless `with_coords`), the weights and the biases."""
        if not gradient.numel():
            return [tensor.zero_() for tensor in gradients_like(coords, weights, biases, with_coords)]
        return gradients(gradient, coords, weights, biases, omega, first_omega, final_sine, dtype, with_coords)

    @network_backward.register_fake
    def _(gradient: Tensor, coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any) -> list[Tensor]:
        return gradients_like(coords, weights, biases, options[-1])

    def backward(ctx: Any, gradient: Tensor) -> tuple:
        saved, with_coords = ctx.saved_tensors, ctx.needs_input_grad[0]
        count = len(saved) // 2
        if torch.is_grad_enabled():  # the gradients may be differentiated, which only PyTorch calls support
            of_coords, *of_parameters = composed.siren_gradients(gradient, saved, *ctx.options)
        else:
            weights, biases = list(saved[1 : 1 + count]), list(saved[1 + count :])
            of_coords, *of_parameters = network_backward(gradient, saved[0], weights, biases, *ctx.options, with_coords)
        return of_coords if with_coords else None, of_parameters[:count], of_parameters[count:], None, None, None, None

    network.register_autograd(backward, setup_context=_save_for_backward)

    def siren(
        coords: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        omega: float,
        first_omega: float,
        final: str,
        dtype: torch.dtype,
    ) -> Tensor:
        """Return the values `[N, P, C]` float32; arguments as for `reference.siren`."""
        return network(coords, weights, biases, omega, first_omega, final == "sine", dtype)

    return siren


def values_like(coords: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Allocate values `[N, P, C]`."""
    return coords.new_empty(coords.shape[0], coords.shape[1], weights[-1].shape[1])


def gradients_like(
    coords: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], with_coords: bool
) -> list[Tensor]:
    """Allocate the gradients of coordinates (empty unless `with_coords`), weights and biases."""
    of_coords = coords.new_empty(coords.shape if with_coords else 0)
    return [of_coords, *(tensor.new_empty(tensor.shape) for tensor in (*weights, *biases))]


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    coords, weights, biases, *options = inputs
    ctx.save_for_backward(coords, *weights, *biases)
    ctx.options = options
