"""The ops of a discriminator and its augmentation on the Triton kernels, as they are registered for a device."""

import torch
from torch import Tensor

from fused_inr._backends.triton.kernels import augment as augment_kernels
from fused_inr._backends.triton.kernels import bias_act as bias_act_kernels
from fused_inr._backends.triton.kernels import minibatch_stddev as stddev_kernels
from fused_inr._backends.triton.kernels import upfirdn2d as upfirdn_kernels
from fused_inr._backends.triton.kernels.launch import run


def bias_act(x: Tensor, *others: Tensor | float | str | None) -> Tensor:
    """fused_inr::bias_act."""
    out, launches = bias_act_kernels.forward(x, *others)
    run(launches, x.device)
    return out


def bias_act_slope(
    gradient: Tensor, shift: Tensor | None, told: Tensor, *others: Tensor | float | str | None
) -> tuple[Tensor, Tensor]:
    """fused_inr::bias_act_slope. The sums of stretches are added by PyTorch, whose sum has the same bits every time."""
    out, partial, launches = bias_act_kernels.backward(gradient, shift, told, *others)
    run(launches, told.device)
    return out, told.new_empty(0, dtype=torch.float32) if partial is None else partial.sum(0)


def upfirdn2d(x: Tensor, taps: Tensor, *options: list[int]) -> Tensor:
    """fused_inr::upfirdn2d."""
    out, launches = upfirdn_kernels.forward(x, taps, *options)
    run(launches, x.device)
    return out


def minibatch_stddev(x: Tensor, group: int, channels: int) -> Tensor:
    """fused_inr::minibatch_stddev."""
    out, launches = stddev_kernels.forward(x, group, channels)
    run(launches, x.device)
    return out


def minibatch_stddev_backward(gradient: Tensor, x: Tensor, group: int, channels: int) -> Tensor:
    """fused_inr::minibatch_stddev_backward."""
    out, launches = stddev_kernels.backward(gradient, x, group, channels)
    run(launches, x.device)
    return out


def augment(x: Tensor, *others: Tensor | list[int] | bool | None) -> Tensor:
    """fused_inr::augment."""
    out, launches = augment_kernels.forward(x, *others)
    run(launches, x.device)
    return out
