"""The op residual + clamp(act(x + bias) * gain), and its slope times a gradient, each in one pass.

A dense tensor is treated as a matrix [rows, cols] in which each lane has one bias: a lane is a column if the tensor is
channels_last, else a row. A program takes one tile; if it also sums along lanes, it continues with the next tiles along
them.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.triton.kernels.activations import activated, through
from fused_inr._backends.triton.kernels.launch import TILE_ELEMENTS, Launch, cdiv, power_of_two
from fused_inr.primitives import memory_format
from fused_inr.primitives.bias_act import Options

# Programs that sum take enough tiles each to leave about this many programs. The number does not depend on the device,
# so sums have the same bits on all devices.
_SUMMING_PROGRAMS = 2048


@triton.jit
def _tile(part, lane_tile, rows, cols, COLUMN_LANES: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Return a tile's first row and column, the offsets from its first element, and a mask of the matrix."""
    if COLUMN_LANES:
        row = part.to(tl.int64) * ROWS
        col = lane_tile.to(tl.int64) * COLS
    else:
        row = lane_tile.to(tl.int64) * ROWS
        col = part.to(tl.int64) * COLS
    i = tl.arange(0, ROWS)[:, None]
    j = tl.arange(0, COLS)[None, :]
    # A tile has several rows only if the matrix has fewer columns than a tile, so offsets within a tile are small.
    return row, col, i * cols + j, (row + i < rows) & (col + j < cols)


