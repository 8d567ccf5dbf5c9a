"""Color, translation and cutout of clips, and the adjoint of their linear part; means in float32.

A program takes all channels of a tile of one frame. If the mean over the frame is needed, a first launch writes the sum
of each tile, and every program of the second launch adds the sums of its frame; frames stay in the L2 cache in between.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.triton.kernels.launch import Launch, cdiv, power_of_two
from fused_inr.primitives.augment import Options

_TILE_PIXELS = 1024  # 8 per thread and channel: enough loads in flight, and few enough registers for addresses
_MAX_SUMS = 1024  # partial sums that a program adds at once
_LONGEST = 2**62  # longest side of a hole, so that its end fits in an int64


@triton.jit
def _source(place, offset, hole, clip, size, hole_size, AXIS: tl.constexpr, ADJOINT: tl.constexpr):
    """Return the sources of outputs along an axis, whether each is inside, and whether the hole covers the output.

    `offset` and `hole` may be None. They may hold any values, which are clamped before they are added.
    """
    source = place.to(tl.int64)
    if offset is not None:
        shift = tl.load(offset + 2 * clip + AXIS)
        shift = tl.minimum(tl.maximum(shift, -size), size)
        source = source + shift if ADJOINT else source - shift
    spanned = place < 0
    if hole is not None:
        first = tl.load(hole + 2 * clip + AXIS)
        first = tl.minimum(tl.maximum(first, -hole_size), size)
        at = source if ADJOINT else place  # the hole is in the coordinates of the forward outputs
        spanned = (at >= first) & (at < first + hole_size)
    return source, (source >= 0) & (source < size), spanned


@triton.jit
def _tile(
    offset,
    hole,
    times,
    height,
    width,
    hole_height,
    hole_width,
    ADJOINT: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
):
    """Return the frame of the program and the places and masks of its outputs.

    For the outputs [TILE_Y, TILE_X]: their offsets in a plane, the mask of the frame, the offsets of their sources, and
    the mask of visible outputs: in the frame, with a source in the frame, and not in the hole.
    """
    tiles_x = tl.cdiv(width, TILE_X)
    tiles_y = tl.cdiv(height, TILE_Y)
    program = tl.program_id(0)
    column = program % tiles_x * TILE_X + tl.arange(0, TILE_X)[None, :]
    program = program // tiles_x
    row = program % tiles_y * TILE_Y + tl.arange(0, TILE_Y)[:, None]
    frame = (program // tiles_y).to(tl.int64)
    clip = frame // times
    valid = (row < height) & (column < width)
    from_row, row_inside, row_spanned = _source(row, offset, hole, clip, height, hole_height, 0, ADJOINT)
    from_column, column_inside, column_spanned = _source(column, offset, hole, clip, width, hole_width, 1, ADJOINT)
    seen = valid & row_inside & column_inside & ~(row_spanned & column_spanned)
    return frame, row.to(tl.int64) * width + column, valid, from_row * width + from_column, seen


@triton.jit
def seen_sum_kernel(
    x,
    offset,
    hole,
    partial,
    times,
    channels,
    height,
    width,
    hole_height,
    hole_width,
    plane_size,
    frame_size,
    ADJOINT: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
):
    """Write the sum over the visible pixels of a tile to partial [frames, tiles]."""
    frame, _, _, source, seen = _tile(
        offset, hole, times, height, width, hole_height, hole_width, ADJOINT, TILE_Y, TILE_X
    )
    plane = x + frame * frame_size
    total = tl.zeros([TILE_Y, TILE_X], tl.float32)
    for _ in range(channels):
        total += tl.load(plane + source, seen, 0.0).to(tl.float32)
        plane += plane_size
    tl.store(partial + tl.program_id(0), tl.sum(total))


@triton.jit
def augment_kernel(
    x,
    brightness,
    saturation,
    contrast,
    offset,
    hole,
    partial,
    out,
    times,
    channels,
    height,
    width,
    hole_height,
    hole_width,
    plane_size,
    frame_size,
    tiles,
    COLORED: tl.constexpr,
    COLOR_AFTER: tl.constexpr,
    ADJOINT: tl.constexpr,
    TILE_Y: tl.constexpr,
    TILE_X: tl.constexpr,
    TILES: tl.constexpr,
):
    """Compute all channels of a tile of one frame.

    With m the mean over the channels of a pixel, M the mean over the frame, and b, s and k the brightness, saturation
    and contrast, a pixel x becomes k s x + k (1 - s) m + (1 - k) M + b. Pixels that are not visible become zero or,
    with COLOR_AFTER, the last two terms.
    """
    frame, place, valid, source, seen = _tile(
        offset, hole, times, height, width, hole_height, hole_width, ADJOINT, TILE_Y, TILE_X
    )
    clip = frame // times
    own = 1.0
    constant = 0.0
    if brightness is not None:
        constant += tl.load(brightness + clip)
    if contrast is not None:
        own *= tl.load(contrast + clip)
        sums = tl.zeros([TILES], tl.float32)
        for first in range(0, tiles, TILES):
            tile = first + tl.arange(0, TILES)
            sums += tl.load(partial + frame * tiles + tile, tile < tiles, 0.0)
        mean = tl.sum(sums, 0) / frame_size
        constant += (1.0 - own) * mean
    rest = constant if COLOR_AFTER else 0.0
    level = tl.zeros([TILE_Y, TILE_X], tl.float32) + constant
    start = frame * frame_size
    if saturation is not None:
        factor = tl.load(saturation + clip)
        total = tl.zeros([TILE_Y, TILE_X], tl.float32)
        plane = x + start
        for _ in range(channels):
            total += tl.load(plane + source, seen, 0.0).to(tl.float32)
            plane += plane_size
        level += total * (own * (1.0 - factor) / channels)
        own *= factor
        rest += 0.0 * own if COLOR_AFTER else 0.0  # matters only if the factors are not finite
    plane = x + start
    target = out + start
    for _ in range(channels):
        value = tl.load(plane + source, seen, 0.0)
        if COLORED:
            value = tl.where(seen, value.to(tl.float32) * own + level, rest).to(out.dtype.element_ty)
        tl.store(target + place, value, valid)
        plane += plane_size
        target += plane_size


def forward(x: Tensor, options: Options) -> tuple[Tensor, list[Launch]]:
    """Return the result of fused_inr::augment, which the launches fill."""
    out = torch.empty_like(x)
    if not x.numel():
        return out, []
    clips, times, channels, height, width = x.shape
    tile_x = min(power_of_two(width), _TILE_PIXELS)
    tile_y = min(power_of_two(height), _TILE_PIXELS // tile_x)
    tiles = cdiv(width, tile_x) * cdiv(height, tile_y)
    programs = clips * times * tiles
    hole_height, hole_width = (min(side, _LONGEST) for side in options.hole_size)
    shared = {
        "x": x,
        "times": times,
        "channels": channels,
        "height": height,
        "width": width,
        "hole_height": hole_height,
        "hole_width": hole_width,
        "plane_size": height * width,
        "frame_size": channels * height * width,
        "ADJOINT": options.adjoint,
        "TILE_Y": tile_y,
        "TILE_X": tile_x,
    }
    color_after = options.color_last != options.adjoint
    partial = None
    launches = []
    if options.contrast is not None:
        partial = x.new_empty(programs, dtype=torch.float32)
        moves = {"offset": options.offset, "hole": options.hole} if color_after else {"offset": None, "hole": None}
        launches = [Launch(seen_sum_kernel, programs, shared | moves | {"partial": partial})]
    color = {"brightness": options.brightness, "saturation": options.saturation, "contrast": options.contrast}
    places = {"offset": options.offset, "hole": options.hole}
    arguments = {
        "partial": partial,
        "out": out,
        "tiles": tiles,
        "COLORED": any(t is not None for t in color.values()),
        "COLOR_AFTER": color_after,
        "TILES": min(power_of_two(tiles), _MAX_SUMS),
    }
    return out, [*launches, Launch(augment_kernel, programs, shared | color | places | arguments)]
