"""One pointwise layer of all frames in a kernel: y = gain act(W x + b), and the read-out of y while it is on chip.

A program takes a tile of pixels of one frame and a block of outputs. Its left operand is the stored output of the
previous layer, or Fourier features computed in the kernel from tables of rows and columns (`fourier_features`), or the
former followed by the latter. The output of the previous stage is multiplied by its part of the weight at that stage's
resolution, by the same kernel; each pixel adds the product of its parent before the activation, so nearest upsampling
costs no arithmetic.

Activations are [N, T, H, W, C] in the type of the products. Sums, biases, activations and gains are float32.
"""

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.triton.kernels import activations, configs, to_rgb
from fused_inr._backends.triton.kernels.fourier_features import (
    patch_of_tile,
    pixels_from_first,
    pixels_of_tile,
    sines_of_patch,
    tile_count,
    tiles_of,
)
from fused_inr._backends.triton.kernels.launch import Launch, cdiv, power_of_two
from fused_inr._backends.triton.kernels.sines import sine
from fused_inr._backends.triton.kernels.to_rgb import Canvas, add_read_out, finish_read_out
from fused_inr.inr import Layer
from fused_inr.primitives.memory_format import batch_stride


@triton.jit
def add_product(total, x, weight, inputs, valid, BLOCK_K: tl.constexpr, PRECISION: tl.constexpr):
    """Add x W^T to total [BLOCK_M, BLOCK_N]; x points to the pixels [BLOCK_M, 1], weight to the rows [1, BLOCK_N].

    Args:
        valid: [1, BLOCK_N], mask of the rows.
    """
    k = tl.arange(0, BLOCK_K)
    left = x + k[None, :]
    right = weight + k[:, None]
    for first in range(0, inputs, BLOCK_K):
        rest = inputs - first
        a = tl.load(left, (k < rest)[None, :], 0.0)
        b = tl.load(right, (k < rest)[:, None] & valid, 0.0)
        total = tl.dot(a, b, total, input_precision=PRECISION)
        left += BLOCK_K
        right += BLOCK_K
    return total


