"""The naive discriminator of StyleGAN2: contiguous tensors, and one PyTorch call for every operation.

It uses the parameters of the `digan.Discriminator` that it is compared with. Its ops run on the current backend;
`with fi.backend("reference")` makes them separate PyTorch calls too.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_inr as fi
from benchmarks.device import device
from digan import Discriminator
from digan.training.trainer import Trainer

SQRT_HALF = 0.5**0.5
ROW = torch.tensor([1.0, 3.0, 3.0, 1.0]) / 8
FIR = torch.outer(ROW, ROW).to(device())  # [4,4]


class NaiveTrainer(Trainer):
    """A trainer whose discriminators are `judge`; on the reference backend the rest is naive too.

    Args:
        dtype: compute type of the highest resolutions of the discriminators; None is float32.
        compiled: use torch.compile, except for second derivatives, which it does not support.

    Attributes:
        judged: number of calls of a discriminator.
    """

    def __init__(self, *args: Any, dtype: torch.dtype | None = None, compiled: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.judged = 0
        fast = torch.compile(judge) if compiled else judge
        if compiled:
            self._generate = torch.compile(self._render)

        def forward(d: Discriminator, x: Tensor, *_: Any, **__: Any) -> Tensor:
            self.judged += 1  # in the precision of this trainer, whatever is asked for
            twice = x.requires_grad and d.out.weight.requires_grad
            return (judge if twice else fast)(d, x, dtype)

        for d in (self.d_image, self.d_motion):
            d.forward = partial(forward, d)


def judge(d: Discriminator, x: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Return the logits [N, 1] of an unconditional discriminator, in the type of x [N, C, R, R].

    Args:
        dtype: compute type of the highest resolutions, those that DIGAN runs in half precision; None is the type of x.
    """
    wide, size = x.dtype, d.config.resolution
    half = dtype or wide
    clamp = None if half == wide else d.config.clamp
    x = _activated(_convolved(x.to(half), d.from_rgb.weight), d.from_rgb.bias, clamp)
    for name, block in d.blocks.items():
        if int(name) <= size >> d.config.half_resolutions:
            x = x.to(wide)
        x = _block(block, x, clamp)
    x = fi.minibatch_stddev(x.to(wide), group_size=min(d.mbstd_group, len(x)), channels=d.config.mbstd_channels)
    x = _activated(_convolved(x, d.conv.weight), d.conv.bias, clamp)
    x = _activated(F.linear(x.flatten(1), _equalised(d.fc.weight, x)), d.fc.bias)
    return F.linear(x, _equalised(d.out.weight, x), d.out.bias.to(wide))


def r1(d: Discriminator, x: Tensor, dtype: torch.dtype | None = None, judge=judge) -> Tensor:
    """Return half the squared norm of the gradient of the logit at each sample, averaged over samples: scalar."""
    x = x.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(judge(d, x, dtype).sum(), x, create_graph=True)
    return gradient.square().sum(dim=[1, 2, 3]).mean() / 2


def _block(block: nn.Module, x: Tensor, clamp: float | None) -> Tensor:
    fir = FIR.to(x.device, x.dtype)
    skip = _convolved(fi.upfirdn2d(x, fir, down=2, padding=1), block.skip.weight) * SQRT_HALF
    y = _activated(_convolved(x, block.conv0.weight), block.conv0.bias, clamp)
    y = F.conv2d(fi.upfirdn2d(y, fir, padding=2), _equalised(block.conv1.weight, y), stride=2)
    return skip + _activated(y, block.conv1.bias, clamp) * SQRT_HALF


def _convolved(x: Tensor, weight: Tensor) -> Tensor:
    return F.conv2d(x.contiguous(), _equalised(weight, x), padding=weight.shape[-1] // 2)


def _activated(x: Tensor, bias: Tensor, clamp: float | None = None) -> Tensor:
    return fi.bias_act(x, bias.to(x.dtype), act="lrelu", clamp=clamp)


def _equalised(weight: Tensor, x: Tensor) -> Tensor:
    """Scale a weight stored as N(0, 1) by its number of inputs, and convert it to the type of x."""
    return (weight * weight[0].numel() ** -0.5).to(x.dtype).contiguous()
