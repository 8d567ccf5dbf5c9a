"""`render` on the native kernels, which take an INR as a C struct of pointers and strides."""

import math

import torch
from torch import Tensor

from fused_inr import composed
from fused_inr._backends.cpu import native
from fused_inr.flattening import flatten, frames_shape
from fused_inr.inr import INR, Grid, Layer
from fused_inr.lowering import StagePlan, lower
from fused_inr.primitives.memory_format import batch_stride
from fused_inr.primitives.mlp import ACTIVATIONS
from fused_inr.primitives.render import register
from fused_inr.primitives.transforms import may_need_gradients
from fused_inr.reference import LRELU_SLOPE

_TYPES = (torch.float32, torch.bfloat16)


class KeptTensors:
    """Converts tensors to the form that kernels take, and keeps them alive while pointers to them are in use."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def keep(self, tensor: Tensor, dense: int) -> Tensor:
        """Return `tensor` in float32 with the last `dense` axes in row-major order; rows may be padded."""
        tensor = tensor.detach().to(torch.float32)
        rows = tensor.stride()[-dense:]
        if rows[-1] != 1 or (dense > 1 and (rows[0] < tensor.shape[-1] or rows[0] == 0)):
            tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor


def _bias(layer_bias: Tensor, keep: KeptTensors) -> tuple[Tensor, int, int]:
    """Return a bias and its strides per clip and per frame, in elements."""
    bias = keep.keep(layer_bias, 1)
    clip = batch_stride(bias) if bias.ndim > 1 else 0
    time = bias.stride(1) if bias.ndim == 3 and bias.shape[1] > 1 else 0
    return bias, clip, time


def layer_struct(
    weight: Tensor, bias: Tensor, activation: str, omega: float, keep: KeptTensors, gain: float = 1.0
) -> native.LayerStruct:
    """Return the struct of a layer without a read-out; `bias` is `[O]`, `[N, O]` or `[N, T, O]`."""
    weight = keep.keep(weight, 2)
    bias, bias_clip, bias_time = _bias(bias, keep)
    return native.LayerStruct(
        weight=weight.data_ptr(),
        weight_clip=batch_stride(weight),
        weight_row=weight.stride(1),
        bias=bias.data_ptr(),
        bias_clip=bias_clip,
        bias_time=bias_time,
        inputs=weight.shape[2],
        outputs=weight.shape[1],
        activation=ACTIVATIONS.index(activation),
        slope=LRELU_SLOPE,
        omega=omega,
        gain=gain,
    )


def _layer(layer: Layer, weight: Tensor, keep: KeptTensors) -> native.LayerStruct:
    """Return the struct of a layer that multiplies by `weight`, which may be only a part of the layer's weight."""
    struct = layer_struct(weight, layer.bias, layer.activation, layer.omega, keep, layer.gain)
    if layer.to_rgb is not None:
        rgb = keep.keep(layer.to_rgb[0].contiguous(), 2)
        if not rgb.numel():  # the pointer of an empty tensor is null, which means that there is no read-out
            rgb = keep.keep(rgb.new_zeros(1, 1, 1), 2)
        struct.rgb_weight, struct.rgb_clip = rgb.data_ptr(), batch_stride(rgb)
        struct.rgb_bias = keep.keep(layer.to_rgb[1], 1).data_ptr()
    return struct


def _stage(plan: StagePlan, keep: KeptTensors) -> native.StageStruct:
    struct = native.StageStruct(scale=plan.scale, layers=len(plan.layers))
    if plan.parent is not None:
        parent = keep.keep(plan.parent, 2)
        struct.parent, struct.parent_clip = parent.data_ptr(), batch_stride(parent)
        struct.parent_row = parent.stride(1)
    if plan.fourier is not None:
        frequency, phase = keep.keep(plan.fourier.frequency.contiguous(), 2), keep.keep(plan.fourier.phase, 1)
        struct.features, struct.cosines = frequency.shape[1], plan.fourier.parts == "sincos"
        struct.frequency, struct.frequency_clip = frequency.data_ptr(), batch_stride(frequency)
        struct.phase, struct.phase_clip, struct.phase_time = phase.data_ptr(), batch_stride(phase), phase.stride(1)
    return struct


def _program(inr: INR, grid: Grid, dtype: torch.dtype, keep: KeptTensors) -> native.ProgramStruct:
    plans = lower(inr, grid)
    layers = [
        _layer(layer, plan.inner if index == 0 else layer.weight, keep)
        for plan in plans
        for index, layer in enumerate(plan.layers)
    ]
    stages = [_stage(plan, keep) for plan in plans]
    return native.ProgramStruct(
        stages=(native.StageStruct * len(stages))(*stages),
        layers=(native.LayerStruct * len(layers))(*layers),
        num_stages=len(stages),
        num_layers=len(layers),
        clips=inr.batch,
        times=inr.times,
        height=grid.height,
        width=grid.width,
        x0=grid.x[0],
        x1=grid.x[1],
        y0=grid.y[0],
        y1=grid.y[1],
        channels=inr.channels,
        has_rgb=any(layer.rgb_weight is not None for layer in layers),
        bfloat16=dtype == torch.bfloat16,
    )


