"""Evaluation of SIRENs at points."""

from collections.abc import Sequence

import torch
from torch import Tensor

from fused_inr import checks
from fused_inr.ops.dispatch import call
from fused_inr.ops.precision import product_dtype

FINAL_ACTIVATIONS = ("linear", "sine")


def _batched(name: str, tensors: Sequence[Tensor], ranks: tuple[int, int]) -> list[Tensor]:
    """Check that ranks are one of (without N, with N), and add the axis N = 1 where it is missing."""
    for index, tensor in enumerate(tensors):
        place = name if name == "coords" else f"{name}[{index}]"
        checks.floating("siren", place, tensor)
        if tensor.ndim not in ranks:
            raise ValueError(
                f"siren {place} must be floating point with {ranks[0]} or {ranks[1]} axes, "
                f"not {checks.described(tensor)}."
            )
    return [tensor if tensor.ndim == ranks[1] else tensor[None] for tensor in tensors]


def _check_siren(coords: Tensor, weights: list[Tensor], biases: list[Tensor]) -> int:
    """Check that the batched tensors match, and return N."""
    inputs = coords.shape[2]
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        if weight.shape[2] != inputs:
            raise ValueError(
                f"siren weights[{index}] must have {inputs} columns, one per input, not {weight.shape[2]}."
            )
        if bias.shape[1] != weight.shape[1]:
            raise ValueError(
                f"siren biases[{index}] must have {weight.shape[1]} entries, one per row, not {bias.shape[1]}."
            )
        inputs = weight.shape[1]
    tensors = (coords, *weights, *biases)
    checks.agree("siren coords, weights and biases must be on one device, not", (tensor.device for tensor in tensors))
    return checks.batch("siren coords, weights and biases", tensors)


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

    Differentiable in every tensor, including the coordinates, to any order, under every transform of `torch.func` and
    in forward mode.

    Modulated SIRENs are evaluated by folding the modulation into the weights and biases. For frequencies gamma and
    phases beta `[N, O]` per sample (FiLM-SIREN, pi-GAN), sin(gamma (W x + b) + beta) is a layer with omega = 1 and

        weight = gamma[:, :, None] * W    # [N, O, I]
        bias = gamma * b + beta           # [N, O]

    For shifts `[N, O]` (shift modulation, Functa), sin(omega (W x + b + shift)) is a layer with the shared W and

        bias = b + shift                  # [N, O]

    Args:
        coords: `[P, K]` shared by all networks, or `[N, P, K]`; any K.
        weights: one `[N, O, I]` or shared `[O, I]` per layer; the first has I = K.
        biases: one `[N, O]` or shared `[O]` per layer.
        omega: frequency of the sine layers, in radians per unit of W x + b.
        first_omega: frequency of the first layer; None for `omega`.
        final: "linear" or "sine", the activation of the last layer.
        dtype, backend: as for `render`.

    Returns:
        `[N, P, C]` float32 (float64 if any tensor is float64), with C the outputs of the last layer; N = 1 if no tensor
        has an axis N.

    Raises:
        ValueError: the shapes or devices of the tensors do not match, or an option is unknown.
        RuntimeError: the requested backend cannot serve this call; the message says why.
    """
    checks.choice("siren", "final", final, FINAL_ACTIVATIONS)
    omega = checks.number("siren", "omega", omega)
    first_omega = omega if first_omega is None else checks.number("siren", "first_omega", first_omega)
    weights, biases = checks.tensors("siren", "weights", weights), checks.tensors("siren", "biases", biases)
    if not weights or len(weights) != len(biases):
        raise ValueError(f"siren needs one bias per weight and at least one, not {len(weights)} and {len(biases)}.")
    (coords,) = _batched("coords", [coords], (2, 3))
    weights, biases = _batched("weights", weights, (2, 3)), _batched("biases", biases, (1, 2))
    batch = _check_siren(coords, weights, biases)
    tensors = (coords, *weights, *biases)
    wide = torch.float64 if any(tensor.dtype == torch.float64 for tensor in tensors) else torch.float32
    args = (
        coords.to(wide).expand(batch, -1, -1),
        [weight.to(wide).expand(batch, -1, -1) for weight in weights],
        [bias.to(wide).expand(batch, -1) for bias in biases],
        omega,
        first_omega,
        final,
        product_dtype(dtype, wide, coords.device),
    )
    checks.result("siren", (batch, coords.shape[1], weights[-1].shape[1]), wide, "coords or weights")
    return call("siren", coords.device.type, args, backend)
