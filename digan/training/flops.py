"""How much arithmetic a training step needs, and how much the device can do: what its speed is to be judged by.

Counted are the operations of matrix products and of convolutions between channels, two for each multiply-accumulate,
that the published objective asks for: no gradient that nobody uses, the generator's wide layers below the upsampling
where they commute with it. Work that a path does beyond that does not count, so that a share of the peak cannot be
raised by waste.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields

import torch
from torch.utils.flop_counter import FlopCounterMode, conv_flop_count

from digan.config import TrainConfig
from digan.models.discriminator import IMAGE_CHANNELS, MOTION_CHANNELS, Discriminator
from digan.models.generator import Generator
from fused_inr import counts

_FRAMES = 2  # of a generated clip in training

# Passes through the products of a network, in units of its forward pass. A gradient of a product's input is one, one of
# its weight another.
FORWARD = 1
WITH_INPUT_GRADIENT = 2  # of a frozen network
WITH_GRADIENTS = 3
# Forward, gradient of the input, its two derivatives (by the weight and by what came in), and, as minibatch statistics
# are not piecewise linear, a pass back through the forward one.
R1 = 6
# Forward, both gradients, two derivatives of either, and a pass back through the forward one.
PATH_LENGTH = 9


@dataclass(frozen=True)
class ForwardMacs:
    """Multiply-accumulates of the networks' forward passes for one clip.

    Attributes:
        generator: mapping, heads, and the rendering of two frames.
        discriminators: D_I on two frames and D_M on the pair.
        first_layers: of these, those of the layers that see pixels.
    """

    generator: int
    discriminators: int
    first_layers: int


@dataclass(frozen=True)
class StepFlops:
    """Operations for one clip, by the trainer's updates."""

    update_g: float
    update_d: float
    update_r1: float
    update_path_length: float

    def weighted(self, config: TrainConfig) -> float:
        """Operations for one clip of an iteration, each update with its share of the iterations."""
        shares = {
            "update_g": 1.0,
            "update_d": 1.0,
            "update_r1": 1 / config.r1_interval if config.gamma else 0.0,
            "update_path_length": 1 / config.pl_interval if config.pl_weight else 0.0,
        }
        return sum(shares[f.name] * getattr(self, f.name) for f in fields(self))


def forward_macs(config: TrainConfig, num_classes: int = 0) -> ForwardMacs:
    """Counts one clip on networks without memory; about a second."""
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
        heads = _macs(lambda: g.inr(z, z, times, label))
        return ForwardMacs(
            generator=heads + int(counts.render(g.inr(z, z, times, label), g.grid()).flops) // 2,
            discriminators=sum(_macs(lambda d=d, x=x, c=c: d(x, c)) for d, x, c in views),
            first_layers=sum(_macs(lambda d=d, x=x: d.from_rgb(x)) for d, x, _ in views),
        )


def step_flops(macs: ForwardMacs) -> StepFlops:
    """What the updates of the trainer need for one clip."""
    g, d, first = macs.generator, macs.discriminators, macs.first_layers
    judged = WITH_GRADIENTS * d - first  # nobody asks for the gradient of an image
    return StepFlops(
        update_g=2.0 * (WITH_GRADIENTS * g + WITH_INPUT_GRADIENT * d),
        update_d=2.0 * (FORWARD * g + 2 * judged),
        update_r1=2.0 * (R1 * d - first),
        update_path_length=2.0 * PATH_LENGTH * g,
    )


def matmul_peak(device: torch.device, dtype: torch.dtype | None, seconds: float = 0.2) -> float:
    """Operations a second of the device's matrix product, measured: the best of several in about `seconds`.

    Args:
        dtype: compute type of the products; None is float32, on a GPU with the precision that convolutions have.
    """
    with _precision_of_convolutions(), torch.no_grad():
        size, once = 512, 0.0
        while once < seconds / 40 and size < 16384:  # a product must outlast its launch
            size *= 2
            a, b = torch.rand(2, size, size, device=device, dtype=dtype)
            torch.mm(a, b)  # the first call of a shape chooses its kernel
            once = _timed(device, lambda a=a, b=b: torch.mm(a, b))
        best, end = once, time.perf_counter() + seconds
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
    """Products of float32 matrices may be shortened where those of convolutions are."""
    before = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = before


def _macs(call: Callable[[], object]) -> int:
    with counter() as flops:
        call()
    return flops.get_total_flops() // 2


def counter() -> FlopCounterMode:
    """Counts the products that PyTorch is asked for, without the filters of resampling."""
    return FlopCounterMode(display=False, custom_mapping={torch.ops.aten.convolution: _between_channels})


def _between_channels(x, weight, bias, stride, padding, dilation, transposed, *_, out_shape=None, **__) -> int:
    """Operations of a convolution from its shapes; 0 where every channel is convolved on its own."""
    if weight[1] == 1 and x[1] > 1:
        return 0
    return conv_flop_count(x, weight, out_shape, transposed=transposed)
