"""Gradients of pointwise layers: of pre-activations, weights, biases and read-outs.

For a layer y = gain act(z), z = W x + b, every gradient of the layer and of those before it derives from dz, the
gradient of z. Only dz is stored, in the compute type; the gradient of y never is: the kernel that multiplies the next
layer's dz by that layer's weight adds the read-out's share and applies the slope of the activation while the tile is on
chip. A layer then takes five passes over an activation: next dz in, y in, dz out; dz and x in for the weight. Applying
the slope where dz is read would take six passes, a separate kernel for it seven.

The slopes of linear, lrelu and relu follow from y, which is stored or recomputed. The slope of a sine does not: there z
is recomputed and used in place of y, which follows from it.

Activations are [N, T, H, W, C]: a frame is a matrix [pixels, C]. A sum over pixels is split into one partial sum per
tile or span of pixels; these are added in a fixed order, so the same call gives the same bits.
"""

import math
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.splits import equal_splits, splits_to_fill
from fused_inr._backends.triton.kernels import configs
from fused_inr._backends.triton.kernels.activations import LRELU_SLOPE
from fused_inr._backends.triton.kernels.launch import TILE_ELEMENTS, Launch, cdiv, power_of_two
from fused_inr._backends.triton.kernels.sines import sine_cosine
from fused_inr.inr import Layer
from fused_inr.primitives.memory_format import batch_stride

_WEIGHT_PROGRAMS = 512
"""Number of programs that a weight's gradient is split into if there are enough pixels: two per multiprocessor of the
largest GPUs. It does not depend on the device, so sums have the same bits on all devices."""
_MIN_PIXELS = 512
"""Fewest pixels per program of a weight's gradient: with fewer, the partial sums would be larger than their inputs."""


