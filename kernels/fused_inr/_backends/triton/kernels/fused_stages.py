"""Two or three layers of a stage in one kernel, for widths whose activations fit on the chip.

A program takes a tile of pixels from the first layer to the last. The output of the first layer stays in shared memory
as an operand of the second, which is computed in blocks of outputs: each block is accumulated at once into the third
layer (or, with two layers, goes to the result). While a tile is on chip only weights are read, from the cache, which
holds them for all tiles of a clip: with a tile of 128 pixels, one byte per 128 operations in half precision.

The table of `configs` lists which widths and types are fused on which architecture; without an entry, layers run one by
one. That is the case in float32, and for widths above 128 on sm_80 and gfx942, where only tiles of 32 pixels spill no
registers, and these would read the weights from the cache at only 32 operations per byte.
"""

from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.target_info import is_hip

from fused_inr._backends.triton.kernels import configs, to_rgb
from fused_inr._backends.triton.kernels.fourier_features import (
    pixels_from_first,
    pixels_of_tile,
    tile_count,
    tiles_of,
)
from fused_inr._backends.triton.kernels.launch import Launch, power_of_two
from fused_inr._backends.triton.kernels.layers import (
    Input,
    activated,
    bias_arguments,
    layer_sums,
    weight_arguments,
)
from fused_inr._backends.triton.kernels.sines import INTERPRETED
from fused_inr._backends.triton.kernels.to_rgb import Canvas, add_read_out, finish_read_out
from fused_inr.inr import Layer

MAX_LAYERS = 3


@triton.jit
def computed_later(number):
    """Return `number` through an opaque instruction, so that values derived from it are recomputed, not kept."""
    if INTERPRETED or is_hip():
        result = number
    else:
        result = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [number], tl.int32, is_pure=False, pack=1)
    return result


