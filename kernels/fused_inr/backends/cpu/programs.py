"""INRs as programs of the native kernels: tensors become pointers and strides, and ops that torch.compile can hold."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fused_inr import composed
from fused_inr.backends.cpu import native
from fused_inr.flattening import grid_of, unflatten
from fused_inr.inr import INR, Grid, Layer
from fused_inr.lowering import StagePlan, lower

_CODES = {"linear": 0, "lrelu": 1, "relu": 2, "sine": 3}  # FusedInrActivation
_LRELU_SLOPE = 0.2


class KeptTensors:
    """Keeps alive what pointers point to, in float32 and dense in all axes but the leading ones."""

    def __init__(self) -> None:
        self._kept: list[Tensor] = []

    def keep(self, tensor: Tensor, dense: int) -> Tensor:
        """`tensor` in float32 with its last `dense` axes laid out row by row; rows may be further apart."""
        tensor = tensor.detach().to(torch.float32)
        rows = tensor.stride()[-dense:]
        if rows[-1] != 1 or (dense > 1 and (rows[0] < tensor.shape[-1] or rows[0] == 0)):
            tensor = tensor.contiguous()
        self._kept.append(tensor)
        return tensor


def clip_stride(tensor: Tensor) -> int:
    return tensor.stride(0) if tensor.shape[0] > 1 else 0


def _bias(layer_bias: Tensor, keep: KeptTensors) -> tuple[Tensor, int, int]:
    """A bias with its strides per clip and per frame."""
    bias = keep.keep(layer_bias, 1)
    clip = clip_stride(bias) if bias.ndim > 1 else 0
    time = bias.stride(1) if bias.ndim == 3 and bias.shape[1] > 1 else 0
    return bias, clip, time


def layer_struct(layer: Layer, weight: Tensor, keep: KeptTensors) -> native.LayerStruct:
    weight = keep.keep(weight, 2)
    bias, bias_clip, bias_time = _bias(layer.bias, keep)
    struct = native.LayerStruct(
        weight=weight.data_ptr(),
        weight_clip=clip_stride(weight),
        weight_row=weight.stride(1),
        bias=bias.data_ptr(),
        bias_clip=bias_clip,
        bias_time=bias_time,
        inputs=weight.shape[2],
        outputs=weight.shape[1],
        activation=_CODES[layer.activation],
        slope=_LRELU_SLOPE,
        omega=layer.omega,
        gain=layer.gain,
    )
    if layer.to_rgb is not None:
        rgb = keep.keep(layer.to_rgb[0].contiguous(), 2)
        struct.rgb_weight, struct.rgb_clip = rgb.data_ptr(), clip_stride(rgb)
        struct.rgb_bias = keep.keep(layer.to_rgb[1], 1).data_ptr()
    return struct


def _stage(plan: StagePlan, keep: KeptTensors) -> native.StageStruct:
    struct = native.StageStruct(scale=plan.scale, layers=len(plan.layers))
    if plan.parent is not None:
        parent = keep.keep(plan.parent, 2)
        struct.parent, struct.parent_clip = parent.data_ptr(), clip_stride(parent)
        struct.parent_row = parent.stride(1)
    if plan.fourier is not None:
        frequency, phase = keep.keep(plan.fourier.frequency.contiguous(), 2), keep.keep(plan.fourier.phase, 1)
        struct.features, struct.cosines = frequency.shape[1], plan.fourier.parts == "sincos"
        struct.frequency, struct.frequency_clip = frequency.data_ptr(), clip_stride(frequency)
        struct.phase, struct.phase_clip, struct.phase_time = phase.data_ptr(), clip_stride(phase), phase.stride(1)
    return struct


def _program(inr: INR, grid: Grid, bfloat16: bool, keep: KeptTensors) -> native.ProgramStruct:
    plans = lower(inr, grid)
    layers = [
        layer_struct(layer, plan.inner if index == 0 else layer.weight, keep)
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
        bfloat16=bfloat16,
    )


def workspace(inr: INR, grid: Grid, bfloat16: bool) -> int:
    """Bytes that the native kernels take for a call beyond its result, with the threads that PyTorch has now."""
    program = _program(inr, grid, bfloat16, KeptTensors())
    threads = torch.get_num_threads()
    return native.load()[0].fused_inr_render_workspace(program, threads, native.isa())


@torch.library.custom_op("fused_inr::cpu_render", mutates_args=())
def cpu_render(
    tensors: list[Tensor],
    structure: list[int],
    numbers: list[float],
    shape: list[int],
    window: list[float],
    bfloat16: bool,
) -> Tensor:
    inr = unflatten(tensors, structure, numbers)
    grid = grid_of(inr, shape, window)
    keep = KeptTensors()
    program = _program(inr, grid, bfloat16, keep)
    out = torch.empty(shape, dtype=torch.float32)
    if out.numel():
        program.out = out.data_ptr()
        native.run(native.load()[0].fused_inr_render, program)
    return out


@cpu_render.register_fake
def _(
    tensors: list[Tensor],
    structure: list[int],
    numbers: list[float],
    shape: list[int],
    window: list[float],
    bfloat16: bool,
) -> Tensor:
    return torch.empty(shape, dtype=torch.float32, device=tensors[0].device)


@torch.library.custom_op("fused_inr::cpu_render_backward", mutates_args=())
def cpu_render_backward(
    gradient: Tensor,
    tensors: list[Tensor],
    structure: list[int],
    numbers: list[float],
    shape: list[int],
    window: list[float],
    bfloat16: bool,
    kept: Tensor | None = None,
) -> list[Tensor]:
    """Gradients of `tensors`; `kept` are the outputs of the layers, if the forward pass stored them."""
    inr = unflatten(tensors, structure, numbers)
    grid = grid_of(inr, shape, window)
    keep = KeptTensors()
    program = _program(inr, grid, bfloat16, keep)
    program.kept = None if kept is None else kept.data_ptr()
    n, t = inr.batch, inr.times
    if not gradient.numel():
        return [torch.zeros_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]
    found: list[Tensor] = []  # one for every tensor, per clip and frame even where that is shared
    layers, stages = [], []
    for index, stage in enumerate(inr.stages):
        struct = native.StageGradStruct()
        if stage.fourier is not None:
            found += [
                gradient.new_empty(n, *stage.fourier.frequency.shape[1:]),
                gradient.new_empty(n, t, stage.fourier.phase.shape[2]),
            ]
            struct.frequency, struct.phase = found[-2].data_ptr(), found[-1].data_ptr()
        for number, layer in enumerate(stage.layers):
            weight, bias = gradient.new_empty(n, layer.outputs, layer.inputs), gradient.new_empty(n, t, layer.outputs)
            found += [weight, bias]
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
                found += [
                    gradient.new_empty(n, *layer.to_rgb[0].shape[1:]),
                    gradient.new_empty(n, len(layer.to_rgb[1])),
                ]
                entry.rgb_weight, entry.rgb_bias = found[-2].data_ptr(), found[-1].data_ptr()
            layers.append(entry)
        stages.append(struct)
    gradients = native.GradientsStruct(
        layers=(native.LayerGradStruct * len(layers))(*layers),
        stages=(native.StageGradStruct * len(stages))(*stages),
        out=keep.keep(gradient.contiguous(), 2).data_ptr(),
    )
    native.run(native.load()[0].fused_inr_backward, program, gradients)
    return [_reduced(one, tensor) for one, tensor in zip(found, tensors, strict=True)]


def _reduced(gradient: Tensor, tensor: Tensor) -> Tensor:
    """A gradient per clip and frame, summed to the shape of what the clips and frames share."""
    while gradient.ndim > tensor.ndim:
        # A bias [O] or [N, O] lacks the frames, and [O] lacks the clips too; a read-out's bias [C] lacks the clips.
        gradient = gradient.sum(dim=gradient.ndim - 2)
    return gradient.sum_to_size(tensor.shape).to(tensor.dtype)


@cpu_render_backward.register_fake
def _(
    gradient: Tensor,
    tensors: list[Tensor],
    structure: list[int],
    numbers: list[float],
    shape: list[int],
    window: list[float],
    bfloat16: bool,
    kept: Tensor | None = None,
) -> list[Tensor]:
    return [torch.empty_like(tensor, memory_format=torch.contiguous_format) for tensor in tensors]


def _save_for_backward(ctx: Any, inputs: tuple, output: Tensor) -> None:
    tensors, *options = inputs
    ctx.save_for_backward(*tensors)
    ctx.options = options


def _gradients(
    gradient: Tensor, tensors: Sequence[Tensor], options: Sequence[Any], kept: Tensor | None = None
) -> list[Tensor | None]:
    if not torch.is_grad_enabled():
        return cpu_render_backward(gradient, list(tensors), *options, kept)
    *told, bfloat16 = options  # the gradient is to be differentiated again: PyTorch calls, whose gradients are known
    return composed.gradients(gradient, tensors, *told, torch.bfloat16 if bfloat16 else torch.float32)


def _backward(ctx: Any, gradient: Tensor) -> tuple:
    return _gradients(gradient, ctx.saved_tensors, ctx.options), None, None, None, None, None


cpu_render.register_autograd(_backward, setup_context=_save_for_backward)


class StoringRender(torch.autograd.Function):
    """`cpu_render` that stores the outputs of all layers, so that the backward pass computes none of them again."""

    @staticmethod
    def forward(ctx: Any, options: Sequence[Any], *tensors: Tensor) -> Tensor:
        structure, numbers, shape, window, bfloat16 = options
        inr = unflatten(tensors, structure, numbers)
        keep = KeptTensors()
        program = _program(inr, grid_of(inr, shape, window), bfloat16, keep)
        out = torch.empty(shape, dtype=torch.float32)
        kept = torch.empty(native.load()[0].fused_inr_kept_bytes(program, native.isa()), dtype=torch.uint8)
        if out.numel():
            program.out, program.kept = out.data_ptr(), kept.data_ptr()
            native.run(native.load()[0].fused_inr_render, program)
        ctx.save_for_backward(*tensors, kept)
        ctx.options = options
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple:
        *tensors, kept = ctx.saved_tensors
        return None, *_gradients(gradient, tensors, ctx.options, kept)