@triton.jit
def add_features(
    total,
    row,
    column,
    weight,
    features,
    valid,
    COSINES: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Add the product with Fourier features; arguments as in `sines_of_patch` and `add_product`."""
    k = tl.arange(0, BLOCK_K)
    right = weight + k[:, None]
    for first in range(0, features, BLOCK_K):
        s, c = sines_of_patch(row, column, first + k[None, :], features)
        inside = (k < features - first)[:, None] & valid
        b = tl.load(right, inside, 0.0)
        total = tl.dot(s.to(b.dtype), b, total, input_precision=PRECISION)
        if COSINES:
            b = tl.load(right + features, inside, 0.0)
            total = tl.dot(c.to(b.dtype), b, total, input_precision=PRECISION)
        right += BLOCK_K
    return total


@triton.jit
def layer_sums(
    x,
    rows,
    columns,
    parent,
    weight,
    tile,
    frame,
    clip,
    time,
    pixel,
    beside,
    o,
    height,
    width,
    inputs,
    features,
    outputs,
    rows_clip,
    columns_clip,
    COSINES: tl.constexpr,
    PARENT_RATIO: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PATCH_W: tl.constexpr,
):
    """Return W x [BLOCK_M, BLOCK_N] for a tile of pixels and the outputs o, summed over every input that is not None.

    Arguments not listed are those of `layer_kernel`.

    Args:
        weight: pointers to the rows of W [1, BLOCK_N].
        pixel, beside: as returned by `pixels_from_first`.
    """
    valid = o < outputs
    z = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    if parent is not None:
        py, px, _ = pixels_of_tile(tile, height, width, BLOCK_M, PATCH_W)
        above, aside = pixels_from_first(tile, py, px, height, width, PARENT_RATIO, BLOCK_M, PATCH_W)
        above += frame * (height // PARENT_RATIO) * (width // PARENT_RATIO)
        z += tl.load(parent + above * outputs + (aside * outputs + o), valid, 0.0).to(tl.float32)
    if x is not None:
        z = add_product(z, x + pixel * inputs + beside * inputs, weight, inputs, valid, BLOCK_K, PRECISION)
    if rows is not None:
        ry, cx = patch_of_tile(tile, height, width, BLOCK_M, PATCH_W)
        row = rows + clip * rows_clip + (time * height + ry) * 2 * features
        column = columns + clip * columns_clip + cx.to(tl.int64) * 2 * features
        z = add_features(z, row, column, weight + inputs, features, valid, COSINES, BLOCK_K, PRECISION)
    return z


@triton.jit
def activated(z, gain, omega, ACT: tl.constexpr):
    """Return gain act(z) in float32."""
    if ACT == "sine":
        y = sine(omega * z)
    else:
        y = activations.activated(z, activations.LRELU_SLOPE, ACT)
    return gain * y


@triton.jit
def layer_kernel(
    x,
    rows,
    columns,
    weight,
    parent,
    bias,
    out,
    rgb,
    rgb_bias,
    rgb_out,
    image,
    frames,
    times,
    height,
    width,
    inputs,
    features,
    outputs,
    colours,
    rows_clip,
    columns_clip,
    weight_clip,
    weight_row,
    bias_clip,
    bias_time,
    rgb_clip,
    out_pixel,
    out_channel,
    gain,
    omega,
    ACT: tl.constexpr,
    COSINES: tl.constexpr,
    PARENT_RATIO: tl.constexpr,
    IMAGE_RATIO: tl.constexpr,
    COLOURS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PATCH_W: tl.constexpr,
):
    """Write y to `out` for a tile of pixels and a block of outputs, and the block's read-out to `rgb_out`.

    Consecutive programs share the tile, then the clip's weight, so that both come from the cache. The `inputs` channels
    of x multiply the first columns of the weight; the features multiply the columns after those.
    """
    blocks = tl.cdiv(outputs, BLOCK_N)
    tiles = tl.cdiv(height, BLOCK_M // PATCH_W) * tl.cdiv(width, PATCH_W)
    block = tl.program_id(0) % blocks
    tile = tl.program_id(0) // blocks % tiles
    frame = (tl.program_id(0) // blocks // tiles).to(tl.int64)
    clip = frame // times
    py, px, inside = pixels_of_tile(tile, height, width, BLOCK_M, PATCH_W)
    pixel, beside = pixels_from_first(tile, py, px, height, width, 1, BLOCK_M, PATCH_W)
    pixel += frame * height * width
    o = block * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    valid = o < outputs
    w = weight + clip * weight_clip + o.to(tl.int64) * weight_row
    z = layer_sums(
        x,
        rows,
        columns,
        parent,
        w,
        tile,
        frame,
        clip,
        frame % times,
        pixel,
        beside,
        o,
        height,
        width,
        inputs,
        features,
        outputs,
        rows_clip,
        columns_clip,
        COSINES,
        PARENT_RATIO,
        PRECISION,
        BLOCK_M,
        BLOCK_N,
        BLOCK_K,
        PATCH_W,
    )
    if bias is not None:
        z += tl.load(bias + clip * bias_clip + frame % times * bias_time + o, valid, 0.0)
    y = activated(z, gain, omega, ACT)
    if out is not None:
        begin = frame * height * width
        target = out + begin * outputs + (pixel - begin) * out_pixel + beside * out_pixel
        tl.store(target + o.to(tl.int64) * out_channel, y.to(out.dtype.element_ty), inside & valid)
    if rgb is not None:
        total = tl.zeros([BLOCK_M, COLOURS], tl.float32)
        total = add_read_out(total, y, rgb + clip * rgb_clip, outputs, colours, o, COLOURS, PRECISION)
        target = rgb_out + block.to(tl.int64) * frames * colours * height * width
        finish_read_out(
            total, rgb_bias, image, target, frame, py, px, inside, height, width, colours, IMAGE_RATIO, COLOURS
        )


@dataclass(frozen=True)
class Tables:
    """Fourier features: tables of rows [N, T, H, 2, D] and of columns [N, W, 2, D], and whether there are cosines."""

    rows: Tensor
    columns: Tensor
    cosines: bool


@dataclass(frozen=True)
class Input:
    """The inputs of a layer at its pixels; each of the last three may be None.

    Attributes:
        size: N, T, H, W of the layer's grid.
        scale: pixels per side of that grid, as a multiple of the base grid's.
        x: [N, T, H, W, I] activations in the type of the products, for the first I columns of the weight.
        tables: Fourier features, for the columns after those.
        parent: [N, T, H/ratio, W/ratio, O], the product with the output of the previous stage, added to this layer's.
    """

    size: tuple[int, int, int, int]
    scale: int
    x: Tensor | None = None
    tables: Tables | None = None
    parent: Tensor | None = None

    @property
    def inputs(self) -> int:
        """Number of channels of x, I."""
        return 0 if self.x is None else self.x.shape[-1]

    @property
    def features(self) -> int:
        """Number of frequencies, D."""
        return 0 if self.tables is None else self.tables.rows.shape[-1]

    def arguments(self) -> dict[str, Tensor | int | bool | None]:
        """Return the arguments of a kernel that reads this input."""
        _, times, height, width = self.size
        tables = self.tables if self.features else None
        return {
            "x": self.x,
            "rows": None if tables is None else tables.rows,
            "columns": None if tables is None else tables.columns,
            "parent": self.parent,
            "times": times,
            "height": height,
            "width": width,
            "inputs": self.inputs,
            "features": self.features,
            "rows_clip": 0 if tables is None else batch_stride(tables.rows),
            "columns_clip": 0 if tables is None else batch_stride(tables.columns),
            "PARENT_RATIO": 1 if self.parent is None else height // self.parent.shape[2],
            "COSINES": tables is not None and tables.cosines,
        }


def rows_dense(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return `tensor` in `dtype` without gradients, its last axis contiguous; rows may be padded."""
    tensor = tensor.detach().to(dtype)
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def weight_arguments(weight: Tensor, suffix: str = "") -> dict[str, Tensor | int]:
    """Return a weight [N or 1, O, K], its last axis contiguous, and its strides by clip and by row."""
    return {
        f"weight{suffix}": weight,
        f"weight{suffix}_clip": batch_stride(weight),
        f"weight{suffix}_row": weight.stride(1),
    }


def bias_arguments(bias: Tensor | None, suffix: str = "") -> dict[str, Tensor | int | None]:
    """Return a bias [O], [N, O] or [N, T, O] in float32 and its strides by clip and by frame."""
    if bias is not None:
        bias = bias.detach().to(torch.float32).contiguous()
    return {
        f"bias{suffix}": bias,
        f"bias{suffix}_clip": batch_stride(bias) if bias is not None and bias.ndim > 1 else 0,
        f"bias{suffix}_time": bias.stride(1) if bias is not None and bias.ndim == 3 else 0,
    }


def _out(weight: Tensor, source: Input, dtype: torch.dtype) -> Tensor:
    return torch.empty(*source.size, weight.shape[1], dtype=dtype, device=weight.device)


def _arguments(
    weight: Tensor, source: Input, out: Tensor | None, planes: bool
) -> tuple[dict[str, Any], dict[str, int], int]:
    """Return the arguments shared by all launches of layers, Triton's options, and the number of blocks of outputs."""
    outputs, (n, t, height, width) = weight.shape[1], source.size
    options, launch_options = configs.options(
        "feature_layer" if source.features else "layer", weight.dtype, outputs, weight.device
    )
    tiles, _ = tiles_of(height, width, options["BLOCK_M"])
    block_n = min(options["BLOCK_N"], max(16, power_of_two(outputs)))
    arguments = {
        "out": out,
        "frames": n * t,
        "outputs": outputs,
        "out_pixel": 1 if planes else outputs,
        "out_channel": height * width if planes else 1,
        "PRECISION": configs.input_precision(weight.dtype),
        "BLOCK_N": block_n,
        "BLOCK_K": min(options["BLOCK_K"], max(16, power_of_two(max(source.inputs, source.features)))),
    }
    return arguments | source.arguments() | weight_arguments(weight) | tiles, launch_options, cdiv(outputs, block_n)


def _launch(arguments: dict[str, Any], launch_options: dict[str, int], blocks: int) -> Launch:
    tiles = tile_count(*(arguments[name] for name in ("height", "width", "BLOCK_M", "PATCH_W")))
    return Launch(layer_kernel, arguments["frames"] * tiles * blocks, arguments, **launch_options)


def linear(weight: Tensor, source: Input, bias: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, list[Launch]]:
    """Return W x, or W x + b, [N, T, H, W, O] in `dtype`; the weight as in `layer`."""
    out = _out(weight, source, dtype)
    arguments, launch_options, blocks = _arguments(weight, source, out, False)
    arguments |= bias_arguments(bias) | to_rgb.arguments(None, weight.dtype, None, 1)
    return out, [_launch(arguments | {"gain": 1.0, "omega": 1.0, "ACT": "linear"}, launch_options, blocks)]


def layer(
    layer: Layer,
    weight: Tensor,
    source: Input,
    *,
    store: bool = True,
    planes: bool = False,
    canvas: Canvas | None = None,
) -> tuple[Tensor | None, list[Launch]]:
    """Return the output of a layer, [N, T, H, W, O] in the type of the products.

    Args:
        layer: its activation, bias and read-out.
        weight: [N or 1, O, K] in the type of the products, the columns that multiply `source`; rows may be padded.
        store: whether to store the output; False computes only its read-out.
        planes: return the output as frames are laid out, float32 [N, T, O, H, W].
        canvas: the running image, which is upsampled before the layer's read-out is added; None reads nothing out.
    """
    n, t, height, width = source.size
    if planes:
        out = torch.empty(n, t, weight.shape[1], height, width, dtype=torch.float32, device=weight.device)
    else:
        out = _out(weight, source, weight.dtype) if store else None
    arguments, launch_options, blocks = _arguments(weight, source, out, planes)
    arguments |= bias_arguments(layer.bias)
    arguments |= {"gain": float(layer.gain), "omega": float(layer.omega), "ACT": layer.activation}
    if canvas is None or layer.to_rgb is None:
        return out, [_launch(arguments | to_rgb.arguments(None, weight.dtype, None, 1), launch_options, blocks)]
    reading = to_rgb.arguments(layer.to_rgb, weight.dtype, canvas, source.scale)
    if blocks == 1:  # a program holds every output that a pixel's read-out sums
        reading["rgb_out"] = canvas.new(layer.to_rgb[0].shape[1], source.size, source.scale)
        return out, [_launch(arguments | reading, launch_options, blocks)]
    partial = torch.empty(blocks, n, t, reading["colours"], height, width, dtype=torch.float32, device=weight.device)
    alone = reading | {"rgb_out": partial, "rgb_bias": None, "image": None}
    adding = to_rgb.added(canvas, partial, reading["rgb_bias"], source.size, source.scale)
    return out, [_launch(arguments | alone, launch_options, blocks), adding]