@triton.jit
def tile_owner(program, tiles, times):
    """Return the tile, the frame (counted over all clips), the clip and the time of a program."""
    frame = (program // tiles).to(tl.int64)
    return program % tiles, frame, frame // times, frame % times


@triton.jit
def block_of_layer(
    y, weight, row, bias, BLOCK_N: tl.constexpr, gain, omega, ACT: tl.constexpr, PRECISION: tl.constexpr
):
    """Return the first BLOCK_N outputs, [BLOCK_N, BLOCK_M], of a layer whose inputs y [WIDTH, BLOCK_M] are on chip."""
    o = tl.arange(0, BLOCK_N)[:, None]
    k = tl.arange(0, y.shape[0])[None, :]
    # Offsets within one weight fit in 32 bits, which take half the registers of pointers.
    z = tl.dot(tl.load(weight + (o * row + k)), y, input_precision=PRECISION) + tl.load(bias + o)
    return activated(z, gain, omega, ACT)


@triton.jit
def stage_kernel(
    x,
    rows,
    columns,
    parent,
    weight,
    weight1,
    weight2,
    bias,
    bias1,
    bias2,
    out,
    rgb,
    rgb_bias,
    rgb_out,
    image,
    times,
    height,
    width,
    inputs,
    features,
    colours,
    rows_clip,
    columns_clip,
    weight_clip,
    weight_row,
    weight1_clip,
    weight1_row,
    weight2_clip,
    weight2_row,
    bias_clip,
    bias_time,
    bias1_clip,
    bias1_time,
    bias2_clip,
    bias2_time,
    rgb_clip,
    gain,
    gain1,
    gain2,
    omega,
    omega1,
    omega2,
    ACT: tl.constexpr,
    ACT1: tl.constexpr,
    ACT2: tl.constexpr,
    COSINES: tl.constexpr,
    PARENT_RATIO: tl.constexpr,
    IMAGE_RATIO: tl.constexpr,
    COLOURS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    WIDTH: tl.constexpr,
    WIDTH1: tl.constexpr,
    WIDTH2: tl.constexpr,
    PATCH_W: tl.constexpr,
):
    """Write the last layer's output for a tile of pixels to `out` and its read-out to `rgb_out`, unless these are None.

    Arguments numbered 1 and 2 belong to the second and third layer; ACT2 is None if there are only two layers.
    """
    tiles = tl.cdiv(height, BLOCK_M // PATCH_W) * tl.cdiv(width, PATCH_W)
    tile, frame, clip, time = tile_owner(tl.program_id(0), tiles, times)
    py, px, inside = pixels_of_tile(tile, height, width, BLOCK_M, PATCH_W)
    pixel, beside = pixels_from_first(tile, py, px, height, width, 1, BLOCK_M, PATCH_W)
    pixel += frame * height * width

    o = tl.arange(0, WIDTH)[None, :]
    w = weight + clip * weight_clip + o * weight_row
    z = layer_sums(
        x,
        rows,
        columns,
        parent,
        w,
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
        WIDTH,
        rows_clip,
        columns_clip,
        COSINES,
        PARENT_RATIO,
        PRECISION,
        BLOCK_M,
        WIDTH,
        BLOCK_K,
        PATCH_W,
    )
    program = computed_later(tl.program_id(0))
    tile, frame, clip, time = tile_owner(program, tiles, times)
    z += tl.load(bias + clip * bias_clip + time * bias_time + o)
    # From here on pixels are columns: a layer's output is a right operand, which the matrix unit reads from shared
    # memory, leaving the registers to the accumulators.
    y = tl.trans(activated(z, gain, omega, ACT).to(weight.dtype.element_ty))  # [WIDTH, BLOCK_M]

    w1 = weight1 + clip * weight1_clip
    b1 = bias1 + clip * bias1_clip + time * bias1_time
    colour = rgb + clip * rgb_clip if rgb is not None else None
    read = tl.zeros([BLOCK_M, COLOURS], tl.float32)
    if ACT2 is None:
        for first in range(0, WIDTH1, BLOCK_N):
            y1 = tl.trans(block_of_layer(y, w1, weight1_row, b1, BLOCK_N, gain1, omega1, ACT1, PRECISION))
            o1 = first + tl.arange(0, BLOCK_N)[None, :]
            if rgb is not None:
                read = add_read_out(read, y1, colour, WIDTH1, colours, o1, COLOURS, PRECISION)
            if out is not None:
                tl.store(out + pixel * WIDTH1 + (beside * WIDTH1 + o1), y1.to(out.dtype.element_ty), inside)
            w1 += BLOCK_N * weight1_row
            b1 += BLOCK_N
    else:
        o2 = tl.arange(0, WIDTH2)
        block = o2[:, None] * weight2_row + tl.arange(0, BLOCK_N)[None, :]
        w2 = weight2 + clip * weight2_clip
        z2 = tl.zeros([WIDTH2, BLOCK_M], tl.float32)
        for _ in range(0, WIDTH1, BLOCK_N):
            y1 = block_of_layer(y, w1, weight1_row, b1, BLOCK_N, gain1, omega1, ACT1, PRECISION)
            z2 = tl.dot(tl.load(w2 + block), y1.to(weight2.dtype.element_ty), z2, input_precision=PRECISION)
            w1 += BLOCK_N * weight1_row
            b1 += BLOCK_N
            w2 += BLOCK_N
        program = computed_later(tl.program_id(0))
        tile, frame, clip, time = tile_owner(program, tiles, times)
        py, px, inside = pixels_of_tile(tile, height, width, BLOCK_M, PATCH_W)
        pixel, beside = pixels_from_first(tile, py, px, height, width, 1, BLOCK_M, PATCH_W)
        pixel += frame * height * width
        colour = rgb + clip * rgb_clip if rgb is not None else None
        z2 += tl.load(bias2 + clip * bias2_clip + time * bias2_time + o2)[:, None]
        y2 = tl.trans(activated(z2, gain2, omega2, ACT2))
        if rgb is not None:
            read = add_read_out(read, y2, colour, WIDTH2, colours, o2[None, :], COLOURS, PRECISION)
        if out is not None:
            tl.store(out + pixel * WIDTH2 + (beside * WIDTH2 + o2[None, :]), y2.to(out.dtype.element_ty), inside)
    if rgb is not None:
        finish_read_out(
            read, rgb_bias, image, rgb_out, frame, py, px, inside, height, width, colours, IMAGE_RATIO, COLOURS
        )


def cuts(layers: Sequence[Layer], dtype: torch.dtype, device: torch.device) -> list[int]:
    """Return the number of layers of a stage in each kernel, in order; 1 stands for a kernel of the module `layers`.

    A layer with a read-out is the last of its kernel.
    """
    counts, start = [], 0
    while start < len(layers):
        count = 1
        while start + count < len(layers) and count < MAX_LAYERS and layers[start + count - 1].to_rgb is None:
            count += 1
        while count > 1 and _options(layers[start : start + count], dtype, device) is None:
            count -= 1
        counts.append(count)
        start += count
    return counts


def _options(layers: Sequence[Layer], dtype: torch.dtype, device: torch.device) -> dict[str, int] | None:
    """Return the options of a kernel for these layers, or None if they do not fit on the chip."""
    if any(layer.outputs < 16 or layer.outputs != power_of_two(layer.outputs) for layer in layers):
        return None
    width = max(layer.outputs for layer in layers)
    return configs.fitting(f"stage{len(layers)}", dtype, width, device)


def stage(
    layers: Sequence[Layer], weights: Sequence[Tensor], source: Input, *, store: bool, canvas: Canvas
) -> tuple[Tensor | None, list[Launch]]:
    """Return the output of the last of two or three layers, [N, T, H, W, O] in the type of the products.

    Args:
        layers: one group of `cuts`; the last one's read-out goes to `canvas`.
        weights: [N or 1, O, K] of each layer in the type of the products; of the first, the columns that multiply
            `source`.
        source: the input of the first layer.
        store: whether to store the output; False computes only its read-out.
        canvas: the running image.
    """
    dtype, device, (n, t, height, width) = weights[0].dtype, weights[0].device, source.size
    options = dict(_options(layers, dtype, device))
    launch_options = {name: options.pop(name) for name in ("num_warps", "num_stages")}
    tiles, _ = tiles_of(height, width, options["BLOCK_M"])
    last = layers[-1]
    out = torch.empty(*source.size, last.outputs, dtype=dtype, device=device) if store else None
    arguments: dict[str, Any] = {**source.arguments(), **tiles, "out": out}
    for index in range(MAX_LAYERS):
        arguments |= _numbered("" if index == 0 else str(index), layers, weights, index)
    arguments |= to_rgb.arguments(last.to_rgb, dtype, canvas, source.scale)
    if last.to_rgb is None:
        arguments["COLOURS"] = 1  # the unused accumulator of the read-out cannot be empty
    else:
        arguments["rgb_out"] = canvas.new(arguments["colours"], source.size, source.scale)
    arguments |= {
        "PRECISION": configs.input_precision(dtype),
        "BLOCK_N": min(options["BLOCK_N"], layers[1].outputs),
        "BLOCK_K": min(options["BLOCK_K"], max(16, power_of_two(max(source.inputs, source.features)))),
    }
    programs = n * t * tile_count(height, width, tiles["BLOCK_M"], tiles["PATCH_W"])
    return out, [Launch(stage_kernel, programs, arguments, **launch_options)]


def _numbered(suffix: str, layers: Sequence[Layer], weights: Sequence[Tensor], index: int) -> dict[str, Any]:
    """Return the kernel's arguments of one layer, or placeholders for a missing one."""
    if index >= len(layers):
        absent = {f"weight{suffix}": None, f"weight{suffix}_clip": 0, f"weight{suffix}_row": 0}
        absent |= bias_arguments(None, suffix)
        return absent | {f"WIDTH{suffix}": 0, f"gain{suffix}": 1.0, f"omega{suffix}": 1.0, f"ACT{suffix}": None}
    layer = layers[index]
    return {
        **weight_arguments(weights[index], suffix),
        **bias_arguments(layer.bias, suffix),
        f"WIDTH{suffix}": layer.outputs,
        f"gain{suffix}": float(layer.gain),
        f"omega{suffix}": float(layer.omega),
        f"ACT{suffix}": layer.activation,
    }
