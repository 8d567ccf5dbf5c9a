"""Operation counts of networks and training steps, and the peak throughput of the device.

This counts matrix products and convolutions between channels, at two operations per multiply-accumulate, as far as
the published objective needs them: no unused gradients, and rendering in its lowered form, in which a layer below an
upsampling runs on the coarse grid (`fused_inr.lowering`). Extra work of an implementation is not counted, so waste
cannot raise the fraction of peak.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

import fused_inr as fi
from digan.config import TrainConfig
from digan.models.discriminator import IMAGE_CHANNELS, MOTION_CHANNELS, Discriminator
from digan.models.generator import Generator
from fused_inr.tools import counts

_FRAMES = 2  # frames of a generated clip in training

# Cost of an update in units of the forward pass through the products of a network. The gradient of a product's input
# costs one unit, that of its weight another.
FORWARD = 1
WITH_INPUT_GRADIENT = 2  # of a frozen network
WITH_GRADIENTS = 3
# Forward, gradient of the input, the two derivatives of that gradient (with respect to the weight and to the incoming
# gradient), and, because minibatch statistics are not piecewise linear, a backward pass through the forward pass.
R1 = 6
# Forward, both gradients, two derivatives of each, and a backward pass through the forward pass.
PATH_LENGTH = 9


@dataclass(frozen=True)
class ForwardMacs:
    """Multiply-accumulates of the networks' forward passes for one clip.

    Attributes:
        generator: mapping, heads, and the rendering of two frames.
        discriminators: D_I on two frames and D_M on the pair.
        first_layers: the part of `discriminators` in the layers that see pixels.
    """

    generator: int
    discriminators: int
    first_layers: int


@dataclass(frozen=True)
class StepFlops:
    """Operations per clip in each update of the trainer."""

    update_g: float
    update_d: float
    update_r1: float
    update_path_length: float

    def weighted(self, config: TrainConfig) -> float:
        """Return the operations per clip of an average iteration, with lazy penalties weighted by their frequency."""
        frequencies = {
            "update_g": 1.0,
            "update_d": 1.0,
            "update_r1": 1 / config.r1_interval if config.gamma else 0.0,
            "update_path_length": 1 / config.pl_interval if config.pl_weight else 0.0,
        }
        return sum(frequencies[f.name] * getattr(self, f.name) for f in fields(self))


def forward_macs(config: TrainConfig, num_classes: int = 0) -> ForwardMacs:
    """Count the multiply-accumulates of one clip on meta tensors; this takes about a second."""
    size = config.resolution
    with torch.device("meta"):
        g = Generator(config.generator(num_classes))
        d_image = Discriminator(config.discriminator(num_classes), IMAGE_CHANNELS)
        d_motion = Discriminator(config.discriminator(num_classes), MOTION_CHANNELS)
        z, times = torch.empty(1, config.z_dim), torch.empty(1, _FRAMES)
        label = torch.zeros(1, dtype=torch.int64) if num_classes else None
        views = (
            (d_image, torch.empty(_FRAMES, IMAGE_CHANNELS, size, size), label.expand(_FRAMES) if num_classes else None),
            (d_motion, torch.empty(1, MOTION_CHANNELS, size, size), label),
        )
        heads = count_macs(lambda: g.inr(z, z, times, label))
        return ForwardMacs(
            generator=heads + render_macs(g.inr(z, z, times, label), g.grid()),
            discriminators=sum(count_macs(lambda d=d, x=x, c=c: d(x, c)) for d, x, c in views),
            first_layers=sum(count_macs(lambda d=d, x=x: d.from_rgb(x)) for d, x, _ in views),
        )


def step_flops(macs: ForwardMacs) -> StepFlops:
    """Return the operations that each update of the trainer needs per clip."""
    g, d, first = macs.generator, macs.discriminators, macs.first_layers
    d_with_gradients = WITH_GRADIENTS * d - first  # the gradient of the images is not needed
    return StepFlops(
        update_g=2.0 * (WITH_GRADIENTS * g + WITH_INPUT_GRADIENT * d),
        update_d=2.0 * (FORWARD * g + 2 * d_with_gradients),
        update_r1=2.0 * (R1 * d - first),
        update_path_length=2.0 * PATH_LENGTH * g,
    )


def matmul_peak(device: torch.device, dtype: torch.dtype | None, seconds: float = 0.2) -> float:
    """Measure the device's matrix product in operations per second: the fastest run within about `seconds`.

    Args:
        device: the device to measure.
        dtype: compute type of the products; None for float32, on a GPU in the precision of convolutions.
        seconds: duration of the measurement.
    """
    with _precision_of_convolutions(), torch.no_grad():
        size, duration = 512, 0.0
        while duration < seconds / 40 and size < 16384:  # a product must take longer than its launch
            size *= 2
            a, b = torch.rand(2, size, size, device=device, dtype=dtype)
            torch.mm(a, b)  # the first call with a shape selects its kernel
            duration = _timed(device, lambda a=a, b=b: torch.mm(a, b))
        best, end = duration, time.perf_counter() + seconds
        while time.perf_counter() < end:
            best = min(best, _timed(device, lambda: torch.mm(a, b)))
    return 2 * size**3 / best


def _timed(device: torch.device, call: Callable[[], object]) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


@contextmanager
def _precision_of_convolutions() -> Iterator[None]:
    """Allow TF32 in matrix products where convolutions allow it."""
    # Reading the older `allow_tf32` raises if a caller has set precisions per operator.
    matmul, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = matmul.fp32_precision
    matmul.fp32_precision = convolutions.fp32_precision
    try:
        yield
    finally:
        matmul.fp32_precision = before


def count_macs(call: Callable[[], object]) -> int:
    """Return the multiply-accumulates of the products that PyTorch computes in a call."""
    with counter() as flops:
        call()
    return flops.get_total_flops() // 2


def render_macs(inr: fi.INR, grid: fi.Grid) -> int:
    """Return the multiply-accumulates of rendering in its lowered form."""
    return int(counts.render(inr, grid).flops) // 2


def naive_render_macs(inr: fi.INR, grid: fi.Grid) -> int:
    """Return the multiply-accumulates of rendering in its naive form, which upsamples and concatenates first."""
    return counts.naive_flops(inr, grid) // 2


def counter(depth: int = 2) -> FlopCounterMode:
    """Return a counter of the products that PyTorch computes, without the filters of resampling.

    Args:
        depth: number of module levels that are counted separately.
    """
    mapping = {torch.ops.aten.convolution: _between_channels}
    return FlopCounterMode(display=False, depth=depth, custom_mapping=mapping)


def _between_channels(x, weight, bias, stride, padding, dilation, transposed, *_, out_shape=None, **__) -> int:
    """Return the operations of a convolution from its shapes; 0 for a depthwise convolution."""
    if weight[1] == 1 and x[1] > 1:
        return 0
    return conv_flop_count(x, weight, out_shape, transposed=transposed)
