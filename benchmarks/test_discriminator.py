"""The discriminators of DIGAN on 128x128 clips with 512 channels: losses with gradients, and R1.

At the default size, only the image discriminator is measured; the training iteration of test_step.py has both.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks import naive
from benchmarks.device import device, on_cuda, pick
from benchmarks.harness import Case, on_reference
from benchmarks.limits import LOSS_PASSES, R1_PASSES, ConvolutionTime, convolutions_of
from benchmarks.memory import Kept, Path
from benchmarks.sizes import full, scaled, tiny
from digan import Discriminator
from digan.config import DiscriminatorConfig
from digan.models.discriminator import IMAGE_CHANNELS, MOTION_CHANNELS, motion_input
from digan.training import losses

CLIPS = pick(cpu=scaled(tiny=2, default=1, full=2), cuda=scaled(tiny=2, default=32))
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16] if full() else [torch.bfloat16], ids=str)
SMALL = DiscriminatorConfig(resolution=32, channel_base=512, channel_max=16)
# Relative to the naive path in float32. A pre-activation that rounds across zero changes the slope by a factor of 5.
TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.3}

Judge = Callable[[Discriminator, Tensor, torch.dtype | None], Tensor]
Penalty = Callable[[Discriminator, Tensor, torch.dtype | None], Tensor]


@dataclass
class Judges:
    """Discriminators and their inputs: D_I on the frames of some clips, and D_M on the clips."""

    networks: Sequence[Discriminator]
    inputs: Sequence[Tensor]  # [2N, 3, R, R], [N, 7, R, R]

    @property
    def names(self) -> str:
        return " + ".join(("D_I", "D_M")[: len(self.networks)])

    def parameters(self) -> list[Tensor]:
        return [p for d in self.networks for p in d.parameters()]

    def loss_gradients(self, judge: Judge, dtype: torch.dtype | None) -> tuple[Tensor, ...]:
        """Return all logits, and the gradients of their loss."""
        logits = [judge(d, x, dtype) for d, x in zip(self.networks, self.inputs, strict=True)]
        loss = sum(F.softplus(-value).mean() for value in logits)
        return (*(value.detach() for value in logits), *torch.autograd.grad(loss, self.parameters()))

    def penalty_gradients(self, penalty: Penalty, dtype: torch.dtype | None) -> tuple[Tensor, ...]:
        """Return the penalties and their gradients, one network after the other as in training."""
        values, gradients = [], []
        for d, x in zip(self.networks, self.inputs, strict=True):
            value = penalty(d, x, dtype)
            # Some biases do not affect the gradient of an input.
            gradients += torch.autograd.grad(value, list(d.parameters()), allow_unused=True, materialize_grads=True)
            values.append(value.detach())
        return (*values, *gradients)

    def joined(self, results: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Join the gradients of each network to one vector, because single ones may consist of rounding errors."""
        count = len(self.networks)
        values, gradients = tuple(results[:count]), iter(results[count:])
        parts = ([next(gradients).reshape(-1) for _ in d.parameters()] for d in self.networks)
        return (*values, *map(torch.cat, parts))

    def convolutions(self, dtype: torch.dtype, passes: Sequence[str]) -> ConvolutionTime:
        layers = []
        for d, x in zip(self.networks, self.inputs, strict=True):
            d, x = copy.deepcopy(d).to("meta"), x.to("meta")
            layers.append(convolutions_of(lambda d=d, x=x: naive.judge(d, x, half(dtype))))
        return ConvolutionTime(layers, passes)


@pytest.fixture
def judges() -> Judges:
    torch.manual_seed(0)
    config = SMALL if tiny() else DiscriminatorConfig()
    frames = torch.rand(CLIPS, 2, 3, config.resolution, config.resolution) * 2 - 1
    networks = [Discriminator(config, IMAGE_CHANNELS)]
    inputs = [frames.flatten(0, 1)]
    if full():
        networks.append(Discriminator(config, MOTION_CHANNELS))
        inputs.append(motion_input(frames, torch.rand(CLIPS)))
    return Judges([d.to(device()) for d in networks], [x.to(device()) for x in inputs])


def half(dtype: torch.dtype) -> torch.dtype | None:
    return None if dtype is torch.float32 else dtype


def rivals(path: Callable[[bool, torch.dtype | None], Path], dtype: torch.dtype, compiles: bool) -> dict[str, Path]:
    """Return the naive paths; `path(compiled, dtype)` creates one, with `dtype` at the highest resolutions."""
    plain, compiled = (on_reference(path(compiled, half(dtype))) for compiled in (False, True))
    kept = {"naive, memory kept": Kept(plain)} if full() and not on_cuda() else {}
    return {"naive": plain, **kept, **({"compiled": compiled} if compiles else {})}


def ours(d: Discriminator, x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return d(x, dtype=dtype)


def our_r1(d: Discriminator, x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return losses.r1(lambda x, labels: d(x, labels, dtype), x, 1.0)


def case(
    judges: Judges, name: str, dtype: torch.dtype, passes: Sequence[str], paths: dict[str, Path], truth: Path
) -> Case:
    convolutions = judges.convolutions(dtype, passes)
    clips, size = CLIPS, judges.networks[0].config.resolution
    return Case(
        name=f"{judges.names} {name} N{clips}-T2-R{size}",
        dtype=dtype,
        paths=paths,
        flops=convolutions.flops,
        truth=lambda: judges.joined(truth()),
        part=judges.joined,
        tolerance=TOLERANCE[dtype],
        limits=[convolutions.limit],
    )


@DTYPES
def test_discriminators_forward_and_backward(compare, judges, dtype):
    compiled_judge = torch.compile(naive.judge)

    def path(compiled: bool, dtype: torch.dtype | None) -> Path:
        return lambda: judges.loss_gradients(compiled_judge if compiled else naive.judge, dtype)

    paths = rivals(path, dtype, True) | {"ours": Kept(lambda: judges.loss_gradients(ours, half(dtype)))}
    compare(case(judges, "forward + backward", dtype, LOSS_PASSES, paths, on_reference(path(False, None))))


@DTYPES
@pytest.mark.skipif(not (full() or tiny()), reason="at the default size, it is part of the training iteration")
def test_discriminators_r1(compare, judges, dtype):
    """torch.compile does not support second derivatives."""

    def path(compiled: bool, dtype: torch.dtype | None) -> Path:
        return lambda: judges.penalty_gradients(naive.r1, dtype)

    paths = rivals(path, dtype, False) | {"ours": Kept(lambda: judges.penalty_gradients(our_r1, half(dtype)))}
    compare(case(judges, "R1 penalty", dtype, R1_PASSES, paths, on_reference(path(False, None))))