@triton.jit
def output_gradient_kernel(
    following,
    weight,
    direct,
    saved,
    colours,
    rgb,
    out,
    bias_partial,
    rgb_partial,
    times,
    pixels,
    inner,
    channels,
    weight_clip,
    weight_row,
    rgb_clip,
    gain,
    omega,
    ACT: tl.constexpr,
    COLOURS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write dz = (following W + direct + colours W_rgb) gain act'(z) for one tile of a frame's pixels and channels.

    `following` [N, T, pixels, inner] is the next layer's dz and `weight` its W [N or 1, inner, channels]; `direct` is a
    float32 gradient shaped like `out`; `colours` [N, T, pixels, COLOURS] is the float32 gradient of the image at this
    layer's pixels and `rgb` [N or 1, COLOURS, channels] is W_rgb in float32. Each of these three terms may be None.
    `saved` is y, or z for a sine. Sums over the tile go to bias_partial [frames, tiles, channels] and rgb_partial
    [frames, tiles, COLOURS, channels].
    """
    col_tiles = tl.cdiv(channels, BLOCK_N)
    row_tiles = tl.cdiv(pixels, BLOCK_M)
    program = tl.program_id(0)
    first_col = program % col_tiles * BLOCK_N
    part = (program // col_tiles).to(tl.int64)  # index over frames, then tiles
    frame = part // row_tiles
    clip = frame // times
    first_row = part % row_tiles * BLOCK_M
    start = frame * pixels + first_row
    i = tl.arange(0, BLOCK_M)
    o = first_col + tl.arange(0, BLOCK_N)
    in_rows = first_row + i < pixels
    in_cols = o < channels
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if following is not None:
        k = tl.arange(0, BLOCK_K)
        a = following + start * inner + i[:, None] * inner + k[None, :]
        b = weight + clip * weight_clip + k[:, None] * weight_row + o[None, :]
        for first in range(0, inner, BLOCK_K):
            left = inner - first
            tile = tl.load(a, in_rows[:, None] & (k < left)[None, :], 0.0)
            factor = tl.load(b, (k < left)[:, None] & in_cols[None, :], 0.0)
            total = tl.dot(tile, factor, total, input_precision=PRECISION)
            a += BLOCK_K
            b += BLOCK_K * tl.cast(weight_row, tl.int64)
    # Outside the frame every value below is zero because every load gives zero there.
    inside = in_rows[:, None] & in_cols[None, :]
    offset = i[:, None] * channels + o[None, :]
    if direct is not None:
        total += tl.load(direct + start * channels + offset, inside, 0.0)
    colour = colours + (start + i) * COLOURS if COLOURS > 0 else None
    if COLOURS > 0:
        for c in range(COLOURS):
            w = tl.load(rgb + clip * rgb_clip + c * channels + o, in_cols, 0.0)
            total += tl.load(colour + c, in_rows, 0.0)[:, None] * w[None, :]
    y = tl.load(saved + start * channels + offset, inside, 0.0).to(tl.float32)
    if ACT == "sine":
        sine, cosine = sine_cosine(omega * y)
        dz = total * (gain * omega * cosine)
        y = (gain * sine).to(out.dtype.element_ty).to(tl.float32)  # rounded as in the read-out
    elif ACT == "linear":
        dz = total * gain
    else:
        tl.static_assert(ACT == "lrelu" or ACT == "relu")
        z = tl.where(gain < 0.0, -y, y)  # has the sign of the value before the activation
        dz = total * gain
        dz = tl.where(z > 0.0, dz, dz * LRELU_SLOPE) if ACT == "lrelu" else tl.where(z <= 0.0, 0.0, dz)
    tl.store(out + start * channels + offset, dz.to(out.dtype.element_ty), inside)
    tl.store(bias_partial + part * channels + o, tl.sum(dz, 0), in_cols)
    if COLOURS > 0:
        for c in range(COLOURS):
            read_out = tl.sum(tl.load(colour + c, in_rows, 0.0)[:, None] * y, 0)
            tl.store(rgb_partial + (part * COLOURS + c) * channels + o, read_out, in_cols)


@triton.jit
def weight_gradient_kernel(
    dz,
    x,
    out,
    pixels,
    outputs,
    inputs,
    splits,
    span,
    out_clip,
    out_split,
    out_row,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
):
    """Write dW = dz^T x for one tile of a clip's weight, summed over one of `splits` spans of `span` pixels.

    dz is [N, pixels, outputs] and x [N, pixels, inputs]; `out` is float32 with strides `out_*` and contiguous columns.
    """
    col_tiles = tl.cdiv(inputs, BLOCK_N)
    row_tiles = tl.cdiv(outputs, BLOCK_M)
    program = tl.program_id(0)
    col = program % col_tiles * BLOCK_N + tl.arange(0, BLOCK_N)
    program = program // col_tiles
    row = program % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    program = program // row_tiles
    split = (program % splits).to(tl.int64)
    clip = (program // splits).to(tl.int64)
    start = split * span
    count = tl.minimum(pixels - start, span).to(tl.int32)
    in_rows = row < outputs
    in_cols = col < inputs
    k = tl.arange(0, BLOCK_K)
    a = dz + (clip * pixels + start) * outputs + row[:, None] + k[None, :] * outputs
    b = x + (clip * pixels + start) * inputs + k[:, None] * inputs + col[None, :]
    total = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, count, BLOCK_K):
        valid = k < count - first
        left = tl.load(a, in_rows[:, None] & valid[None, :], 0.0)
        right = tl.load(b, valid[:, None] & in_cols[None, :], 0.0)
        total = tl.dot(left, right, total, input_precision=PRECISION)
        a += BLOCK_K * tl.cast(outputs, tl.int64)
        b += BLOCK_K * tl.cast(inputs, tl.int64)
    place = clip * out_clip + split * out_split + row.to(tl.int64)[:, None] * out_row + col[None, :]
    tl.store(out + place, total, in_rows[:, None] & in_cols[None, :])


@triton.jit
def children_sum_kernel(
    x,
    out,
    width,
    channels,
    RATIO: tl.constexpr,
    COLS: tl.constexpr,
    CHANNELS: tl.constexpr,
):
    """Sum RATIO x RATIO pixels: x [rows, RATIO, width, RATIO, channels] to `out` [rows, width, channels]."""
    channel_tiles = tl.cdiv(channels, CHANNELS)
    col_tiles = tl.cdiv(width, COLS)
    program = tl.program_id(0)
    channel = program % channel_tiles * CHANNELS + tl.arange(0, CHANNELS)
    program = program // channel_tiles
    first = program % col_tiles * COLS
    row = (program // col_tiles).to(tl.int64)
    j = tl.arange(0, COLS)
    inside = (first + j < width)[:, None] & (channel < channels)[None, :]
    source = x + (row * RATIO * width + first) * RATIO * channels
    offset = j[:, None] * (RATIO * channels) + channel[None, :]
    total = tl.zeros([COLS, CHANNELS], tl.float32)
    for a in tl.static_range(RATIO):
        for b in tl.static_range(RATIO):
            child = (a * RATIO * tl.cast(width, tl.int64) + b) * channels
            total += tl.load(source + child + offset, inside, 0.0).to(tl.float32)
    target = out + (row * width + first) * channels
    tl.store(target + j[:, None] * channels + channel[None, :], total.to(out.dtype.element_ty), inside)


_POINTWISE = {"BLOCK_M": 64, "BLOCK_N": 64, "BLOCK_K": 16}
"""Blocks for a layer without matrix product: 32 elements per thread."""


def fitted(blocks: dict[str, int], m: int, n: int, k: int) -> dict[str, int]:
    """Return blocks no larger than these sizes need, but at least 16, the minimum of matrix instructions."""
    sizes = {"BLOCK_M": m, "BLOCK_N": n, "BLOCK_K": k}
    return {name: min(blocks[name], max(16, power_of_two(size))) for name, size in sizes.items()}


@dataclass(frozen=True)
class Following:
    """The layer after this one: its dz [N, T, H, W, O] and its weight [N or 1, O, I]."""

    dz: Tensor
    weight: Tensor


@dataclass(frozen=True)
class OutputGradient:
    """The dz of a layer, and the partial sums over tiles of pixels computed with it."""

    dz: Tensor
    bias: Tensor
    """[N, T, tiles, O] float32."""
    rgb: Tensor | None
    """[N, T, tiles, C, O] float32."""


def output_gradient(
    layer: Layer,
    saved: Tensor,
    dtype: torch.dtype,
    following: Following | None,
    direct: Tensor | None,
    colours: Tensor | None,
) -> tuple[OutputGradient, list[Launch]]:
    """Return the gradient of W x + b from the gradients that reach the layer's output; at least one is not None.

    Args:
        layer: supplies activation, gain and read-out.
        saved: y [N, T, H, W, O] in `dtype`, or W x + b in float32 for a sine.
        dtype: type of the result and of `following`.
        following: the next layer.
        direct: gradient of y, float32.
        colours: [N, T, H, W, C] float32 gradient of the image that the read-out was added to.
    """
    n, t, height, width, channels = saved.shape
    pixels = height * width
    inner = 1 if following is None else following.dz.shape[-1]
    limits, options = _POINTWISE, {}
    if following is not None:
        name = "output_gradient" if colours is None else "read_out_gradient"  # the latter takes more registers
        limits, options = configs.options(name, dtype, channels, saved.device)
    blocks = fitted(limits, pixels, channels, inner)
    row_tiles = cdiv(pixels, blocks["BLOCK_M"])
    rgb = None if colours is None else layer.to_rgb[0].detach().to(torch.float32).contiguous()
    count = 0 if colours is None else colours.shape[-1]
    wide = {"dtype": torch.float32, "device": saved.device}
    result = OutputGradient(
        dz=torch.empty(saved.shape, dtype=dtype, device=saved.device),
        bias=torch.empty(n, t, row_tiles, channels, **wide),
        rgb=torch.empty(n, t, row_tiles, count, channels, **wide) if count else None,
    )
    weight = None if following is None else following.weight
    arguments = {
        "following": None if following is None else following.dz,
        "weight": weight,
        "direct": direct,
        "saved": saved,
        "colours": colours,
        "rgb": rgb,
        "out": result.dz,
        "bias_partial": result.bias,
        "rgb_partial": result.rgb,
        "times": t,
        "pixels": pixels,
        "inner": inner,
        "channels": channels,
        "weight_clip": 0 if weight is None else batch_stride(weight),
        "weight_row": 0 if weight is None else weight.stride(1),
        "rgb_clip": 0 if rgb is None else batch_stride(rgb),
        "gain": float(layer.gain),
        "omega": float(layer.omega),
        "ACT": layer.activation,
        "COLOURS": count,
        "PRECISION": configs.input_precision(dtype),
    }
    programs = n * t * row_tiles * cdiv(channels, blocks["BLOCK_N"])
    return result, [Launch(output_gradient_kernel, programs, arguments | blocks, **options)]


def pixel_splits(pixels: int, tiles: int, block: int) -> tuple[int, int]:
    """Return the number and length of the spans of pixels that the gradient of a weight of `tiles` tiles sums over."""
    return equal_splits(pixels, splits_to_fill(_WEIGHT_PROGRAMS, tiles, pixels // _MIN_PIXELS), block)


def weight_gradient(dz: Tensor, x: Tensor, shared: bool) -> tuple[Tensor, list[Launch]]:
    """Return partial sums [N, splits, O, I] float32 of the gradient of W; N is 1 if W is shared.

    Args:
        dz: [N, T, H, W, O].
        x: [N, T, H, W, I] of the same type.
        shared: whether all clips share W.
    """
    n, outputs, inputs = (1 if shared else dz.shape[0]), dz.shape[-1], x.shape[-1]
    pixels = math.prod(dz.shape[:-1]) // n  # clips that share the weight count as one
    limits, options = configs.options("weight_gradient", x.dtype, inputs, x.device)
    blocks = fitted(limits, outputs, inputs, pixels)
    programs = n * cdiv(outputs, blocks["BLOCK_M"]) * cdiv(inputs, blocks["BLOCK_N"])
    splits, span = pixel_splits(pixels, programs, blocks["BLOCK_K"])
    out = torch.empty(n, splits, outputs, inputs, dtype=torch.float32, device=dz.device)
    arguments = {
        "dz": dz,
        "x": x,
        "out": out,
        "pixels": pixels,
        "outputs": outputs,
        "inputs": inputs,
        "splits": splits,
        "span": span,
        "out_clip": out.stride(0),
        "out_split": out.stride(1),
        "out_row": out.stride(2),
        "PRECISION": configs.input_precision(x.dtype),
    }
    return out, [Launch(weight_gradient_kernel, programs * splits, arguments | blocks, **options)]


def children_sum(x: Tensor, ratio: int) -> tuple[Tensor, list[Launch]]:
    """Sum the children of each parent pixel, x [N, T, H, W, C] to [N, T, H/ratio, W/ratio, C]."""
    if ratio == 1:
        return x, []
    n, t, height, width, channels = x.shape
    out = x.new_empty(n, t, height // ratio, width // ratio, channels)
    tile = min(power_of_two(channels), 256)
    blocks = {"COLS": min(power_of_two(out.shape[3]), TILE_ELEMENTS // tile), "CHANNELS": tile}
    arguments = {"x": x, "out": out, "width": out.shape[3], "channels": channels, "RATIO": ratio} | blocks
    programs = n * t * out.shape[2] * cdiv(out.shape[3], blocks["COLS"]) * cdiv(channels, tile)
    return out, [Launch(children_sum_kernel, programs, arguments)]
