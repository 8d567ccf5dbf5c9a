"""The ops of a discriminator, and of the augmentation of its inputs, on the native kernels."""

import math
from typing import Any

import torch
from torch import Tensor

from fused_inr._backends.cpu import native
from fused_inr.primitives import augment, bias_act, conv2d, memory_format, upfirdn2d

_TYPES = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}
_ACTS = {
    "linear": 0,
    "relu": 1,
    "lrelu": 2,
    "tanh": 3,
    "sigmoid": 4,
    "elu": 5,
    "selu": 6,
    "softplus": 7,
    "swish": 8,
}


def _pointer(x: Tensor | None) -> int | None:
    return None if x is None or not x.numel() else x.data_ptr()


def _bias_act_struct(x: Tensor, options: bias_act.Options) -> native.BiasActStruct:
    outer, channels, inner = memory_format.extents(x, options.dim)
    return native.BiasActStruct(
        outer=outer,
        channels=channels,
        inner=inner,
        type=_TYPES[x.dtype],
        act=_ACTS[options.act],
        alpha=options.alpha,
        gain=options.gain,
        clamp=math.inf if options.clamp is None else options.clamp,
        x=_pointer(x),
    )


@torch.library.impl("fused_inr::bias_act", "cpu")
def _(x: Tensor, bias: Tensor | None, residual: Tensor | None, *options: Any) -> Tensor:
    out = torch.empty_like(x)
    if x.numel():
        call = _bias_act_struct(x, bias_act.Options(*options))
        call.bias, call.residual, call.out = _pointer(bias), _pointer(residual), _pointer(out)
        native.run(native.load()[0].fused_inr_bias_act, call)
    return out


@torch.library.impl("fused_inr::bias_act_slope", "cpu")
def _(
    gradient: Tensor,
    shift: Tensor | None,
    saved: Tensor,
    bias: Tensor | None,
    from_output: bool,
    with_sums: bool,
    *others: Any,
) -> tuple[Tensor, Tensor]:
    options = bias_act.Options(*others)
    out = torch.empty_like(saved)
    sums = torch.zeros(saved.shape[options.dim] if with_sums else 0)
    if saved.numel():
        call = _bias_act_struct(saved, options)
        call.bias, call.from_output, call.out = _pointer(bias), from_output, _pointer(out)
        call.gradient, call.shift, call.sums = _pointer(gradient), _pointer(shift), _pointer(sums)
        native.run(native.load()[0].fused_inr_bias_act_slope, call)
    return out, sums


@torch.library.impl("fused_inr::upfirdn2d", "cpu")
def _(x: Tensor, taps: Tensor, *others: Any) -> Tensor:
    options = upfirdn2d.Options(*others)
    out = upfirdn2d.output(x, options.size)
    if not x.numel():
        return out.zero_()
    if out.numel():
        taps = taps.contiguous()
        call = native.UpfirdnStruct(
            batch=x.shape[0],
            channels=x.shape[1],
            height=x.shape[2],
            width=x.shape[3],
            out_height=options.size[0],
            out_width=options.size[1],
            channels_last=memory_format.is_channels_last(x),
            type=_TYPES[x.dtype],
            up_x=options.up[0],
            up_y=options.up[1],
            down_x=options.down[0],
            down_y=options.down[1],
            pad_x=options.pad[0],
            pad_y=options.pad[1],
            taps_x=taps.shape[1],
            taps_y=taps.shape[0],
            taps=_pointer(taps),
            x=_pointer(x),
            out=_pointer(out),
        )
        native.run(native.load()[0].fused_inr_upfirdn2d, call)
    return out


def _stddev_struct(x: Tensor, group: int, channels: int, out: Tensor) -> native.StddevStruct:
    return native.StddevStruct(
        batch=x.shape[0],
        channels=x.shape[1],
        pixels=math.prod(x.shape[2:]),
        group=group,
        planes=channels,
        type=_TYPES[x.dtype],
        x=_pointer(x),
        out=_pointer(out),
    )


@torch.library.impl("fused_inr::minibatch_stddev", "cpu")
def _(x: Tensor, group: int, channels: int) -> Tensor:
    out = x.new_empty(x.shape[0], x.shape[1] + channels, *x.shape[2:])
    if x.numel():
        native.run(native.load()[0].fused_inr_minibatch_stddev, _stddev_struct(x, group, channels, out))
        return out
    return out.fill_(math.nan)  # images without channels still get planes, which are means over an empty set


@torch.library.impl("fused_inr::minibatch_stddev_backward", "cpu")
def _(gradient: Tensor, x: Tensor, group: int, channels: int) -> Tensor:
    out = torch.empty_like(x)
    if x.numel():
        call = _stddev_struct(x, group, channels, out)
        call.gradient = _pointer(gradient)
        native.run(native.load()[0].fused_inr_minibatch_stddev, call)
    return out


# The instruction sets and numbers of input channels from which the weight-gradient kernel is faster than oneDNN's.
_MIN_ISA = {torch.float32: native.ISAS.index("avx512"), torch.bfloat16: native.ISAS.index("avx512_bf16")}
_MIN_INPUTS = {torch.float32: 1, torch.bfloat16: 16}


def _serves_weight(x: Tensor, gradient: Tensor) -> bool:
    channels_last = memory_format.is_channels_last(x) and gradient.is_contiguous(memory_format=torch.channels_last)
    if not channels_last or x.dtype not in _MIN_ISA or not (x.numel() and gradient.numel()):
        return False
    return native.isa() >= _MIN_ISA[x.dtype] and x.shape[1] >= _MIN_INPUTS[x.dtype]


@torch.library.impl("fused_inr::conv2d_weight", "cpu")
def _(x: Tensor, gradient: Tensor, kernel: list[int], stride: int, padding: int) -> Tensor:
    if not _serves_weight(x, gradient):
        return conv2d.pytorch_weight(x, gradient, kernel, stride, padding)
    out = conv2d.weight_like(x, gradient, kernel)
    call = native.ConvolutionWeightStruct(
        batch=x.shape[0],
        inputs=x.shape[1],
        outputs=gradient.shape[1],
        height=x.shape[2],
        width=x.shape[3],
        out_height=gradient.shape[2],
        out_width=gradient.shape[3],
        kernel_y=kernel[0],
        kernel_x=kernel[1],
        stride=stride,
        padding=padding,
        type=_TYPES[x.dtype],
        threads=torch.get_num_threads(),
        x=_pointer(x),
        gradient=_pointer(gradient),
        out=_pointer(out),
    )
    native.run(native.load()[0].fused_inr_convolution_weight, call)
    return out


@torch.library.impl("fused_inr::augment", "cpu")
def _(x: Tensor, *others: Any) -> Tensor:
    options = augment.Options(*others)
    out = torch.empty_like(x)
    if x.numel():
        clips, times, channels, height, width = x.shape
        call = native.AugmentStruct(
            clips=clips,
            times=times,
            channels=channels,
            height=height,
            width=width,
            type=_TYPES[x.dtype],
            color_last=options.color_last,
            adjoint=options.adjoint,
            brightness=_pointer(options.brightness),
            saturation=_pointer(options.saturation),
            contrast=_pointer(options.contrast),
            offset=_pointer(options.offset),
            hole=_pointer(options.hole),
            hole_height=options.hole_size[0],
            hole_width=options.hole_size[1],
            x=_pointer(x),
            out=_pointer(out),
        )
        native.run(native.load()[0].fused_inr_augment, call)
    return out
