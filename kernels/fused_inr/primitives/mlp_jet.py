"""`mlp_jet` as PyTorch ops: schemas, shapes and derivatives, defined once for all backends, as in `primitives.mlp`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr import reference
from fused_inr.primitives.mlp import codes_of, gradients_like, names_of, network_op, values_like

Jets = Callable[..., list[Tensor]]


def register(backend: str, values: Jets, gradients: Jets) -> Jets:
    """Register fused_inr::<backend>_mlp_jet and fused_inr::<backend>_mlp_jet_backward; return `mlp_jet` on them.

    Second derivatives come from a composition of PyTorch calls. Neither function is called if there are no values.

    Args:
        backend: name of the backend.
        values: takes the arguments of `reference.mlp_jet` and returns tensors shaped like those of `jets_like`.
        gradients: takes the gradients of these tensors, the arguments of `reference.mlp_jet` and whether the gradient
            of the coordinates is needed; returns gradients shaped like those of `gradients_like`.

    Returns:
        A function with the arguments of `reference.mlp_jet`, differentiable in every tensor to any order.
    """

    @torch.library.custom_op(f"fused_inr::{backend}_mlp_jet", mutates_args=())
    def jet(
        coords: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        activations: list[int],
        omegas: list[float],
        skips: list[bool],
        dtype: torch.dtype,
        order: int,
        hessian: bool,
    ) -> list[Tensor]:
        """Return values and derivatives at coordinates `[N, P, K]`; `dtype` is that of the matrix products."""
        empty = jets_like(coords, weights, order, hessian)
        if not empty[0].numel():
            return empty
        return values(coords, weights, biases, names_of(activations), omegas, skips, dtype, order, hessian)

    @jet.register_fake
    def _(coords: Tensor, weights: list[Tensor], *others: Any) -> list[Tensor]:
        return jets_like(coords, weights, *others[-2:])

    @torch.library.custom_op(f"fused_inr::{backend}_mlp_jet_backward", mutates_args=())
    def jet_backward(
        jet_gradients: list[Tensor],
        coords: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        activations: list[int],
        omegas: list[float],
        skips: list[bool],
        dtype: torch.dtype,
        order: int,
        hessian: bool,
        with_coords: bool,
        with_parameters: bool,
    ) -> list[Tensor]:
        """Return the gradients of the coordinates, the weights and the biases; those not asked for are empty."""
        empty = gradients_like(coords, weights, biases, with_coords, with_parameters)
        if not jet_gradients[0].numel():
            return [tensor.zero_() for tensor in empty]
        network = coords, weights, biases, names_of(activations), omegas, skips, dtype, order, hessian
        results = gradients(jet_gradients, *network, with_coords)
        return results if with_parameters else [results[0], *empty[1:]]

    @jet_backward.register_fake
    def _(
        jet_gradients: list[Tensor], coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any
    ) -> list[Tensor]:
        return gradients_like(coords, weights, biases, *options[-2:])

    forward_op = network_op(jet._opoverload, jet_backward._opoverload, reference.mlp_jet)

    def mlp_jet(
        coords: Tensor, weights: list[Tensor], biases: list[Tensor], activations: list[str], *options: Any
    ) -> list[Tensor]:
        """Return values and derivatives in float32; arguments as for `reference.mlp_jet`."""
        return forward_op(coords, weights, biases, codes_of(activations), *options)

    return mlp_jet


def jets_like(coords: Tensor, weights: Sequence[Tensor], order: int, hessian: bool) -> list[Tensor]:
    """Allocate values `[N, P, C]`, Jacobians `[N, P, C, K]`, Laplacians `[N, P, C]`, Hessians `[N, P, C, K, K]`.

    Order 1 has no Laplacians. Only with `hessian` are there Hessians.
    """
    values, axes = values_like(coords, weights), coords.shape[2]
    results = [values, values.new_empty(*values.shape, axes)]
    if order == 2:
        results.append(torch.empty_like(values))
    if hessian:
        results.append(values.new_empty(*values.shape, axes, axes))
    return results
