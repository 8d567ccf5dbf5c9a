"""`mlp` as PyTorch ops: schemas, shapes and derivatives, defined once for all backends.

Unlike the other primitives, each backend has its own ops, because two backends serve tensors on the same device.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from fused_inr import composed, reference
from fused_inr.primitives.transforms import Op, batched, folded

ACTIVATIONS = ("linear", "lrelu", "relu", "sine", "gelu", "silu", "tanh", "gauss", "finer")
"""Names of the activations; the ops take positions in this tuple, because an op has no argument for a list of names."""
FREQUENCIES = ("sine", "gauss", "finer")
"""Activations that depend on `omega`."""

Values = Callable[[Tensor, list[Tensor], list[Tensor], list[str], list[float], list[bool], torch.dtype], Tensor]
Gradients = Callable[..., list[Tensor]]


def register(backend: str, values: Values, gradients: Gradients) -> Callable[..., Tensor]:
    """Register fused_inr::<backend>_mlp and fused_inr::<backend>_mlp_backward, and return `mlp` on them.

    Second derivatives come from a composition of PyTorch calls. Neither function is called if the result is empty.

    Args:
        backend: name of the backend.
        values: takes the arguments of `reference.mlp` and returns the values `[N, P, C]` float32.
        gradients: takes the gradient `[N, P, C]`, the arguments of `reference.mlp` and whether the gradient of the
            coordinates is needed; returns gradients shaped like those of `gradients_like`.

    Returns:
        A function with the arguments of `reference.mlp`, differentiable in every tensor to any order.
    """

    @torch.library.custom_op(f"fused_inr::{backend}_mlp", mutates_args=())
    def network(
        coords: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        activations: list[int],
        omegas: list[float],
        skips: list[bool],
        dtype: torch.dtype,
    ) -> Tensor:
        """Return the values `[N, P, C]` at coordinates `[N, P, K]`; `dtype` is that of the matrix products."""
        empty = values_like(coords, weights)
        if not empty.numel():
            return empty
        return values(coords, weights, biases, names_of(activations), omegas, skips, dtype)

    @network.register_fake
    def _(coords: Tensor, weights: list[Tensor], *others: Any) -> Tensor:
        return values_like(coords, weights)

    @torch.library.custom_op(f"fused_inr::{backend}_mlp_backward", mutates_args=())
    def network_backward(
        gradient: Tensor,
        coords: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        activations: list[int],
        omegas: list[float],
        skips: list[bool],
        dtype: torch.dtype,
        with_coords: bool,
        with_parameters: bool,
    ) -> list[Tensor]:
        """Return the gradients of the coordinates, the weights and the biases; those not asked for are empty."""
        empty = gradients_like(coords, weights, biases, with_coords, with_parameters)
        if not gradient.numel():
            return [tensor.zero_() for tensor in empty]
        network = coords, weights, biases, names_of(activations), omegas, skips, dtype
        results = gradients(gradient, *network, with_coords)
        return results if with_parameters else [results[0], *empty[1:]]

    @network_backward.register_fake
    def _(gradient: Tensor, coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any) -> list[Tensor]:
        return gradients_like(coords, weights, biases, *options[-2:])

    forward_op = network_op(network._opoverload, network_backward._opoverload, reference.mlp)

    def mlp(
        coords: Tensor,
        weights: list[Tensor],
        biases: list[Tensor],
        activations: list[str],
        omegas: list[float],
        skips: list[bool],
        dtype: torch.dtype,
    ) -> Tensor:
        """Return the values `[N, P, C]` float32; arguments as for `reference.mlp`."""
        return forward_op(coords, weights, biases, codes_of(activations), omegas, skips, dtype)

    return mlp


def codes_of(activations: Sequence[str]) -> list[int]:
    """Return the ops' codes of activations."""
    return [ACTIVATIONS.index(name) for name in activations]


def names_of(codes: Sequence[int]) -> list[str]:
    """Return the activations of codes."""
    return [ACTIVATIONS[code] for code in codes]


