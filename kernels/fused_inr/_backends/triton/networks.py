"""`mlp` on the Triton kernels, as ops that torch.compile can trace. Importing this module does not import Triton."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr.primitives.mlp import as_siren, register


def _values(coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any) -> Tensor:
    from fused_inr._backends.triton.kernels import launch, siren_forward, siren_layers

    arguments, dtype = (coords, weights, biases, *_siren_options(options[:3]), options[3]), options[3]
    if not siren_forward.fits(coords, weights, dtype):
        return siren_layers.forward(*arguments)
    out, launches = siren_forward.forward(*arguments)
    launch.run(launches, coords.device)
    return out


def _gradients(
    gradient: Tensor, coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any
) -> list[Tensor]:
    from fused_inr._backends.triton.kernels import launch, siren_backward, siren_layers

    network_options, dtype, with_coords = options[:3], options[3], options[4]
    arguments = gradient, coords, weights, biases, *_siren_options(network_options), dtype, with_coords
    if siren_backward.fits(coords, weights, dtype):
        coords_gradient, row_gradients, launches = siren_backward.backward(*arguments)
        launch.run(launches, coords.device)
        parameter_gradients = siren_backward.unpacked(row_gradients, weights, biases)
    else:
        coords_gradient, *parameter_gradients = siren_layers.backward(*arguments)
    return [coords.new_empty(0) if coords_gradient is None else coords_gradient, *parameter_gradients]


mlp = register("triton", _values, _gradients)


def _siren_options(options: Sequence[Any]) -> tuple[float, float, bool]:
    """Return (omega, first_omega, whether the last layer is a sine) of a call that the kernels support."""
    siren = as_siren(*options)
    if siren is None:
        raise ValueError(f"the Triton kernels evaluate only sines and a linear last layer, not {options[0]}.")
    return siren


def supports(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activations: list[str],
    omegas: list[float],
    skips: list[bool],
    dtype: torch.dtype,
) -> tuple[bool, str]:
    """Return whether the kernels support a call, and if not, why; arguments as in `reference.mlp`."""
    if as_siren(activations, omegas, skips) is None:
        return False, "it evaluates only sines and a linear last layer"
    if coords.dtype != torch.float32 or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False, f"it computes in float32, bfloat16 or float16, not in {dtype}"
    return True, ""
