"""`mlp` on the Triton kernels, as ops that torch.compile can trace. Importing this module does not import Triton."""

from typing import Any

import torch
from torch import Tensor

from fused_inr.primitives.mlp import register, uniform_layers


def _values(coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any) -> Tensor:
    from fused_inr._backends.triton.kernels import launch, network_forward, network_layers

    uniform, dtype = uniform_layers(*options[:3]), options[3]
    if uniform is None or not network_forward.fits(coords, weights, dtype):
        return network_layers.forward(coords, weights, biases, *options)
    out, launches = network_forward.forward(coords, weights, biases, uniform, dtype)
    launch.run(launches, coords.device)
    return out


def _gradients(
    gradient: Tensor, coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any
) -> list[Tensor]:
    from fused_inr._backends.triton.kernels import launch, network_backward, network_layers

    uniform, dtype, with_coords = uniform_layers(*options[:3]), options[3], options[4]
    if uniform is not None and network_backward.fits(coords, weights, dtype):
        coords_gradient, row_gradients, launches = network_backward.backward(
            gradient, coords, weights, biases, uniform, dtype, with_coords
        )
        launch.run(launches, coords.device)
        parameter_gradients = network_backward.unpacked(row_gradients, weights, biases)
    else:
        coords_gradient, *parameter_gradients = network_layers.backward(gradient, coords, weights, biases, *options)
    return [coords.new_empty(0) if coords_gradient is None else coords_gradient, *parameter_gradients]


mlp = register("triton", _values, _gradients)


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
    if coords.dtype != torch.float32 or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False, f"it computes in float32, bfloat16 or float16, not in {dtype}"
    return True, ""