@triton.jit
def _per_lane(values, row, col, rows, cols, channels, COLUMN_LANES, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Return the values [channels] of a tile's lanes, shaped to broadcast against the tile."""
    if COLUMN_LANES:
        lane = col + tl.arange(0, COLS)
        result = tl.load(values + lane, lane < cols, 0.0)[None, :]
    else:
        i = tl.arange(0, ROWS)
        first = (row % channels).to(tl.int32)
        result = tl.load(values + (first + i) % channels, row + i < rows, 0.0)[:, None]
    return result


@triton.jit
def bias_act_kernel(
    x,
    bias,
    residual,
    out,
    rows,
    cols,
    channels,
    alpha,
    gain,
    clamp,
    ACT: tl.constexpr,
    COLUMN_LANES: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Compute one tile. `bias` and `residual` may be None; `clamp` is infinite if there is none."""
    lane_tiles = tl.cdiv(cols, COLS) if COLUMN_LANES else tl.cdiv(rows, ROWS)
    program = tl.program_id(0)
    row, col, offsets, inside = _tile(program // lane_tiles, program % lane_tiles, rows, cols, COLUMN_LANES, ROWS, COLS)
    start = row * cols + col
    v = tl.load(x + start + offsets, inside, 0.0).to(tl.float32)
    if bias is not None:
        v += _per_lane(bias, row, col, rows, cols, channels, COLUMN_LANES, ROWS, COLS)
    y = activated(v, alpha, ACT) * gain
    y = tl.where(y > clamp, clamp, tl.where(y < -clamp, -clamp, y))  # keeps NaN
    if residual is not None:
        y += tl.load(residual + start + offsets, inside, 0.0).to(tl.float32)
    tl.store(out + start + offsets, y.to(out.dtype.element_ty), inside)


@triton.jit
def bias_act_slope_kernel(
    gradient,
    shift,
    saved,
    bias,
    out,
    partial,
    rows,
    cols,
    channels,
    steps,
    alpha,
    gain,
    clamp,
    FROM_OUTPUT: tl.constexpr,
    ACT: tl.constexpr,
    COLUMN_LANES: tl.constexpr,
    ROWS: tl.constexpr,
    COLS: tl.constexpr,
):
    """Compute `steps` consecutive tiles along the lanes: (gradient + shift) * slope.

    Unless `partial` is None, sums over the program's stretch of each lane go to partial [stretches, lanes].
    """
    lane_tiles = tl.cdiv(cols, COLS) if COLUMN_LANES else tl.cdiv(rows, ROWS)
    program = tl.program_id(0)
    stretch = program // lane_tiles
    lane_tile = program % lane_tiles
    total = tl.zeros([ROWS, COLS], tl.float32)
    unlimited = clamp == float("inf")
    for step in range(steps):
        row, col, offsets, inside = _tile(
            stretch.to(tl.int64) * steps + step, lane_tile, rows, cols, COLUMN_LANES, ROWS, COLS
        )
        start = row * cols + col
        v = tl.load(saved + start + offsets, inside, 0.0).to(tl.float32)
        d = tl.load(gradient + start + offsets, inside, 0.0).to(tl.float32)
        if shift is not None:
            d += _per_lane(shift, row, col, rows, cols, channels, COLUMN_LANES, ROWS, COLS)
        if FROM_OUTPUT:
            # Where the slope is positive, the output has the sign of the input times that of the gain, and it reaches
            # the limits only where it was clamped.
            d = tl.where((tl.abs(v) < clamp) | unlimited, d, 0.0)
            d = through(v * gain, d * gain, alpha, ACT)
        else:
            if bias is not None:
                v += _per_lane(bias, row, col, rows, cols, channels, COLUMN_LANES, ROWS, COLS)
            y = activated(v, alpha, ACT) * gain
            d = tl.where((tl.abs(y) <= clamp) | unlimited, d, 0.0)
            d = through(v, d * gain, alpha, ACT)
        tl.store(out + start + offsets, d.to(out.dtype.element_ty), inside)
        if partial is not None:
            total += tl.where(inside, d, 0.0)
    if partial is not None:
        if COLUMN_LANES:
            lane = lane_tile.to(tl.int64) * COLS + tl.arange(0, COLS)
            tl.store(partial + stretch.to(tl.int64) * cols + lane, tl.sum(total, 0), lane < cols)
        else:
            lane = lane_tile.to(tl.int64) * ROWS + tl.arange(0, ROWS)
            tl.store(partial + stretch.to(tl.int64) * rows + lane, tl.sum(total, 1), lane < rows)


class _Tiling:
    """The division of a dense tensor into tiles."""

    def __init__(self, x: Tensor, dim: int) -> None:
        outer, self.channels, inner = memory_format.extents(x, dim)
        self.column_lanes = inner == 1
        self.rows, self.cols = (outer, self.channels) if self.column_lanes else (outer * self.channels, inner)
        self.tile_cols = min(power_of_two(self.cols), TILE_ELEMENTS)
        self.tile_rows = TILE_ELEMENTS // self.tile_cols
        tiles = cdiv(self.rows, self.tile_rows), cdiv(self.cols, self.tile_cols)
        self.tiles_along, self.lane_tiles = tiles if self.column_lanes else tiles[::-1]
        self.lanes = self.cols if self.column_lanes else self.rows

    def arguments(self) -> dict[str, int | bool]:
        """Return the sizes and constants that both kernels take."""
        return {
            "rows": self.rows,
            "cols": self.cols,
            "channels": self.channels,
            "COLUMN_LANES": self.column_lanes,
            "ROWS": self.tile_rows,
            "COLS": self.tile_cols,
        }


def _arguments(options: Options) -> dict[str, float | str]:
    clamp = math.inf if options.clamp is None else options.clamp
    return {"ACT": options.act, "alpha": float(options.alpha), "gain": float(options.gain), "clamp": clamp}


def forward(x: Tensor, bias: Tensor | None, residual: Tensor | None, options: Options) -> tuple[Tensor, list[Launch]]:
    """Return the result of fused_inr::bias_act, which the launches fill."""
    out = torch.empty_like(x)
    if not x.numel():
        return out, []
    tiling = _Tiling(x, options.dim)
    arguments = {"x": x, "bias": bias, "residual": residual, "out": out}
    arguments |= tiling.arguments() | _arguments(options)
    return out, [Launch(bias_act_kernel, tiling.tiles_along * tiling.lane_tiles, arguments)]


def backward(
    gradient: Tensor,
    shift: Tensor | None,
    saved: Tensor,
    bias: Tensor | None,
    from_output: bool,
    with_sums: bool,
    options: Options,
) -> tuple[Tensor, Tensor | None, list[Launch]]:
    """Return the slope times a gradient, and its sums [stretches, channels] or None; see `forward`."""
    out = torch.empty_like(saved)
    if not saved.numel():
        return out, saved.new_zeros(0, saved.shape[options.dim], dtype=torch.float32) if with_sums else None, []
    tiling = _Tiling(saved, options.dim)
    steps, stretches = 1, tiling.tiles_along
    partial = None
    if with_sums:
        steps = cdiv(tiling.tiles_along * tiling.lane_tiles, _SUMMING_PROGRAMS)
        stretches = cdiv(tiling.tiles_along, steps)
        partial = saved.new_empty(stretches, tiling.lanes, dtype=torch.float32)
    if from_output and options.clamp is not None:  # the clamped output has been rounded
        options = options._replace(clamp=torch.tensor(options.clamp, dtype=saved.dtype, device="cpu").item())
    arguments = {"gradient": gradient, "shift": shift, "saved": saved, "bias": bias, "out": out, "partial": partial}
    arguments |= tiling.arguments() | _arguments(options)
    arguments |= {"steps": steps, "FROM_OUTPUT": from_output}
    launch = Launch(bias_act_slope_kernel, stretches * tiling.lane_tiles, arguments)
    return out, None if partial is None else partial.view(-1, tiling.channels), [launch]
