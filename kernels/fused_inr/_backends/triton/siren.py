"""SIRENs on the Triton kernels as ops that torch.compile can hold. Importing this does not import Triton."""

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
        of_coords, of_rows, launches = siren_backward.backward(*arguments)
        launch.run(launches, coords.device)
        of_parameters = siren_backward.unpacked(of_rows, weights, biases)
    else:
        of_coords, *of_parameters = siren_layers.backward(*arguments)
    return [coords.new_empty(0) if of_coords is None else of_coords, *of_parameters]


siren = register("triton", _values, _gradients)


def supports(
    coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: float | str | torch.dtype
) -> tuple[bool, str]:
    """Return whether the kernels support a call, and if not, why; arguments as of `reference.siren`."""
    dtype = options[-1]
    if coords.dtype != torch.float32 or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False, f"it computes in float32, bfloat16 or float16, not in {dtype}"
    return True, ""
