"""SIRENs on the Triton kernels as ops that torch.compile can hold. Importing this does not import Triton."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr import composed


@torch.library.custom_op("fused_inr::triton_siren", mutates_args=())
def triton_siren(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    omega: float,
    first_omega: float,
    final_sine: bool,
    dtype: torch.dtype,
) -> Tensor:
    """Values [N, P, C] float32 of coords [N, P, K], weights [N, O, I] and biases [N, O], with products of `dtype`."""
    from fused_inr.backends.triton import launch, siren, siren_layers

    arguments = (coords, weights, biases, omega, first_omega, final_sine, dtype)
    if not siren.fits(coords, weights, dtype):
        return siren_layers.forward(*arguments)
    out, launches = siren.forward(*arguments)
    launch.run(launches, coords.device)
    return out


@triton_siren.register_fake
def _(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    omega: float,
    first_omega: float,
    final_sine: bool,
    dtype: torch.dtype,
) -> Tensor:
    return coords.new_empty(coords.shape[0], coords.shape[1], weights[-1].shape[1])


@torch.library.custom_op("fused_inr::triton_siren_backward", mutates_args=())
def triton_siren_backward(
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
    """Gradients of the coordinates (an empty tensor unless `with_coords`), then of the weights, then of the biases."""
    from fused_inr.backends.triton import launch, siren_backward, siren_layers

    if not gradient.numel():
        found = _gradients_like(coords, weights, biases, with_coords)
        return [tensor.zero_() for tensor in found]
    arguments = (gradient, coords, weights, biases, omega, first_omega, final_sine, dtype, with_coords)
    if siren_backward.fits(coords, weights, dtype):
        of_coords, of_rows, launches = siren_backward.backward(*arguments)
        launch.run(launches, coords.device)
        of_parameters = siren_backward.unpacked(of_rows, weights, biases)
    else:
        of_coords, *of_parameters = siren_layers.backward(*arguments)
    return [coords.new_empty(0) if of_coords is None else of_coords, *of_parameters]


@triton_siren_backward.register_fake
def _(
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
    return _gradients_like(coords, weights, biases, with_coords)


def _gradients_like(
    coords: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor], with_coords: bool
) -> list[Tensor]:
    of_coords = coords.new_empty(coords.shape if with_coords else 0)
    return [of_coords, *(tensor.new_empty(tensor.shape) for tensor in (*weights, *biases))]


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    coords, weights, biases, *options = inputs
    ctx.save_for_backward(coords, *weights, *biases)
    ctx.options = options


def _backward(ctx: Any, gradient: Tensor) -> tuple:
    saved = ctx.saved_tensors
    count = len(saved) // 2
    if torch.is_grad_enabled():  # to be differentiated again: PyTorch calls, whose gradients are known
        found = composed.siren_gradients(gradient, saved, *ctx.options)
    else:
        weights, biases = list(saved[1 : 1 + count]), list(saved[1 + count :])
        with_coords = ctx.needs_input_grad[0]
        of_coords, *found = triton_siren_backward(gradient, saved[0], weights, biases, *ctx.options, with_coords)
        found = [of_coords if with_coords else None, *found]
    return found[0], found[1 : 1 + count], found[1 + count :], None, None, None, None


triton_siren.register_autograd(_backward, setup_context=_save_for_backward)


def supports(
    coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: float | str | torch.dtype
) -> tuple[bool, str]:
    """Whether the kernels take a call, else why not; arguments as of `reference.siren`."""
    dtype = options[-1]
    if coords.dtype != torch.float32 or dtype not in (torch.float32, torch.bfloat16, torch.float16):
        return False, f"it computes in float32, bfloat16 or float16, not in {dtype}"
    return True, ""


def siren(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    omega: float,
    first_omega: float,
    final: str,
    dtype: torch.dtype,
) -> Tensor:
    """`reference.siren` on the Triton kernels."""
    return triton_siren(coords, weights, biases, omega, first_omega, final == "sine", dtype)
