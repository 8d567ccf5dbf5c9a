"""Networks evaluated at points, and their derivatives with respect to the coordinates."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from fused_inr import checks
from fused_inr.ops.dispatch import call
from fused_inr.ops.precision import product_dtype
from fused_inr.primitives.mlp import ACTIVATIONS, FREQUENCIES, siren_layers

FINAL_ACTIVATIONS = ("linear", "sine")


class _Network(NamedTuple):
    """Checked arguments: every tensor has an axis of N entries and at least float32."""

    coords: Tensor  # [N, P, K]
    weights: list[Tensor]  # [N, O, I] each
    biases: list[Tensor]  # [N, O] each
    dtype: torch.dtype  # of the matrix products
    result: torch.dtype  # of the result


def mlp(
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    activations: Sequence[str],
    omegas: float | Sequence[float | None] | None = None,
    skips: Sequence[int] = (),
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Evaluate N networks at P points, each with its own weights: x <- act(W x + b), layer by layer.

    Differentiable in every tensor, including the coordinates, to any order, under every transform of `torch.func` and
    in forward mode.

    A network on Fourier features sin(F x), cos(F x), with frequencies F `[D, K]` in radians per unit, begins with a
    sine layer whose cosines have a phase of pi/2:

        weights = [torch.cat([F, F]), *weights]    # activations = ["sine", ...]
        biases = [F.new_tensor([0, torch.pi / 2]).repeat_interleave(D), *biases]

    A NeRF takes the positional encoding of x for `coords`. Its layer after a skip connection sees the encoding of size
    K first and then the H outputs of the layer before; `skips` appends the coordinates to these outputs instead:

        weights[5] = weights[5].roll(-K, -1)    # [O, K + H] to [O, H + K]; skips=[5]

    Weights that differ by sample, as after a step of gradient descent on each sample's own loss (MAML), are
    `[N, O, I]`; `torch.func.vmap` over a function of one network makes that axis.

    Args:
        coords: `[P, K]` shared by all networks, or `[N, P, K]`; any K.
        weights: one `[N, O, I]` or shared `[O, I]` per layer; the first has I = K.
        biases: one `[N, O]` or shared `[O]` per layer.
        activations: one name per layer, of z = W x + b: "linear", "relu", "lrelu" (slope 0.2), "gelu" (exact), "silu",
            "tanh", "sine" (sin(omega z); SIREN, NeurIPS 2020), "gauss" (exp(-(omega z)^2); Gaussian activations, ECCV
            2022) or "finer" (sin(omega (|z| + 1) z); FINER, CVPR 2024).
        omegas: frequencies of "sine" and "finer" and scales of "gauss": a number for all of them, or one entry per
            layer, which must be None or 1 for other activations; None for 1.
        skips: positions of layers that see the coordinates again, as in DeepSDF and NeRF: their input is the output of
            the layer before followed by the K coordinates. Layer 0 sees them anyway.
        dtype: of the matrix products: float32, bfloat16 or float16; None for autocast's if it is on, else the type to
            which PyTorch promotes those of the tensors. Sums, biases and activations are float32 in any case. Float64
            tensors are computed in float64.
        backend: a key of `fi.backends()` that must serve the call; None for the fastest that does.

    Returns:
        `[N, P, C]`, with C the outputs of the last layer; N = 1 if no tensor has an axis N. The dtype is that to which
        PyTorch promotes those of the tensors.

    Raises:
        ValueError: the shapes or devices of the tensors do not match, or an option is unknown.
        RuntimeError: the requested backend cannot serve this call; the message says why.
    """
    layers = _layers("mlp", weights, biases, activations, omegas, skips)
    net = _network("mlp", coords, weights, biases, layers[-1], dtype)
    return _evaluate("mlp", net, layers, backend)