def _evaluate(inr: INR, grid: Grid, dtype: torch.dtype, keep: bool) -> tuple[Tensor, list[Tensor]]:
    alive = KeptTensors()
    program = _program(inr, grid, dtype, alive)
    out = torch.empty(frames_shape(inr, grid), dtype=torch.float32)
    program.out = out.data_ptr()
    kept = []
    if keep:
        kept.append(torch.empty(native.load()[0].fused_inr_kept_bytes(program, native.isa()), dtype=torch.uint8))
        program.kept = kept[0].data_ptr()
    native.run(native.load()[0].fused_inr_render, program)
    return out, kept


def _differentiate(inr: INR, grid: Grid, gradient: Tensor, dtype: torch.dtype, kept: list[Tensor]) -> list[Tensor]:
    alive = KeptTensors()
    program = _program(inr, grid, dtype, alive)
    program.kept = kept[0].data_ptr() if kept else None
    n, t = inr.batch, inr.times
    results: list[Tensor] = []  # one per tensor, per clip and frame even if the tensor is shared
    layers, stages = [], []
    for index, stage in enumerate(inr.stages):
        struct = native.StageGradStruct()
        if stage.fourier is not None:
            results += [
                gradient.new_empty(n, *stage.fourier.frequency.shape[1:]),
                gradient.new_empty(n, t, stage.fourier.phase.shape[2]),
            ]
            struct.frequency, struct.phase = results[-2].data_ptr(), results[-1].data_ptr()
        for number, layer in enumerate(stage.layers):
            weight, bias = gradient.new_empty(n, layer.outputs, layer.inputs), gradient.new_empty(n, t, layer.outputs)
            results += [weight, bias]
            inner = weight
            if number == 0 and index:
                channels = inr.stages[index - 1].layers[-1].outputs
                inner = weight[:, :, channels:]
                struct.parent, struct.parent_clip, struct.parent_row = (
                    weight.data_ptr(),
                    weight.stride(0),
                    weight.stride(1),
                )
            entry = native.LayerGradStruct(
                weight=inner.data_ptr(), weight_clip=weight.stride(0), weight_row=weight.stride(1), bias=bias.data_ptr()
            )
            if layer.to_rgb is not None:
                results += [
                    gradient.new_empty(n, *layer.to_rgb[0].shape[1:]),
                    gradient.new_empty(n, len(layer.to_rgb[1])),
                ]
                entry.rgb_weight, entry.rgb_bias = results[-2].data_ptr(), results[-1].data_ptr()
            layers.append(entry)
        stages.append(struct)
    gradients = native.GradientsStruct(
        layers=(native.LayerGradStruct * len(layers))(*layers),
        stages=(native.StageGradStruct * len(stages))(*stages),
        out=alive.keep(gradient.contiguous(), 2).data_ptr(),
    )
    native.run(native.load()[0].fused_inr_backward, program, gradients)
    return [_reduced(result, tensor) for result, tensor in zip(results, flatten(inr)[0], strict=True)]


def _reduced(gradient: Tensor, tensor: Tensor) -> Tensor:
    """Sum a gradient per clip and frame to the shape of its tensor, which clips or frames may share."""
    while gradient.ndim > tensor.ndim:
        # A bias [O] or [N, O] has no axis of frames, and [O] and the to_rgb bias [C] have no axis of clips.
        gradient = gradient.sum(dim=gradient.ndim - 2)
    return gradient.sum_to_size(tensor.shape).to(tensor.dtype)


def supports(inr: INR, grid: Grid, dtype: torch.dtype) -> tuple[bool, str]:
    """Return whether the kernels support a call, and if not, why."""
    if inr.dtype != torch.float32 or dtype not in _TYPES:
        return False, f"it computes in float32 or bfloat16, not in {dtype if inr.dtype == torch.float32 else inr.dtype}"
    return True, ""


def _has_native_gradients(inr: INR) -> bool:
    """Return whether the kernels compute the gradients of an INR.

    They derive slopes from outputs, which is impossible for a sine.
    """
    layers = [layer for stage in inr.stages for layer in stage.layers]
    small = len(layers) <= native.MAX_LAYERS and len(inr.stages) <= native.MAX_STAGES
    return small and all(layer.activation != "sine" for layer in layers)


_native_render = register("cpu", _evaluate, _differentiate, _has_native_gradients)


def render(inr: INR, grid: Grid, dtype: torch.dtype) -> Tensor:
    """Return frames `[N, T, C, H, W]` float32; arguments as for `reference.render`."""
    if may_need_gradients(inr.tensors()) and not _has_native_gradients(inr):
        return composed.render(inr, grid, dtype)
    return _native_render(inr, grid, dtype)


def memory(inr: INR, grid: Grid, dtype: torch.dtype) -> int:
    """Return the peak bytes of a call without gradients, its result included, on PyTorch's current threads."""
    program = _program(inr, grid, dtype, KeptTensors())
    workspace = native.load()[0].fused_inr_render_workspace(program, torch.get_num_threads(), native.isa())
    return 4 * math.prod(frames_shape(inr, grid)) + workspace
