"""Read-outs of layers and the running image that they are added to: float32 [N, T, C, H, W].

A program that holds all channels of its pixels adds their read-out to the running image itself. If a layer's outputs
take more than one block, each program writes the sum over its block, and `image_kernel` adds these in a fixed order: no
sum depends on the order in which programs run.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from fused_inr._backends.triton.kernels.fourier_features import pixels_of_tile, tiles_of
from fused_inr._backends.triton.kernels.launch import Launch, power_of_two
from fused_inr.primitives.memory_format import batch_stride

MIN_COLOURS = 16  # smallest block of colours in a matrix product


@triton.jit
def add_read_out(total, y, weight, outputs, colours, o, COLOURS: tl.constexpr, PRECISION: tl.constexpr):
    """Add y [BLOCK_M, BLOCK_N] times the columns o of weight [colours, outputs] to total [BLOCK_M, COLOURS]."""
    c = tl.arange(0, COLOURS)
    if weight.dtype.element_ty == tl.float32 and PRECISION == "ieee":
        # NVIDIA GPUs have no matrix instruction for float32, and a tl.dot without one takes all registers.
        for colour in range(colours):
            w = tl.load(weight + colour * outputs + o, o < outputs, 0.0)
            total += tl.where((c == colour)[None, :], tl.sum(y * w, 1, keep_dims=True), 0.0)
    else:
        place = tl.trans(o)
        valid = (place < outputs) & (c < colours)[None, :]
        b = tl.load(weight + c[None, :] * outputs + place, valid, 0.0)
        total = tl.dot(y.to(b.dtype), b, total, input_precision=PRECISION)
    return total


@triton.jit
def place_in_planes(frame, c, y, x, height, width, colours):
    """Return the offsets of pixels [BLOCK_M, 1] in the planes of colours c [1, COLOURS] of a frame."""
    row = tl.cast(width, tl.int64)  # not a method: a size of 1 is a constant of the kernel
    return (frame * colours + c) * (height * row) + y * row + x


@triton.jit
def finish_read_out(
    total, bias, image, out, frame, y, x, inside, height, width, colours, RATIO: tl.constexpr, COLOURS: tl.constexpr
):
    """Store total [BLOCK_M, COLOURS] + bias + upsampled running image as planes; the last two may be None."""
    c = tl.arange(0, COLOURS)[None, :]
    valid = inside & (c < colours)
    if bias is not None:
        total += tl.load(bias + c, c < colours, 0.0)
    if image is not None:
        parent = place_in_planes(frame, c, y // RATIO, x // RATIO, height // RATIO, width // RATIO, colours)
        total += tl.load(image + parent, valid, 0.0)
    tl.store(out + place_in_planes(frame, c, y, x, height, width, colours), total, valid)


@triton.jit
def image_kernel(
    partial,
    bias,
    image,
    out,
    blocks,
    frames,
    height,
    width,
    colours,
    RATIO: tl.constexpr,
    COLOURS: tl.constexpr,
    BLOCK_M: tl.constexpr,
    PATCH_W: tl.constexpr,
):
    """Write the sum of partial [blocks, frames, C, H, W], bias and image [frames, C, H/RATIO, W/RATIO] to `out`."""
    tiles = tl.cdiv(height, BLOCK_M // PATCH_W) * tl.cdiv(width, PATCH_W)
    frame = (tl.program_id(0) // tiles).to(tl.int64)
    y, x, inside = pixels_of_tile(tl.program_id(0) % tiles, height, width, BLOCK_M, PATCH_W)
    c = tl.arange(0, COLOURS)[None, :]
    total = tl.zeros([BLOCK_M, COLOURS], tl.float32)
    if partial is not None:
        source = partial + place_in_planes(frame, c, y, x, height, width, colours)
        for _ in range(blocks):
            total += tl.load(source, inside & (c < colours), 0.0)
            source += tl.cast(frames, tl.int64) * colours * height * width
    finish_read_out(total, bias, image, out, frame, y, x, inside, height, width, colours, RATIO, COLOURS)


@dataclass
class Canvas:
    """The running image after all launches so far.

    Attributes:
        pixels: [N, T, C, H, W]; None before the first read-out.
        scale: pixels per side, as a multiple of the base grid's.
        device: where images are allocated.
    """

    pixels: Tensor | None
    scale: int
    device: torch.device

    def new(self, colours: int, size: Sequence[int], scale: int) -> Tensor:
        """Allocate the next running image; `size` is N, T, H, W."""
        n, t, height, width = size
        self.pixels = torch.empty(n, t, colours, height, width, dtype=torch.float32, device=self.device)
        self.scale = scale
        return self.pixels


def arguments(
    to_rgb: tuple[Tensor, Tensor] | None, dtype: torch.dtype, canvas: Canvas | None, scale: int
) -> dict[str, Tensor | int | None]:
    """Return the arguments, except `rgb_out`, of a kernel that computes a read-out and adds the running image."""
    if to_rgb is None:
        tensors = dict.fromkeys(("rgb", "rgb_bias", "rgb_out", "image"))
        return tensors | {"rgb_clip": 0, "colours": 0, "IMAGE_RATIO": 1, "COLOURS": 0}
    weight = to_rgb[0].detach().to(dtype).contiguous()  # [N, C, O]
    return {
        "rgb": weight,
        "rgb_bias": to_rgb[1].detach().to(torch.float32).contiguous(),
        "image": canvas.pixels,
        "rgb_clip": batch_stride(weight),
        "colours": weight.shape[1],
        "IMAGE_RATIO": scale // canvas.scale,
        "COLOURS": max(MIN_COLOURS, power_of_two(weight.shape[1])),
    }


def added(canvas: Canvas, partial: Tensor | None, bias: Tensor | None, size: Sequence[int], scale: int) -> Launch:
    """Return the launch that upsamples the running image and adds a read-out's partial sums and bias, unless None."""
    n, t, height, width = size
    tiles, programs = tiles_of(height, width, 128)
    colours = canvas.pixels.shape[2] if partial is None else partial.shape[3]
    arguments = {
        "partial": partial,
        "bias": bias,
        "image": canvas.pixels,
        "blocks": 0 if partial is None else len(partial),
        "frames": n * t,
        "height": height,
        "width": width,
        "colours": colours,
        "RATIO": scale // canvas.scale,
        "COLOURS": power_of_two(colours),
    }
    arguments["out"] = canvas.new(colours, size, scale)
    return Launch(image_kernel, n * t * programs, arguments | tiles)