def siren_layers(count: int, omega: float, first_omega: float, final: str) -> tuple[list[str], list[float], list[bool]]:
    """Return the activations, frequencies and skip connections of a SIREN of `count` layers."""
    return [*["sine"] * (count - 1), final], [first_omega, *[omega] * (count - 1)], [False] * count


class UniformLayers(NamedTuple):
    """Layers with one activation and one frequency, except that the first has its own and the last may be linear."""

    activation: str
    omega: float
    first_omega: float
    final: bool
    """Whether the last layer has the activation too."""


def uniform_layers(activations: Sequence[str], omegas: Sequence[float], skips: Sequence[bool]) -> UniformLayers | None:
    """Return the layers of a network as uniform ones; None for other networks."""
    name, last = activations[0], activations[-1]
    inner = {omega for other, omega in list(zip(activations, omegas, strict=True))[1:] if other == name}
    if any(skips) or any(other != name for other in activations[:-1]) or last not in (name, "linear") or len(inner) > 1:
        return None
    return UniformLayers(name, inner.pop() if inner else omegas[0], omegas[0], last == name)


def as_siren(activations: Sequence[str], omegas: Sequence[float], skips: Sequence[bool]) -> UniformLayers | None:
    """Return the layers of a SIREN, or of a single linear layer; None for other networks."""
    layers = uniform_layers(activations, omegas, skips)
    linear = len(activations) == 1 and activations[0] == "linear"
    return layers if layers is not None and (linear or layers.activation == "sine") else None


def values_like(coords: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """Allocate values `[N, P, C]`."""
    return coords.new_empty(coords.shape[0], coords.shape[1], weights[-1].shape[1])


def gradients_like(
    coords: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], with_coords: bool, with_parameters: bool = True
) -> list[Tensor]:
    """Allocate the gradients of coordinates, weights and biases; those not asked for are empty."""
    of_coords = coords.new_empty(coords.shape if with_coords else 0)
    return [of_coords, *(tensor.new_empty(tensor.shape if with_parameters else 0) for tensor in (*weights, *biases))]


def network_op(overload: Any, backward_overload: Any, network: Callable[..., Any]) -> Op:
    """Return the op of a network, with the rules that `mlp` and `mlp_jet` share.

    Args:
        overload: the op. It takes coordinates, weights, biases and options, first of all the activations' codes.
        backward_overload: takes the gradients of its results, the arguments of the op, and whether the gradients of the
            coordinates and of the parameters are needed; returns those that `gradients_like` allocates.
        network: `reference.mlp` or `reference.mlp_jet`, the composition with the op's arguments.
    """
    backward_op = Op(
        backward_overload,
        _save_backward,
        partial(_differentiate_backward, network),
        _batch_backward,
        partial(_composed_backward, network),
    )

    def backward(ctx: Any, gradients: Any) -> tuple:
        (coords, *parameters), needs = ctx.saved_tensors, ctx.needs_input_grad
        count = len(parameters) // 2
        needed = needs[0], any(needs[1]) or any(needs[2])
        results = backward_op(gradients, coords, parameters[:count], parameters[count:], *ctx.options, *needed)
        of_coords, *others = results if needed[1] else [results[0], *[None] * len(parameters)]
        return of_coords if needs[0] else None, others[:count], others[count:], *[None] * len(ctx.options)

    def composition(coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any) -> Any:
        return network(coords, weights, biases, *_reference_options(options))

    return Op(overload, _save, backward, _batch, composition)


def _save(ctx: Any, inputs: tuple, output: Any) -> None:
    coords, weights, biases, *options = inputs
    ctx.save_for_backward(coords, *weights, *biases)
    ctx.options = options


def _save_backward(ctx: Any, inputs: tuple, output: list[Tensor]) -> None:
    gradients, coords, weights, biases, *options, ctx.with_coords, ctx.with_parameters = inputs
    ctx.results = None if isinstance(gradients, Tensor) else len(gradients)  # None: the network has one result
    ctx.save_for_backward(*_listed(gradients), coords, *weights, *biases)
    ctx.options = options


def _listed(value: Any) -> list:
    return list(value) if isinstance(value, (list, tuple)) else [value]


