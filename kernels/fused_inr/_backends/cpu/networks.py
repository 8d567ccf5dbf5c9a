"""`mlp` on the native kernels."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr._backends.cpu import native
from fused_inr._backends.cpu.render import KeptTensors, layer_struct
from fused_inr.primitives.memory_format import batch_stride
from fused_inr.primitives.mlp import gradients_like, register, values_like


def _program(
    keep: KeptTensors,
    coords: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    activations: Sequence[str],
    omegas: Sequence[float],
    skips: Sequence[bool],
    dtype: torch.dtype,
) -> native.PointsStruct:
    layers = []
    for weight, bias, activation, omega in zip(weights, biases, activations, omegas, strict=True):
        layers.append(layer_struct(weight, bias, activation, omega, keep))
    coords = keep.keep(coords.contiguous(), 2)
    return native.PointsStruct(
        layers=(native.LayerStruct * len(layers))(*layers),
        skips=(ctypes.c_int32 * len(layers))(*skips),
        num_layers=len(layers),
        clips=coords.shape[0],
        points=coords.shape[1],
        coords=coords.data_ptr(),
        coords_clip=batch_stride(coords),
        bfloat16=dtype == torch.bfloat16,
    )


def _values(coords: Tensor, weights: list[Tensor], *others: Any) -> Tensor:
    keep, out = KeptTensors(), values_like(coords, weights)
    program = _program(keep, coords, weights, *others)
    program.out = out.data_ptr()
    native.run(native.load()[0].fused_inr_points, program)
    return out


def _gradients(
    gradient: Tensor, coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any
) -> list[Tensor]:
    *network_options, with_coords = options
    keep, count = KeptTensors(), len(weights)
    program = _program(keep, coords, weights, biases, *network_options)
    results = [tensor.zero_() for tensor in gradients_like(coords, weights, biases, with_coords)]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in results[1:]]
    gradients = native.PointsGradientsStruct(
        weights=(ctypes.c_void_p * count)(*pointers[:count]),
        biases=(ctypes.c_void_p * count)(*pointers[count:]),
        coords=results[0].data_ptr() if with_coords else None,
        out=keep.keep(gradient.contiguous(), 2).data_ptr(),
    )
    native.run(native.load()[0].fused_inr_points_backward, program, gradients)
    return results


mlp = register("cpu", _values, _gradients)


def supports(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activations: list[str],
    omegas: list[float],
    skips: list[bool],
    dtype: torch.dtype,
) -> tuple[bool, str]:
    """Return whether the kernels support a call, and if not, why; arguments as for `reference.mlp`."""
    if coords.dtype != torch.float32 or dtype not in (torch.float32, torch.bfloat16):
        return False, f"it computes in float32 or bfloat16, not in {dtype}"
    return True, ""
