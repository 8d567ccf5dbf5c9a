"""Fourier features of a tile of pixels from tables of rows and columns, without ever storing a feature tensor.

A pixel (y, x) of frame (n, t) has angles a = u + v, where u = f_y Y + phase depends only on its row and v = f_x X only
on its column. Tables hold the sines and cosines of both, computed from float32 angles:

    rows     [N, T, H, 2, D]   sin(u), cos(u)
    columns  [N, W, 2, D]      sin(v), cos(v)

(N is 1 for a table that all clips share), and sin(a), cos(a) of a tile take two multiply-adds each. For products in
half precision the tables are float16: their rounding, 2^-12 relative, is well below that of bfloat16 features, 2^-9,
and they take half the bytes of float32 from the cache.

The K axis of a product with features is split into blocks of frequencies: `sines_of_patch` returns the sines and
cosines of one block, which multiply columns d and D + d of the weight.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.triton.kernels.launch import Launch, cdiv, power_of_two
from fused_inr._backends.triton.kernels.sines import sine_cosine
from fused_inr.inr import Fourier, Grid

TABLE_ELEMENTS = 1024  # per program of `table_kernel`


@triton.jit
def table_kernel(
    frequency,
    phase,
    out,
    lines,
    positions,
    times,
    features,
    frequency_clip,
    phase_clip,
    start,
    step,
    PHASED: tl.constexpr,
    LINES: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """Write sin and cos [lines, 2, D] of frequency * coordinate, + phase if PHASED; a line is (clip, frame, position).

    `frequency` points to the axis' entry in [N, D, 2]. Rows (PHASED) count their positions from the last one.
    """
    blocks = tl.cdiv(features, BLOCK_D)
    program = tl.program_id(0)
    line = (program // blocks).to(tl.int64) * LINES + tl.arange(0, LINES)[:, None]
    d = (program % blocks) * BLOCK_D + tl.arange(0, BLOCK_D)[None, :]
    inside = (line < lines) & (d < features)
    position = (line % positions).to(tl.int32)
    clip = line // positions // times
    if PHASED:
        position = positions - 1 - position
    angle = tl.load(frequency + clip * frequency_clip + 2 * d, inside, 0.0) * (start + position * step)
    if PHASED:
        frame = line // positions % times
        angle += tl.load(phase + clip * phase_clip + frame * features + d, inside, 0.0)
    s, c = sine_cosine(angle)
    place = out + line * 2 * features + d
    tl.store(place, s.to(out.dtype.element_ty), inside)
    tl.store(place + features, c.to(out.dtype.element_ty), inside)


@triton.jit
def pixels_of_tile(tile, height, width, BLOCK_M: tl.constexpr, PATCH_W: tl.constexpr):
    """Return row y, column x and a mask [BLOCK_M, 1] of a tile's pixels; masked ones get the last row or column.

    A tile is a patch of BLOCK_M / PATCH_W x PATCH_W pixels, which spans few rows, columns and parents.
    """
    tiles_x = tl.cdiv(width, PATCH_W)
    m = tl.arange(0, BLOCK_M)[:, None]
    y = tile // tiles_x * (BLOCK_M // PATCH_W) + m // PATCH_W
    x = tile % tiles_x * PATCH_W + m % PATCH_W
    inside = (y < height) & (x < width)
    return tl.minimum(y, height - 1), tl.minimum(x, width - 1), inside


@triton.jit
def pixels_from_first(tile, y, x, height, width, RATIO: tl.constexpr, BLOCK_M: tl.constexpr, PATCH_W: tl.constexpr):
    """Return the offsets of the parents of a tile's pixels (y, x) in their frame; a parent has RATIO pixels per side.

    Returns the offset of the first parent in int64, and the offsets of all [BLOCK_M, 1] relative to it in 32 bits,
    which take half the registers.
    """
    tiles_x = tl.cdiv(width, PATCH_W)
    top = tile // tiles_x * (BLOCK_M // PATCH_W) // RATIO
    left = tile % tiles_x * PATCH_W // RATIO
    w = width // RATIO
    return top.to(tl.int64) * w + left, (y // RATIO - top) * w + (x // RATIO - left)


@triton.jit
def patch_of_tile(tile, height, width, BLOCK_M: tl.constexpr, PATCH_W: tl.constexpr):
    """Return the rows [BLOCK_M / PATCH_W, 1] and columns [PATCH_W, 1] of a tile, clamped to the frame."""
    tiles_x = tl.cdiv(width, PATCH_W)
    y = tile // tiles_x * (BLOCK_M // PATCH_W) + tl.arange(0, BLOCK_M // PATCH_W)[:, None]
    x = tile % tiles_x * PATCH_W + tl.arange(0, PATCH_W)[:, None]
    return tl.minimum(y, height - 1), tl.minimum(x, width - 1)


@triton.jit
def sines_of_patch(row, column, d, features):
    """Return sin(a) and cos(a) [R C, BLOCK_D] of a tile's pixels in float32; 0 where d >= features.

    Args:
        row, column: pointers to the table entries of the tile's rows [R, 1] and columns [C, 1]; each is loaded once.
        d: [1, BLOCK_D] indices of frequencies.
    """
    valid = d < features
    su = tl.expand_dims(tl.load(row + d, valid, 0.0).to(tl.float32), 1)  # [R, 1, BLOCK_D]
    cu = tl.expand_dims(tl.load(row + features + d, valid, 0.0).to(tl.float32), 1)
    sv = tl.expand_dims(tl.load(column + d, valid, 0.0).to(tl.float32), 0)  # [1, C, BLOCK_D]
    cv = tl.expand_dims(tl.load(column + features + d, valid, 0.0).to(tl.float32), 0)
    pixels: tl.constexpr = row.shape[0] * column.shape[0]
    s = su * cv + cu * sv  # [R, C, BLOCK_D]
    c = cu * cv - su * sv
    return tl.reshape(s, pixels, d.shape[1]), tl.reshape(c, pixels, d.shape[1])


def table_type(dtype: torch.dtype) -> torch.dtype:
    """Return the type of the tables for products in `dtype`."""
    return torch.float32 if dtype == torch.float32 else torch.float16


def _table(fourier: Fourier, axis: int, positions: int, bounds: tuple[float, float], out: Tensor) -> Launch:
    """Return the launch that fills the table of columns (axis 0) or, with phases, of rows (axis 1)."""
    frequency = fourier.frequency.detach().to(torch.float32).contiguous()  # [N or 1, D, 2]
    phase = fourier.phase.detach().to(torch.float32).contiguous()  # [N or 1, T, D]
    _, times, features = phase.shape
    lines = out.numel() // max(1, 2 * features)
    block_d = min(power_of_two(features), 128)
    per_program = TABLE_ELEMENTS // block_d
    arguments = {
        "frequency": frequency[:, :, axis:],
        "phase": phase if axis else None,
        "out": out,
        "lines": lines,
        "positions": positions,
        "times": times if axis else 1,
        "features": features,
        "frequency_clip": 2 * features if len(frequency) > 1 else 0,
        "phase_clip": times * features if len(phase) > 1 else 0,
        "start": bounds[0],
        "step": (bounds[1] - bounds[0]) / positions,
        "PHASED": bool(axis),
        "LINES": per_program,
        "BLOCK_D": block_d,
    }
    return Launch(table_kernel, cdiv(lines, per_program) * cdiv(features, block_d), arguments)


def tables(fourier: Fourier, grid: Grid, dtype: torch.dtype) -> tuple[Tensor, Tensor, list[Launch]]:
    """Return the tables of rows [N, T, H, 2, D] and of columns [N, W, 2, D], which the launches fill.

    N is 1 for the rows if all clips share frequencies and phases, and for the columns if they share frequencies.
    """
    _, times, features = fourier.phase.shape
    clips = len(fourier.phase) if len(fourier.frequency) == 1 else len(fourier.frequency)
    new = torch.empty(0, dtype=table_type(dtype), device=fourier.phase.device).new_empty
    rows = new(clips, times, grid.height, 2, features)
    columns = new(len(fourier.frequency), grid.width, 2, features)
    return (
        rows,
        columns,
        [
            _table(fourier, 1, grid.height, grid.y, rows),
            _table(fourier, 0, grid.width, grid.x, columns),
        ],
    )


def patch_width(height: int, width: int, block_m: int) -> int:
    """Return the columns of a tile of `block_m` pixels: 16 if the frame allows it, for nearly square tiles."""
    narrow = min(power_of_two(width), 16, block_m)
    return max(narrow, block_m // power_of_two(height))


def block_pixels(height: int, width: int, block_m: int) -> int:
    """Return `block_m`, or less for smaller frames; at least 16, the minimum of matrix instructions."""
    return min(block_m, max(16, power_of_two(height) * power_of_two(width)))


def tile_count(height: int, width: int, block_m: int, patch_w: int) -> int:
    """Return the number of tiles of a frame."""
    return cdiv(height, block_m // patch_w) * cdiv(width, patch_w)


def tiles_of(height: int, width: int, max_pixels: int) -> tuple[dict[str, int], int]:
    """Return the constants of a kernel whose tiles have at most `max_pixels` pixels, and the tiles per frame."""
    block_m = block_pixels(height, width, max_pixels)
    patch_w = patch_width(height, width, block_m)
    return {"BLOCK_M": block_m, "PATCH_W": patch_w}, tile_count(height, width, block_m, patch_w)
