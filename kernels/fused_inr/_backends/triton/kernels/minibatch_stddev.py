"""Minibatch standard deviation and its gradient; statistics in float32.

A group is the samples m, m + M, m + 2 M, ... of N = G M. Channels are split into runs of C/planes, contiguous within a
sample; each run produces one plane. A job is one run of one group; a program holds all samples of a job at some
positions of the run, so that x is read once.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.triton.kernels.launch import TILE_ELEMENTS, Launch, cdiv, power_of_two

MAX_AT_ONCE = 1024  # partial sums that a program adds at once, or pixels that it fills


@triton.jit
def _deviations(x, job, first, groups, group, planes, length, sample, SAMPLES: tl.constexpr, POSITIONS: tl.constexpr):
    """Return a tile of x, its deviations from the mean over the group, and the position of the tile in x.

    Returns x [SAMPLES, POSITIONS] as stored, x - mean, the standard deviation [1, POSITIONS], the index of each sample
    [SAMPLES, 1], the positions [1, POSITIONS] within a sample, and the mask [SAMPLES, POSITIONS] of valid elements.
    """
    member = tl.arange(0, SAMPLES)[:, None]
    position = first.to(tl.int64) + tl.arange(0, POSITIONS)[None, :]
    inside = (member < group) & (position < length)
    number = job // planes + member.to(tl.int64) * groups
    place = (job % planes).to(tl.int64) * length + position
    stored = tl.load(x + number * sample + place, inside, 0.0)
    wide = stored.to(tl.float32)
    centred = tl.where(inside, wide - tl.sum(wide, 0, keep_dims=True) / group, 0.0)
    deviation = tl.sqrt(tl.sum(centred * centred, 0, keep_dims=True) / group + 1e-8)
    return stored, centred, deviation, number, place, inside


@triton.jit
def deviation_kernel(
    x,
    out,
    partial,
    groups,
    group,
    planes,
    length,
    sample,
    out_sample,
    SAMPLES: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """Copy a tile of x to out and write the sum of its standard deviations to partial [jobs, tiles]."""
    tiles = tl.cdiv(length, POSITIONS)
    program = tl.program_id(0)
    first = (program % tiles).to(tl.int64) * POSITIONS
    stored, _, deviation, number, place, inside = _deviations(
        x, program // tiles, first, groups, group, planes, length, sample, SAMPLES, POSITIONS
    )
    tl.store(out + number * out_sample + place, stored, inside)
    valid = first + tl.arange(0, POSITIONS)[None, :] < length
    tl.store(partial + program, tl.sum(tl.where(valid, deviation, 0.0)))


@triton.jit
def plane_kernel(
    partial,
    out,
    groups,
    group,
    planes,
    tiles,
    pixels,
    length,
    sample,
    out_sample,
    TILES: tl.constexpr,
    PIXELS: tl.constexpr,
):
    """Fill the plane of one job in one sample with the mean of the job's standard deviations."""
    program = tl.program_id(0)
    job = program // group
    total = tl.zeros([TILES], tl.float32)
    for first in range(0, tiles, TILES):
        tile = first + tl.arange(0, TILES)
        total += tl.load(partial + job.to(tl.int64) * tiles + tile, tile < tiles, 0.0)
    mean = tl.sum(total, 0) / length
    number = job // planes + (program % group).to(tl.int64) * groups
    plane = out + number * out_sample + sample + (job % planes).to(tl.int64) * pixels
    for first in range(0, pixels, PIXELS):
        pixel = first + tl.arange(0, PIXELS)
        value = tl.zeros([PIXELS], tl.float32) + mean
        tl.store(plane + pixel, value.to(out.dtype.element_ty), pixel < pixels)


@triton.jit
def deviation_backward_kernel(
    gradient,
    levels,
    x,
    out,
    groups,
    group,
    planes,
    length,
    sample,
    out_sample,
    SAMPLES: tl.constexpr,
    POSITIONS: tl.constexpr,
):
    """Write the gradient of x: that of its copy + levels [jobs] * (x - mean) / deviation / (group * length)."""
    tiles = tl.cdiv(length, POSITIONS)
    program = tl.program_id(0)
    job = program // tiles
    first = (program % tiles).to(tl.int64) * POSITIONS
    _, centred, deviation, number, place, inside = _deviations(
        x, job, first, groups, group, planes, length, sample, SAMPLES, POSITIONS
    )
    level = tl.load(levels + job) / group / length
    d = tl.load(gradient + number * out_sample + place, inside, 0.0).to(tl.float32) + centred / deviation * level
    tl.store(out + number * sample + place, d.to(out.dtype.element_ty), inside)


class _Jobs:
    """The division of a tensor [N, C, H, W] into jobs and tiles."""

    def __init__(self, x: Tensor, group: int, channels: int) -> None:
        batch, inputs, *size = x.shape
        self.groups, self.group, self.planes, self.pixels = batch // group, group, channels, math.prod(size)
        self.count = self.groups * channels
        self.length = inputs // channels * self.pixels
        self.sample, self.out_sample = inputs * self.pixels, (inputs + channels) * self.pixels
        self.samples = power_of_two(group)
        self.positions = max(1, min(power_of_two(self.length), TILE_ELEMENTS // self.samples))
        self.tiles = cdiv(self.length, self.positions)

    def arguments(self) -> dict[str, int]:
        """Return the sizes and strides that every kernel takes."""
        names = ("groups", "group", "planes", "length", "sample", "out_sample")
        return {name: getattr(self, name) for name in names}

    def tile(self) -> dict[str, int]:
        """Return the constants of a kernel that holds a tile."""
        return {"SAMPLES": self.samples, "POSITIONS": self.positions}


def forward(x: Tensor, group: int, channels: int) -> tuple[Tensor, list[Launch]]:
    """Return the result of fused_inr::minibatch_stddev, which the launches fill."""
    out = x.new_empty(x.shape[0], x.shape[1] + channels, *x.shape[2:])
    if not x.numel():
        return out.fill_(math.nan), []  # the mean of no values
    jobs = _Jobs(x, group, channels)
    partial = x.new_empty(jobs.count * jobs.tiles, dtype=torch.float32)
    shared = {"out": out, "partial": partial} | jobs.arguments()
    counts = {"tiles": jobs.tiles, "pixels": jobs.pixels}
    blocks = {
        "TILES": min(power_of_two(jobs.tiles), MAX_AT_ONCE),
        "PIXELS": min(power_of_two(jobs.pixels), MAX_AT_ONCE),
    }
    return out, [
        Launch(deviation_kernel, jobs.count * jobs.tiles, {"x": x} | shared | jobs.tile()),
        Launch(plane_kernel, jobs.count * group, shared | counts | blocks),
    ]


def backward(gradient: Tensor, x: Tensor, group: int, channels: int) -> tuple[Tensor, list[Launch]]:
    """Return the result of fused_inr::minibatch_stddev_backward, which the launches fill."""
    out = torch.empty_like(x)
    if not x.numel():
        return out, []
    jobs = _Jobs(x, group, channels)
    appended = gradient[:, x.shape[1] :].reshape(group, jobs.groups, channels, jobs.pixels)
    levels = appended.sum((0, 3), dtype=torch.float32)  # [N/G, channels]
    arguments = {"gradient": gradient, "levels": levels, "x": x, "out": out} | jobs.arguments() | jobs.tile()
    return out, [Launch(deviation_backward_kernel, jobs.count * jobs.tiles, arguments)]
