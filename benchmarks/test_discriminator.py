"""Both discriminators of DIGAN on 128x128 clips with 512 channels: losses with gradients, and R1."""

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
from benchmarks.harness import DTYPES, Case, Kept, Path, on_reference
from benchmarks.limits import LOSS_PASSES, R1_PASSES, ConvolutionTime, convolutions_of
from digan import Discriminator
from digan.config import DiscriminatorConfig
from digan.models.discriminator import IMAGE_CHANNELS, MOTION_CHANNELS, motion_input
from digan.training import losses

CLIPS = pick(cpu=2, cuda=32)
SMALL = DiscriminatorConfig(resolution=32, channel_base=512, channel_max=16)
# Relative to the naive path in float32. A pre-activation that rounds across zero changes the slope by a factor of 5.
TOLERANCE = {torch.float32: 1e-2, torch.bfloat16: 0.3}

Judge = Callable[[Discriminator, Tensor, torch.dtype | None], Tensor]
Penalty = Callable[[Discriminator, Tensor, torch.dtype | None], Tensor]


@dataclass
class Pair:
    """D_I on the frames of some clips, and D_M on the clips."""

    networks: tuple[Discriminator, Discriminator]
    inputs: tuple[Tensor, Tensor]  # [2N, 3, R, R], [N, 7, R, R]

    def parameters(self) -> list[Tensor]:
        return [p for d in self.networks for p in d.parameters()]

    def loss_gradients(self, judge: Judge, dtype: torch.dtype | None) -> tuple[Tensor, ...]:
        """Return the logits of both, and the gradients of their loss."""
        logits = [judge(d, x, dtype) for d, x in zip(self.networks, self.inputs, strict=True)]
        loss = sum(F.softplus(-value).mean() for value in logits)
        return (*(value.detach() for value in logits), *torch.autograd.grad(loss, self.parameters()))

    def penalty_gradients(self, penalty: Penalty, dtype: torch.dtype | None) -> tuple[Tensor, ...]:
        """Return the penalties of both and their gradients, one network after the other as in training."""
        values, gradients = [], []
        for d, x in zip(self.networks, self.inputs, strict=True):
            value = penalty(d, x, dtype)
            # Some biases do not affect the gradient of an input.
            gradients += torch.autograd.grad(value, list(d.parameters()), allow_unused=True, materialize_grads=True)
            values.append(value.detach())
        return (*values, *gradients)

    def joined(self, results: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Join the gradients of each network to one vector, because single ones may consist of rounding errors."""
        values, gradients = tuple(results[:2]), list(results[2:])
        split = len(list(self.networks[0].parameters()))
        vectors = [torch.cat([g.reshape(-1) for g in part]) for part in (gradients[:split], gradients[split:])]
        return (*values, *vectors)

    def convolutions(self, dtype: torch.dtype, passes: Sequence[str]) -> ConvolutionTime:
        layers = []
        for d, x in zip(self.networks, self.inputs, strict=True):
            d, x = copy.deepcopy(d).to("meta"), x.to("meta")
            layers.append(convolutions_of(lambda d=d, x=x: naive.judge(d, x, half(dtype))))
        return ConvolutionTime(layers, passes)


@pytest.fixture
def pair(quick) -> Pair:
    torch.manual_seed(0)
    config = SMALL if quick else DiscriminatorConfig()
    frames = torch.rand(CLIPS, 2, 3, config.resolution, config.resolution) * 2 - 1
    networks = (Discriminator(config, IMAGE_CHANNELS), Discriminator(config, MOTION_CHANNELS))
    inputs = (frames.flatten(0, 1), motion_input(frames, torch.rand(CLIPS)))
    return Pair(tuple(d.to(device()) for d in networks), tuple(x.to(device()) for x in inputs))


def half(dtype: torch.dtype) -> torch.dtype | None:
    return None if dtype is torch.float32 else dtype


def rivals(path: Callable[[bool, torch.dtype | None], Path], dtype: torch.dtype) -> dict[str, Path]:
    """Return the naive paths; `path(compiled, dtype)` creates one, with `dtype` at the highest resolutions."""
    plain, half_plain, compiled = (
        on_reference(path(*options)) for options in ((False, None), (False, half(dtype)), (True, half(dtype)))
    )
    kept = {} if on_cuda() else {"naive, float32, memory kept": Kept(plain)}
    if dtype is torch.float32:
        return {"naive, float32": plain, **kept, "compiled": compiled}
    return {"naive, float32": plain, **kept, "naive": half_plain, "compiled": compiled}


def ours(d: Discriminator, x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return d(x, dtype=dtype)


def our_r1(d: Discriminator, x: Tensor, dtype: torch.dtype | None) -> Tensor:
    return losses.r1(lambda x, labels: d(x, labels, dtype), x, 1.0)


def case(pair: Pair, name: str, dtype: torch.dtype, passes: Sequence[str], paths: dict[str, Path]) -> Case:
    convolutions = pair.convolutions(dtype, passes)
    clips, size = CLIPS, pair.networks[0].config.resolution
    return Case(
        name=f"{name} N{clips}-T2-R{size}",
        dtype=dtype,
        paths=paths,
        flops=convolutions.flops,
        truth=None,
        part=pair.joined,
        tolerance=TOLERANCE[dtype],
        rounds=3,
        limits=[convolutions.limit],
        rivals=["naive", "compiled"] if on_cuda() and dtype is not torch.float32 else (),
    )


@DTYPES
def test_discriminators_forward_and_backward(compare, pair, dtype):
    compiled_judge = torch.compile(naive.judge)

    def path(compiled: bool, dtype: torch.dtype | None) -> Path:
        return lambda: pair.loss_gradients(compiled_judge if compiled else naive.judge, dtype)

    paths = rivals(path, dtype) | {"ours": Kept(lambda: pair.loss_gradients(ours, half(dtype)))}
    compare(case(pair, "D forward + backward", dtype, LOSS_PASSES, paths))


@DTYPES
def test_discriminators_r1(compare, pair, dtype):
    compiled_judge = torch.compile(naive.judge)

    def path(compiled: bool, dtype: torch.dtype | None) -> Path:
        judge = compiled_judge if compiled else naive.judge
        return lambda: pair.penalty_gradients(lambda d, x, t: naive.r1(d, x, t, judge), dtype)

    paths = rivals(path, dtype) | {"ours": Kept(lambda: pair.penalty_gradients(our_r1, half(dtype)))}
    compare(case(pair, "D R1 penalty", dtype, R1_PASSES, paths))
