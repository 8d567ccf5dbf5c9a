"""SIRENs on the Triton kernels, as ops that torch.compile can trace. Importing this module does not import Triton."""

from typing import Any

import torch
from torch import Tensor

from fused_inr.primitives.siren import register


def _values(coords: Tensor, weights: list[Tensor], *others: Any) -> Tensor:
    from fused_inr._backends.triton.kernels import launch, siren_forward, siren_layers

    if not siren_forward.fits(coords, weights, others[-1]):
        return siren_layers.forward(coords, weights, *others)
    out, launches = siren_forward.forward(coords, weights, *others)
    launch.run(launches, coords.device)
    return out


def _gradients(
    gradient: Tensor, coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any
) -> list[Tensor]:
    from fused_inr._backends.triton.kernels import launch, siren_backward, siren_layers

    arguments, dtype = (gradient, coords, weights, biases, *options), options[-2]
    if siren_backward.fits(coords, weights, dtype):
        coords_gradient, row_gradients, launches = siren_backward.backward(*arguments)
        launch.run(launches, coords.device)
        parameter_gradients = siren_backward.unpacked(row_gradients, weights, biases)
    else:
        coords_gradient, *parameter_gradients = siren_layers.backward(*arguments)
    return [coords.new_empty(0) if coords_gradient is None else coords_gradient, *parameter_gradients]


siren = register("triton", _values, _gradients)


def supports(
    coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: float | str | torch.dtype
) -> tuple[bool, str]:
    """Return whether the kernels support a call, and if not, why; arguments as in `reference.siren`."""
    dtype = options[-1]
    if coords.dtype != torch.float32 or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False, f"it computes in float32, bfloat16 or float16, not in {dtype}"
    return True, ""