def _differentiate_backward(network: Callable[..., Any], ctx: Any, cotangents: list[Tensor]) -> tuple:
    """Differentiate the gradients of a network as a composition of PyTorch calls."""
    tensors, count = ctx.saved_tensors, ctx.results or 1
    parameters = len(tensors) - count - 1
    needed = [ctx.with_coords, *[ctx.with_parameters] * parameters]
    options = _reference_options(ctx.options)

    def gradients(*values: Tensor) -> tuple[Tensor, ...]:
        upstream = values[0] if ctx.results is None else list(values[:count])
        results = composed.network_gradients(network, upstream, values[count:], options, needed)
        return tuple(result for result in results if result is not None)

    of_gradients, of_coords, of_weights, of_biases = ctx.needs_input_grad[:4]
    needs = [*_listed(of_gradients), of_coords, *of_weights, *of_biases]
    cotangents = [cotangent for cotangent, need in zip(cotangents, needed, strict=True) if need]
    results = composed.vjp(gradients, tensors, tuple(cotangents), needs)
    middle = count + 1 + parameters // 2
    upstream = results[0] if ctx.results is None else results[:count]
    return upstream, results[count], results[count + 1 : middle], results[middle:], *[None] * (len(ctx.options) + 2)


def _reference_options(options: Sequence[Any]) -> tuple:
    """Return the options of an op as the reference takes them: codes of activations become names."""
    codes, *others = options
    return names_of(codes), *others


def _composed_backward(
    network: Callable[..., Any],
    gradients: Any,
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    *options: Any,
) -> list[Tensor]:
    *network_options, with_coords, with_parameters = options
    tensors = (coords, *weights, *biases)
    needs = [with_coords, *[with_parameters] * (len(tensors) - 1)]
    results = composed.network_gradients(network, gradients, tensors, _reference_options(network_options), needs)
    return [coords.new_empty(0) if result is None else result for result in results]


def _batch(
    op: Op, size: int, dims: tuple, coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any
) -> tuple[Any, Any]:
    axis = _batch_axis(*dims[1:3])
    length = batched(coords, dims[0], size).shape[1 + axis]
    inputs = [folded(coords, dims[0], size, axis), *_folded_parameters(size, axis, dims[1:3], weights, biases)]
    output = op(*inputs, *options)
    if isinstance(output, Tensor):
        return output.unflatten(axis, (size, length)), axis
    return [result.unflatten(axis, (size, length)) for result in output], [axis] * len(output)


def _batch_backward(
    op: Op,
    size: int,
    dims: tuple,
    gradients: Any,
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    *options: Any,
) -> tuple[list[Tensor], list[int | None]]:
    with_coords, with_parameters = options[-2:]
    axis = 0 if with_parameters else _batch_axis(*dims[2:4])
    length = batched(coords, dims[1], size).shape[1 + axis]
    upstream = [folded(g, dim, size, axis) for g, dim in zip(_listed(gradients), _listed(dims[0]), strict=True)]
    results = op(
        upstream[0] if isinstance(gradients, Tensor) else upstream,
        folded(coords, dims[1], size, axis),
        *_folded_parameters(size, axis, dims[2:4], weights, biases),
        *options,
    )
    present = [with_coords, *[with_parameters] * (len(results) - 1)]
    results = [r.unflatten(axis, (size, length)) if given else r for r, given in zip(results, present, strict=True)]
    return results, [axis if given else None for given in present]


def _batch_axis(weight_dims: list[int | None], bias_dims: list[int | None]) -> int:
    """Return the axis of the coordinates `[N, P, K]` to merge an additional axis into: P if networks lack it."""
    return 1 if all(dim is None for dim in (*weight_dims, *bias_dims)) else 0


def _folded_parameters(
    size: int, axis: int, dims: tuple, weights: list[Tensor], biases: list[Tensor]
) -> list[list[Tensor]]:
    """Merge the additional axes of weights and biases into N, unless the coordinates' is merged into P, axis 1."""
    if axis == 1:
        return [weights, biases]
    return [
        [folded(tensor, dim, size) for tensor, dim in zip(tensors, tensor_dims, strict=True)]
        for tensors, tensor_dims in zip((weights, biases), dims, strict=True)
    ]
