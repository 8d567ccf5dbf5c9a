"""Insert zeros, pad or crop, correlate with a small filter and downsample, computing only the pixels that remain."""

import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.triton.kernels.launch import Launch, cdiv, power_of_two
from fused_inr.primitives import memory_format
from fused_inr.primitives.upfirdn2d import Options, output

# Output pixels x planes of a tile, by (channels_last, bytes per element). In channels_last a thread loads 16 bytes per
# tap; otherwise it loads pixels one by one, and larger tiles would need too many registers.
_TILE_ELEMENTS = {(True, 2): 1024, (True, 4): 512, (False, 2): 512, (False, 4): 512}


@triton.jit
def _first(o, pad, lift, UP: tl.constexpr, DOWN: tl.constexpr):
    """Return the first tap of outputs `o` that falls on a pixel and not on an inserted zero, and that pixel.

    Padding puts places left of the first pixel: adding `lift` pixels before the division and subtracting them after it
    keeps its operand from being negative.
    """
    place = o * DOWN - pad + lift * UP
    pixel = (place + UP - 1) // UP
    return pixel * UP - place, pixel - lift


@triton.jit
def upfirdn2d_kernel(
    x,
    taps,
    out,
    planes,
    height,
    width,
    out_height,
    out_width,
    outer_stride,
    plane_stride,
    pixel_stride,
    out_outer_stride,
    out_plane_stride,
    pad_x,
    pad_y,
    lift_x,
    lift_y,
    UP_X: tl.constexpr,
    UP_Y: tl.constexpr,
    DOWN_X: tl.constexpr,
    DOWN_Y: tl.constexpr,
    TAPS_X: tl.constexpr,
    TAPS_Y: tl.constexpr,
    TILE_X: tl.constexpr,
    TILE_Y: tl.constexpr,
    PLANES: tl.constexpr,
):
    """Compute a tile of TILE_Y x TILE_X output pixels of PLANES planes; pixels of a row are `pixel_stride` apart."""
    tiles_x = tl.cdiv(out_width, TILE_X)
    tiles_y = tl.cdiv(out_height, TILE_Y)
    plane_tiles = tl.cdiv(planes, PLANES)
    program = tl.program_id(0)
    p = tl.arange(0, TILE_Y * TILE_X)
    ox = program % tiles_x * TILE_X + p % TILE_X
    program = program // tiles_x
    oy = program % tiles_y * TILE_Y + p // TILE_X
    program = program // tiles_y
    plane = (program % plane_tiles).to(tl.int64) * PLANES + tl.arange(0, PLANES)
    outer = (program // plane_tiles).to(tl.int64)

    tap_x, pixel_x = _first(ox, pad_x, lift_x, UP_X, DOWN_X)
    tap_y, pixel_y = _first(oy, pad_y, lift_y, UP_Y, DOWN_Y)
    source = x + outer * outer_stride + (plane * plane_stride)[None, :]
    inside = (plane < planes)[None, :]
    total = tl.zeros([TILE_Y * TILE_X, PLANES], tl.float32)
    for ky in range((TAPS_Y + UP_Y - 1) // UP_Y):
        for kx in tl.static_range((TAPS_X + UP_X - 1) // UP_X):
            jx = tap_x + kx * UP_X
            jy = tap_y + ky * UP_Y
            sx = pixel_x + kx
            sy = pixel_y + ky
            meets = (sx >= 0) & (sx < width) & (sy >= 0) & (sy < height) & (jx < TAPS_X) & (jy < TAPS_Y)
            if UP_X == 1 and UP_Y == 1:
                tap = tl.load(taps + (ky * TAPS_X + kx))
            else:
                tap = tl.load(taps + (jy * TAPS_X + jx), meets, 0.0)[:, None]
            offset = (sy.to(tl.int64) * width + sx) * pixel_stride
            total += tap * tl.load(source + offset[:, None], meets[:, None] & inside, 0.0).to(tl.float32)
    target = out + outer * out_outer_stride + (plane * out_plane_stride)[None, :]
    offset = (oy.to(tl.int64) * out_width + ox) * pixel_stride
    written = ((ox < out_width) & (oy < out_height))[:, None] & inside
    tl.store(target + offset[:, None], total.to(out.dtype.element_ty), written)


def _tile(out_width: int, out_height: int, planes: int, channels_last: bool, itemsize: int) -> tuple[int, int, int]:
    """Return the width, height and planes of a tile."""
    elements = _TILE_ELEMENTS[channels_last, itemsize]
    tile_x = min(power_of_two(out_width), 4 if channels_last else 64)
    tile_planes = min(power_of_two(planes), 64) if channels_last else 1  # 64 planes are whole cache lines
    tile_y = min(power_of_two(out_height), elements // (tile_x * tile_planes))
    if not channels_last:  # several planes only where an image is smaller than a tile
        tile_planes = min(power_of_two(planes), elements // (tile_x * tile_y))
    return tile_x, tile_y, tile_planes


def forward(x: Tensor, taps: Tensor, options: Options) -> tuple[Tensor, list[Launch]]:
    """Return the result of fused_inr::upfirdn2d, which the launches fill."""
    up, down, pad, size = options
    out = output(x, size)
    if not x.numel():
        return out.zero_(), []
    if not out.numel():
        return out, []
    (batch, channels, height, width), (out_height, out_width) = x.shape, size
    channels_last = memory_format.is_channels_last(x)
    outer, planes = (batch, channels) if channels_last else (1, batch * channels)
    tile_x, tile_y, tile_planes = _tile(out_width, out_height, planes, channels_last, x.dtype.itemsize)
    arguments = {
        "x": x,
        "taps": taps.contiguous(),
        "out": out,
        "planes": planes,
        "height": height,
        "width": width,
        "out_height": out_height,
        "out_width": out_width,
        "outer_stride": planes * height * width,
        "plane_stride": 1 if channels_last else height * width,
        "pixel_stride": channels if channels_last else 1,
        "out_outer_stride": planes * out_height * out_width,
        "out_plane_stride": 1 if channels_last else out_height * out_width,
        "pad_x": pad[0],
        "pad_y": pad[1],
        "lift_x": max(0, cdiv(pad[0], up[0])),
        "lift_y": max(0, cdiv(pad[1], up[1])),
        "UP_X": up[0],
        "UP_Y": up[1],
        "DOWN_X": down[0],
        "DOWN_Y": down[1],
        "TAPS_X": taps.shape[1],
        "TAPS_Y": taps.shape[0],
        "TILE_X": tile_x,
        "TILE_Y": tile_y,
        "PLANES": tile_planes,
    }
    tiles = cdiv(out_width, tile_x) * cdiv(out_height, tile_y)
    return out, [Launch(upfirdn2d_kernel, outer * cdiv(planes, tile_planes) * tiles, arguments)]
