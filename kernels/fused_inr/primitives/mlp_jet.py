"""`mlp_jet` as PyTorch ops: schemas, shapes and derivatives, defined once for all backends, as in `primitives.mlp`."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr import composed, reference
from fused_inr.primitives.mlp import (
    batch_axis,
    codes_of,
    folded_parameters,
    gradients_like,
    names_of,
    reference_options,
    save,
    unfolded_gradients,
    values_like,
)
from fused_inr.primitives.transforms import Op, batched, folded

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

    def backward(ctx: Any, jet_gradients: list[Tensor]) -> tuple:
        (coords, *parameters), needs = ctx.saved_tensors, ctx.needs_input_grad
        count = len(parameters) // 2
        needed = needs[0], any(needs[1]) or any(needs[2])
        results = backward_op(jet_gradients, coords, parameters[:count], parameters[count:], *ctx.options, *needed)
        of_coords, *others = results if needed[1] else [results[0], *[None] * len(parameters)]
        return of_coords if needs[0] else None, others[:count], others[count:], *[None] * len(ctx.options)

    forward_op = Op(jet._opoverload, save, backward, _batch, _composed)
    backward_op = Op(
        jet_backward._opoverload, _save_backward, _differentiate_backward, _batch_backward, _composed_backward
    )

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


def _save_backward(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    jet_gradients, coords, weights, biases, *options, ctx.with_coords, ctx.with_parameters = inputs
    ctx.save_for_backward(*jet_gradients, coords, *weights, *biases)
    ctx.results, ctx.options = len(jet_gradients), options


def _differentiate_backward(ctx: Any, cotangents: list[Tensor]) -> tuple:
    """Differentiate the gradients of a jet as a composition of PyTorch calls."""
    tensors, count = ctx.saved_tensors, ctx.results
    parameters = len(tensors) - count - 1
    needed = [ctx.with_coords, *[ctx.with_parameters] * parameters]

    def gradients(*values: Tensor) -> tuple[Tensor, ...]:
        results = composed.mlp_jet_gradients(
            values[:count], values[count:], *reference_options(ctx.options), needs=needed
        )
        return tuple(result for result in results if result is not None)

    of_gradients, of_coords, of_weights, of_biases = ctx.needs_input_grad[:4]
    needs = [*of_gradients, of_coords, *of_weights, *of_biases]
    cotangents = [cotangent for cotangent, need in zip(cotangents, needed, strict=True) if need]
    results = composed.vjp(gradients, tensors, tuple(cotangents), needs)
    middle = count + 1 + parameters // 2
    nothing = [None] * (len(ctx.options) + 2)
    return results[:count], results[count], results[count + 1 : middle], results[middle:], *nothing


def _composed(coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any) -> list[Tensor]:
    return reference.mlp_jet(coords, weights, biases, *reference_options(options))


def _composed_backward(
    jet_gradients: list[Tensor], coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any
) -> list[Tensor]:
    *network_options, with_coords, with_parameters = options
    tensors = (coords, *weights, *biases)
    needs = [with_coords, *[with_parameters] * (len(tensors) - 1)]
    results = composed.mlp_jet_gradients(jet_gradients, tensors, *reference_options(network_options), needs=needs)
    return [coords.new_empty(0) if result is None else result for result in results]


def _batch(
    op: Op, size: int, dims: tuple, coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any
) -> tuple[list[Tensor], list[int]]:
    axis = batch_axis(*dims[1:3])
    length = batched(coords, dims[0], size).shape[1 + axis]
    inputs = [folded(coords, dims[0], size, axis), *folded_parameters(size, axis, dims[1:3], weights, biases)]
    results = [result.unflatten(axis, (size, length)) for result in op(*inputs, *options)]
    return results, [axis] * len(results)


def _batch_backward(
    op: Op,
    size: int,
    dims: tuple,
    jet_gradients: list[Tensor],
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    *options: Any,
) -> tuple[list[Tensor], list[int | None]]:
    with_coords, with_parameters = options[-2:]
    axis = 0 if with_parameters else batch_axis(*dims[2:4])
    length = batched(coords, dims[1], size).shape[1 + axis]
    inputs = [folded(tensor, dim, size, axis) for tensor, dim in zip(jet_gradients, dims[0], strict=True)]
    parameters = folded_parameters(size, axis, dims[2:4], weights, biases)
    results = op(inputs, folded(coords, dims[1], size, axis), *parameters, *options)
    return unfolded_gradients(results, axis, (size, length), with_coords, with_parameters)
