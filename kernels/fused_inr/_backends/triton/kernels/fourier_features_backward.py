"""Gradients that pass through Fourier features: of phases, of frequencies, and of the weight that multiplies them.

Neither the features nor their gradient are ever in memory. With a = frequency . (X, Y) + phase, and dE = dz W_e split
into the parts of the sines and of the cosines, a pixel contributes g = dE_sin cos(a) - dE_cos sin(a) to the gradient of
a phase, and g X and g Y to that of its frequency: a tile of dE is the accumulator of a product, and only three sums
over its pixels leave the chip. The right operand of dW_e = dz^T concat(sin(a), cos(a)) is computed from the tables of
rows and columns, one tile at a time. Partial sums are added in a fixed order, as in `layers_backward`.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.triton.kernels import configs
from fused_inr._backends.triton.kernels.fourier_features import (
    patch_of_tile,
    pixels_of_tile,
    sines_of_patch,
    tiles_of,
)
from fused_inr._backends.triton.kernels.launch import Launch, cdiv
from fused_inr._backends.triton.kernels.layers import Tables
from fused_inr._backends.triton.kernels.layers_backward import fitted, pixel_splits
from fused_inr.inr import Grid
from fused_inr.primitives.memory_format import batch_stride


@triton.jit
def phase_gradient_kernel(
    dz,
    weight,
    rows,
    columns,
    partial,
    times,
    height,
    width,
    outputs,
    features,
    weight_clip,
    weight_row,
    rows_clip,
    columns_clip,
    x_start,
    x_step,
    y_start,
    y_step,
    COSINES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PATCH_W: tl.constexpr,
):
    """Sum g, g X and g Y over one tile of a frame's pixels, for BLOCK_N frequencies.

    dz [N, T, H, W, outputs]; weight [N or 1, outputs, 2 D or, without COSINES, D]; tables as in
    `fourier_features`; partial [N, T, tiles, 3, D] float32.
    """
    blocks = tl.cdiv(features, BLOCK_N)
    tiles = tl.cdiv(width, PATCH_W) * tl.cdiv(height, BLOCK_M // PATCH_W)
    program = tl.program_id(0)
    part = (program // blocks).to(tl.int64)  # index over frames, then tiles
    frame = part // tiles
    clip = frame // times
    y, x, inside = pixels_of_tile((part % tiles).to(tl.int32), height, width, BLOCK_M, PATCH_W)
    d = program % blocks * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    valid = d < features
    k = tl.arange(0, BLOCK_K)
    a = dz + ((frame * height + y) * width + x) * outputs + k[None, :]
    b = weight + clip * weight_clip + k[:, None] * weight_row + d
    of_sine = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    of_cosine = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for first in range(0, outputs, BLOCK_K):
        left = outputs - first
        tile = tl.load(a, inside & (k < left)[None, :], 0.0)
        factor = tl.load(b, (k < left)[:, None] & valid, 0.0)
        of_sine = tl.dot(tile, factor, of_sine, input_precision=PRECISION)
        if COSINES:
            factor = tl.load(b + features, (k < left)[:, None] & valid, 0.0)
            of_cosine = tl.dot(tile, factor, of_cosine, input_precision=PRECISION)
        a += BLOCK_K
        b += BLOCK_K * tl.cast(weight_row, tl.int64)
    py, px = patch_of_tile((part % tiles).to(tl.int32), height, width, BLOCK_M, PATCH_W)
    row = rows + clip * rows_clip + (frame % times * height + py) * 2 * features
    column = columns + clip * columns_clip + px.to(tl.int64) * 2 * features
    sine, cosine = sines_of_patch(row, column, d, features)
    g = of_sine * cosine
    if COSINES:
        g -= of_cosine * sine
    target = partial + part * 3 * features + d
    tl.store(target, tl.sum(g, 0, keep_dims=True), valid)
    g_x = g * (x_start + x * x_step)
    tl.store(target + features, tl.sum(g_x, 0, keep_dims=True), valid)
    g_y = g * (y_start + (height - 1 - y) * y_step)
    tl.store(target + 2 * features, tl.sum(g_y, 0, keep_dims=True), valid)


@triton.jit
def feature_weight_kernel(
    dz,
    rows,
    columns,
    out,
    times,
    height,
    width,
    outputs,
    features,
    splits,
    span,
    rows_clip,
    columns_clip,
    COSINES: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_K: tl.constexpr,
    PATCH_W: tl.constexpr,
):
    """Write dW_e = dz^T features for BLOCK_M outputs and BLOCK_N frequencies, summed over one span of a clip's pixels.

    A span is `span` patches of BLOCK_K pixels. dz [N, T, H, W, outputs]; `out` [N, splits, outputs, 2 D or, without
    COSINES, D] float32.
    """
    col_tiles = tl.cdiv(features, BLOCK_N)
    row_tiles = tl.cdiv(outputs, BLOCK_M)
    program = tl.program_id(0)
    d = program % col_tiles * BLOCK_N + tl.arange(0, BLOCK_N)[None, :]
    program = program // col_tiles
    o = program % row_tiles * BLOCK_M + tl.arange(0, BLOCK_M)
    part = (program // row_tiles).to(tl.int64)  # index over clips, then spans
    clip = part // splits
    tiles = tl.cdiv(width, PATCH_W) * tl.cdiv(height, BLOCK_K // PATCH_W)
    start = (part % splits * span).to(tl.int32)
    stop = tl.minimum(start + span, times * tiles)
    of_sine = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    of_cosine = tl.zeros([BLOCK_M, BLOCK_N], tl.float32)
    for patch in range(start, stop):
        time = patch // tiles
        y, x, inside = pixels_of_tile(patch % tiles, height, width, BLOCK_K, PATCH_W)
        pixel = ((clip * times + time) * height + y) * width + x
        left = tl.load(dz + tl.trans(pixel) * outputs + o[:, None], tl.trans(inside) & (o < outputs)[:, None], 0.0)
        py, px = patch_of_tile(patch % tiles, height, width, BLOCK_K, PATCH_W)
        row = rows + clip * rows_clip + (time.to(tl.int64) * height + py) * 2 * features
        column = columns + clip * columns_clip + px.to(tl.int64) * 2 * features
        sine, cosine = sines_of_patch(row, column, d, features)
        of_sine = tl.dot(left, sine.to(left.dtype), of_sine, input_precision=PRECISION)
        if COSINES:
            of_cosine = tl.dot(left, cosine.to(left.dtype), of_cosine, input_precision=PRECISION)
    columns_out = 2 * features if COSINES else features
    target = out + (part * outputs + o[:, None]) * columns_out + d
    written = (o < outputs)[:, None] & (d < features)
    tl.store(target, of_sine, written)
    if COSINES:
        tl.store(target + features, of_cosine, written)


def phase_gradient(dz: Tensor, weight: Tensor, tables: Tables, grid: Grid) -> tuple[Tensor, list[Launch]]:
    """Return partial sums [N, T, tiles, 3, D] float32 of the gradients of phase and of the X and Y of frequency.

    Args:
        dz: [N, T, H, W, O].
        weight: W_e, [N or 1, O, F] of the same type, its last axis contiguous.
        tables: tables of the stage's features.
        grid: the stage's grid.
    """
    n, t, height, width, outputs = dz.shape
    features = tables.columns.shape[-1]
    limits, options = configs.options("phase_gradient", dz.dtype, features, dz.device)
    pixels, tiles = tiles_of(height, width, limits["BLOCK_M"])
    blocks = fitted(limits, pixels["BLOCK_M"], features, outputs)
    partial = torch.empty(n, t, tiles, 3, features, dtype=torch.float32, device=dz.device)
    (x0, x1), (y0, y1) = grid.x, grid.y
    arguments = {
        "dz": dz,
        "weight": weight,
        "rows": tables.rows,
        "columns": tables.columns,
        "partial": partial,
        "times": t,
        "height": height,
        "width": width,
        "outputs": outputs,
        "features": features,
        "weight_clip": batch_stride(weight),
        "weight_row": weight.stride(1),
        "rows_clip": batch_stride(tables.rows),
        "columns_clip": batch_stride(tables.columns),
        "x_start": x0,
        "x_step": (x1 - x0) / width,
        "y_start": y0,
        "y_step": (y1 - y0) / height,
        "COSINES": tables.cosines,
        "PRECISION": configs.input_precision(dz.dtype),
        "PATCH_W": pixels["PATCH_W"],
    }
    programs = n * t * tiles * cdiv(features, blocks["BLOCK_N"])
    return partial, [Launch(phase_gradient_kernel, programs, arguments | blocks, **options)]


def feature_weight_gradient(dz: Tensor, tables: Tables) -> tuple[Tensor, list[Launch]]:
    """Return partial sums [N, splits, O, F] float32 of the gradient of the features' weight; see `phase_gradient`."""
    n, t, height, width, outputs = dz.shape
    features = tables.columns.shape[-1]
    limits, options = configs.options("feature_weight", dz.dtype, features, dz.device)
    pixels, tiles = tiles_of(height, width, limits["BLOCK_K"])
    blocks = fitted(limits, outputs, features, pixels["BLOCK_M"])
    programs = n * cdiv(outputs, blocks["BLOCK_M"]) * cdiv(features, blocks["BLOCK_N"])
    splits, span = pixel_splits(t * tiles * blocks["BLOCK_K"], programs, blocks["BLOCK_K"])
    out = torch.empty(
        n, splits, outputs, features * (2 if tables.cosines else 1), dtype=torch.float32, device=dz.device
    )
    arguments = {
        "dz": dz,
        "rows": tables.rows,
        "columns": tables.columns,
        "out": out,
        "times": t,
        "height": height,
        "width": width,
        "outputs": outputs,
        "features": features,
        "splits": splits,
        "span": span // blocks["BLOCK_K"],
        "rows_clip": batch_stride(tables.rows),
        "columns_clip": batch_stride(tables.columns),
        "COSINES": tables.cosines,
        "PRECISION": configs.input_precision(dz.dtype),
        "PATCH_W": pixels["PATCH_W"],
    }
    return out, [Launch(feature_weight_kernel, programs * splits, arguments | blocks, **options)]
