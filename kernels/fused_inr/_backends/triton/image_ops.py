"""The ops of a discriminator and its augmentation on the Triton kernels, as registered for CUDA tensors."""

from typing import Any

import torch
from torch import Tensor

from fused_inr._backends.triton.kernels import augment as augment_kernels
from fused_inr._backends.triton.kernels import bias_act as bias_act_kernels
from fused_inr._backends.triton.kernels import minibatch_stddev as stddev_kernels
from fused_inr._backends.triton.kernels import upfirdn2d as upfirdn_kernels
from fused_inr._backends.triton.kernels.launch import run
from fused_inr.primitives.augment import Options as AugmentOptions
from fused_inr.primitives.bias_act import Options as BiasActOptions
from fused_inr.primitives.upfirdn2d import Options as UpfirdnOptions


def bias_act(x: Tensor, bias: Tensor | None, residual: Tensor | None, *options: Any) -> Tensor:
    """Run fused_inr::bias_act."""
    out, launches = bias_act_kernels.forward(x, bias, residual, BiasActOptions(*options))
    run(launches, x.device)
    return out


def bias_act_slope(
    gradient: Tensor,
    shift: Tensor | None,
    saved: Tensor,
    bias: Tensor | None,
    from_output: bool,
    with_sums: bool,
    *others: Any,
) -> tuple[Tensor, Tensor]:
    """Run fused_inr::bias_act_slope. PyTorch adds the partial sums in a fixed order."""
    options = BiasActOptions(*others)
    out, partial, launches = bias_act_kernels.backward(gradient, shift, saved, bias, from_output, with_sums, options)
    run(launches, saved.device)
    return out, saved.new_empty(0, dtype=torch.float32) if partial is None else partial.sum(0)


def upfirdn2d(x: Tensor, taps: Tensor, *options: list[int]) -> Tensor:
    """Run fused_inr::upfirdn2d."""
    out, launches = upfirdn_kernels.forward(x, taps, UpfirdnOptions(*options))
    run(launches, x.device)
    return out


def minibatch_stddev(x: Tensor, group: int, channels: int) -> Tensor:
    """Run fused_inr::minibatch_stddev."""
    out, launches = stddev_kernels.forward(x, group, channels)
    run(launches, x.device)
    return out


def minibatch_stddev_backward(gradient: Tensor, x: Tensor, group: int, channels: int) -> Tensor:
    """Run fused_inr::minibatch_stddev_backward."""
    out, launches = stddev_kernels.backward(gradient, x, group, channels)
    run(launches, x.device)
    return out


def augment(x: Tensor, *options: Any) -> Tensor:
    """Run fused_inr::augment."""
    out, launches = augment_kernels.forward(x, AugmentOptions(*options))
    run(launches, x.device)
    return out
