"""SIRENs at points as programs of the native kernels."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr import composed
from fused_inr.backends.cpu import native
from fused_inr.backends.cpu.programs import KeptTensors, clip_stride, layer_struct
from fused_inr.inr import Layer


def _program(
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    omega: float,
    first_omega: float,
    final_sine: bool,
    bfloat16: bool,
    keep: KeptTensors,
) -> native.PointsStruct:
    layers = []
    for index, (weight, bias) in enumerate(zip(weights, biases, strict=True)):
        sine = final_sine or index + 1 < len(weights)
        layer = Layer(weight, bias, "sine" if sine else "linear", 1.0, first_omega if index == 0 else omega)
        layers.append(layer_struct(layer, weight, keep))
    coords = keep.keep(coords.contiguous(), 2)
    return native.PointsStruct(
        layers=(native.LayerStruct * len(layers))(*layers),
        num_layers=len(layers),
        clips=coords.shape[0],
        points=coords.shape[1],
        coords=coords.data_ptr(),
        coords_clip=clip_stride(coords),
        bfloat16=bfloat16,
    )


@torch.library.custom_op("fused_inr::cpu_siren", mutates_args=())
def cpu_siren(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    omega: float,
    first_omega: float,
    final_sine: bool,
    bfloat16: bool,
) -> Tensor:
    keep = KeptTensors()
    program = _program(coords, weights, biases, omega, first_omega, final_sine, bfloat16, keep)
    out = _empty(coords, weights)
    if out.numel():
        program.out = out.data_ptr()
        native.run(native.load()[0].fused_inr_points, program)
    return out


@cpu_siren.register_fake
def _(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    omega: float,
    first_omega: float,
    final_sine: bool,
    bfloat16: bool,
) -> Tensor:
    return _empty(coords, weights)


def _empty(coords: Tensor, weights: Sequence[Tensor]) -> Tensor:
    return coords.new_empty(coords.shape[0], coords.shape[1], weights[-1].shape[1])


@torch.library.custom_op("fused_inr::cpu_siren_backward", mutates_args=())
def cpu_siren_backward(
    gradient: Tensor,
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    omega: float,
    first_omega: float,
    final_sine: bool,
    bfloat16: bool,
    with_coords: bool,
) -> list[Tensor]:
    """Gradients of the coordinates (zeros unless `with_coords`), then of the weights, then of the biases."""
    keep = KeptTensors()
    program = _program(coords, weights, biases, omega, first_omega, final_sine, bfloat16, keep)
    found = [torch.zeros(tensor.shape, dtype=torch.float32) for tensor in (coords, *weights, *biases)]
    if gradient.numel():
        pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in found[1:]]
        count = len(weights)
        gradients = native.PointsGradientsStruct(
            weights=(ctypes.c_void_p * count)(*pointers[:count]),
            biases=(ctypes.c_void_p * count)(*pointers[count:]),
            coords=found[0].data_ptr() if with_coords else None,
            out=keep.keep(gradient.contiguous(), 2).data_ptr(),
        )
        native.run(native.load()[0].fused_inr_points_backward, program, gradients)
    return found


@cpu_siren_backward.register_fake
def _(
    gradient: Tensor,
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    omega: float,
    first_omega: float,
    final_sine: bool,
    bfloat16: bool,
    with_coords: bool,
) -> list[Tensor]:
    return [tensor.new_empty(tensor.shape) for tensor in (coords, *weights, *biases)]


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    coords, weights, biases, *options = inputs
    ctx.save_for_backward(coords, *weights, *biases)
    ctx.options = options


def _backward(ctx: Any, gradient: Tensor) -> tuple:
    *options, bfloat16 = ctx.options
    saved = ctx.saved_tensors
    count = len(saved) // 2
    if torch.is_grad_enabled():  # to be differentiated again: PyTorch calls, whose gradients are known
        dtype = torch.bfloat16 if bfloat16 else torch.float32
        found = composed.siren_gradients(gradient, saved, *options, dtype)
    else:
        weights, biases = list(saved[1 : 1 + count]), list(saved[1 + count :])
        found = torch.ops.fused_inr.cpu_siren_backward(
            gradient, saved[0], weights, biases, *ctx.options, ctx.needs_input_grad[0]
        )
    return found[0], found[1 : 1 + count], found[1 + count :], None, None, None, None


cpu_siren.register_autograd(_backward, setup_context=_save_for_backward)