def siren(
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    omega: float = 30.0,
    first_omega: float | None = None,
    final: str = "linear",
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> Tensor:
    """Evaluate N sinusoidal networks at P points: x <- sin(omega (W x + b)), layer by layer (SIREN, NeurIPS 2020).

    This is `mlp` with sine layers, and has its derivatives.

    Modulated SIRENs are evaluated by folding the modulation into the weights and biases. For frequencies gamma and
    phases beta `[N, O]` per sample (FiLM-SIREN, pi-GAN), sin(gamma (W x + b) + beta) is a layer with omega = 1 and

        weight = gamma[:, :, None] * W    # [N, O, I]
        bias = gamma * b + beta           # [N, O]

    For shifts `[N, O]` (shift modulation, Functa), sin(omega (W x + b + shift)) is a layer with the shared W and

        bias = b + shift                  # [N, O]

    Args:
        coords, weights, biases: as for `mlp`.
        omega: frequency of the sine layers, in radians per unit of W x + b.
        first_omega: frequency of the first layer; None for `omega`.
        final: "linear" or "sine", the activation of the last layer.
        dtype, backend: as for `mlp`.

    Returns:
        `[N, P, C]`, as `mlp` does.

    Raises:
        ValueError: the shapes or devices of the tensors do not match, or an option is unknown.
        RuntimeError: the requested backend cannot serve this call; the message says why.
    """
    checks.choice("siren", "final", final, FINAL_ACTIVATIONS)
    omega = checks.number("siren", "omega", omega)
    first_omega = omega if first_omega is None else checks.number("siren", "first_omega", first_omega)
    weights = checks.tensors("siren", "weights", weights)
    layers = siren_layers(len(weights), omega, first_omega, final)
    net = _network("siren", coords, weights, biases, layers[-1], dtype)
    return _evaluate("siren", net, layers, backend)


def mlp_jet(
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    *,
    activations: Sequence[str],
    omegas: float | Sequence[float | None] | None = None,
    skips: Sequence[int] = (),
    order: int = 2,
    hessian: bool = False,
    dtype: torch.dtype | None = None,
    backend: str | None = None,
) -> tuple[Tensor, ...]:
    """Evaluate N networks and their derivatives with respect to the coordinates at P points, in one pass.

    Values and directional derivatives propagate together through the layers, so that no graph of the derivatives is
    built. All results are differentiable in the coordinates, weights and biases: this is what physics-informed
    networks, signed distances (normals, eikonal terms) and SIRENs with supervised gradients need in each step.

    Where an activation has no derivative, that of PyTorch is used; second derivatives of "relu" and "lrelu" are zero.

    Args:
        coords, weights, biases, activations, omegas, skips, dtype, backend: as for `mlp`.
        order: 1 for values and Jacobians, 2 for Laplacians too.
        hessian: whether to return the Hessians as well; needs order 2.

    Returns:
        (values `[N, P, C]`, Jacobians `[N, P, C, K]`) for order 1. For order 2 Laplacians `[N, P, C]`, the sums of the
        second derivatives over the K coordinates, follow, and with `hessian` Hessians `[N, P, C, K, K]`. The dtype is
        that of `mlp`.

    Raises:
        ValueError: the shapes or devices of the tensors do not match, or an option is unknown.
        RuntimeError: the requested backend cannot serve this call; the message says why.
    """
    order = checks.integer("mlp_jet", "order", order, 1, 2)
    hessian = checks.flag("mlp_jet", "hessian", hessian)
    if hessian and order == 1:
        raise ValueError("mlp_jet hessian=True needs order=2.")
    layers = _layers("mlp_jet", weights, biases, activations, omegas, skips)
    net = _network("mlp_jet", coords, weights, biases, layers[-1], dtype)
    shape = *net.coords.shape[:2], net.weights[-1].shape[1], *[net.coords.shape[2]] * (2 if hessian else 1)
    checks.result("mlp_jet", shape, net.coords.dtype, "coords or weights")
    args = net.coords, net.weights, net.biases, *layers, net.dtype, order, hessian
    return tuple(result.to(net.result) for result in call("mlp_jet", coords.device.type, args, backend))


def _evaluate(
    owner: str, net: _Network, layers: tuple[list[str], list[float], list[bool]], backend: str | None
) -> Tensor:
    shape = *net.coords.shape[:2], net.weights[-1].shape[1]
    checks.result(owner, shape, net.coords.dtype, "coords or weights")
    args = net.coords, net.weights, net.biases, *layers, net.dtype
    return call("mlp", net.coords.device.type, args, backend).to(net.result)


def _layers(
    owner: str,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: Sequence[str],
    omegas: float | Sequence[float | None] | None,
    skips: Sequence[int],
) -> tuple[list[str], list[float], list[bool]]:
    """Return the activation, the frequency and whether there is a skip connection, for each layer."""
    count = len(checks.tensors(owner, "weights", weights))
    if (
        isinstance(activations, str)
        or not isinstance(activations, Iterable)
        or len(names := list(activations)) != count
    ):
        raise ValueError(f"{owner} activations must hold {count} names, one per layer, not {activations!r}.")
    for name in names:
        checks.choice(owner, "activations", name, ACTIVATIONS)
    if omegas is None or not isinstance(omegas, Sequence):
        everywhere = 1.0 if omegas is None else checks.number(owner, "omegas", omegas)
        frequencies = [everywhere if name in FREQUENCIES else 1.0 for name in names]
    else:
        if len(omegas) != count:
            raise ValueError(f"{owner} omegas must be a number or {count} entries, one per layer, not {len(omegas)}.")
        frequencies = [1.0 if omega is None else checks.number(owner, "omegas", omega) for omega in omegas]
        for index, (name, omega) in enumerate(zip(names, frequencies, strict=True)):
            if omega != 1 and name not in FREQUENCIES:
                raise ValueError(f"{owner} omegas[{index}] must be None, because {name} has no frequency, not {omega}.")
    if isinstance(skips, str) or not isinstance(skips, Iterable):
        raise ValueError(f"{owner} skips must be positions of layers, not {checks.described(skips)}.")
    places = [checks.integer(owner, "skips", skip, 1) for skip in skips]
    if any(place >= count for place in places):
        raise ValueError(f"{owner} skips must be less than the number of layers, {count}, not {max(places)}.")
    return names, frequencies, [index in places for index in range(count)]


def _network(
    owner: str,
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    skips: Sequence[bool],
    dtype: torch.dtype | None,
) -> _Network:
    """Check the tensors, and give all of them an axis of N entries and at least float32."""
    weights, biases = checks.tensors(owner, "weights", weights), checks.tensors(owner, "biases", biases)
    if not weights or len(weights) != len(biases):
        raise ValueError(f"{owner} needs weights and biases, one per weight, not {len(weights)} and {len(biases)}.")
    (coords,) = _batched(owner, "coords", [coords], (2, 3))
    weights, biases = _batched(owner, "weights", weights, (2, 3)), _batched(owner, "biases", biases, (1, 2))
    _check_sizes(owner, coords, weights, biases, skips)
    tensors = (coords, *weights, *biases)
    checks.agree(f"{owner} coords, weights and biases must be on one device, not", (t.device for t in tensors))
    batch = checks.batch(f"{owner} coords, weights and biases", tensors)
    result = coords.dtype
    for tensor in tensors:
        result = torch.promote_types(result, tensor.dtype)
    wide = torch.promote_types(result, torch.float32)
    return _Network(
        coords.to(wide).expand(batch, -1, -1),
        [weight.to(wide).expand(batch, -1, -1) for weight in weights],
        [bias.to(wide).expand(batch, -1) for bias in biases],
        product_dtype(dtype, result, coords.device),
        result,
    )


def _batched(owner: str, name: str, tensors: Sequence[Tensor], ranks: tuple[int, int]) -> list[Tensor]:
    """Check that ranks are one of (without N, with N), and add the axis N = 1 where it is missing."""
    for index, tensor in enumerate(tensors):
        place = name if name == "coords" else f"{name}[{index}]"
        checks.floating(owner, place, tensor)
        if tensor.ndim not in ranks:
            raise ValueError(
                f"{owner} {place} must be floating point with {ranks[0]} or {ranks[1]} axes, "
                f"not {checks.described(tensor)}."
            )
    return [tensor if tensor.ndim == ranks[1] else tensor[None] for tensor in tensors]


def _check_sizes(
    owner: str, coords: Tensor, weights: list[Tensor], biases: list[Tensor], skips: Sequence[bool]
) -> None:
    inputs = coords.shape[2]
    for index, (weight, bias, skip) in enumerate(zip(weights, biases, skips, strict=True)):
        inputs = inputs + coords.shape[2] if skip else inputs
        if weight.shape[2] != inputs:
            raise ValueError(
                f"{owner} weights[{index}] must have {inputs} columns, one per input, not {weight.shape[2]}."
            )
        if bias.shape[1] != weight.shape[1]:
            raise ValueError(
                f"{owner} biases[{index}] must have {weight.shape[1]} entries, one per row, not {bias.shape[1]}."
            )
        inputs = weight.shape[1]
