"""`mlp` and `mlp_jet` on the native kernels."""

import ctypes
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr._backends.cpu import native
from fused_inr._backends.cpu.render import KeptTensors, layer_struct
from fused_inr.primitives import mlp as values_op
from fused_inr.primitives import mlp_jet as jets_op
from fused_inr.primitives.memory_format import batch_stride
from fused_inr.primitives.mlp import gradients_like, values_like
from fused_inr.primitives.mlp_jet import jets_like

_RESULTS = ("out", "jacobian", "laplacian", "hessian")  # fields of a program, and of its gradients


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
    keep = KeptTensors()
    program = _program(keep, coords, weights, biases, *network_options)
    return _gradients_of(program, [gradient], keep, coords, weights, biases, with_coords)


def _gradients_of(
    program: native.PointsStruct,
    upstream: Sequence[Tensor],
    keep: KeptTensors,
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    with_coords: bool,
) -> list[Tensor]:
    """Return the gradients of coordinates, weights and biases from those of the results of a program."""
    count = len(weights)
    results = [tensor.zero_() for tensor in gradients_like(coords, weights, biases, with_coords)]
    pointers = [ctypes.c_void_p(tensor.data_ptr()) for tensor in results[1:]]
    gradients = native.PointsGradientsStruct(
        weights=(ctypes.c_void_p * count)(*pointers[:count]),
        biases=(ctypes.c_void_p * count)(*pointers[count:]),
        coords=results[0].data_ptr() if with_coords else None,
    )
    for name, gradient in zip(_RESULTS, upstream, strict=False):
        setattr(gradients, name, keep.keep(gradient.contiguous(), 2).data_ptr())
    native.run(native.load()[0].fused_inr_points_backward, program, gradients)
    return results


def _jets(coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any) -> list[Tensor]:
    *network_options, order, hessian = options
    keep, results = KeptTensors(), jets_like(coords, weights, order, hessian)
    program = _program(keep, coords, weights, biases, *network_options)
    program.order, program.with_hessian = order, hessian
    for name, result in zip(_RESULTS, results, strict=False):
        setattr(program, name, result.data_ptr())
    native.run(native.load()[0].fused_inr_points, program)
    return results


def _jet_gradients(
    jet_gradients: list[Tensor], coords: Tensor, weights: list[Tensor], biases: list[Tensor], *options: Any
) -> list[Tensor]:
    *network_options, order, hessian, with_coords = options
    keep = KeptTensors()
    program = _program(keep, coords, weights, biases, *network_options)
    program.order, program.with_hessian = order, hessian
    return _gradients_of(program, jet_gradients, keep, coords, weights, biases, with_coords)


mlp = values_op.register("cpu", _values, _gradients)
mlp_jet = jets_op.register("cpu", _jets, _jet_gradients)


def supports(
    coords: Tensor,
    weights: list[Tensor],
    biases: list[Tensor],
    activations: list[str],
    omegas: list[float],
    skips: list[bool],
    dtype: torch.dtype,
    *options: Any,
) -> tuple[bool, str]:
    """Return whether the kernels support a call, and if not, why; arguments as for `reference.mlp` or `mlp_jet`."""
    if coords.dtype != torch.float32 or dtype not in (torch.float32, torch.bfloat16):
        return False, f"it computes in float32 or bfloat16, not in {dtype}"
    return True, ""
