"""Layers with an equalised learning rate, shared by the networks: weights are stored as N(0, 1), scaled when used."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fused_inr as fi
from digan.config import DiscriminatorConfig, GeneratorConfig

# Gain that preserves the second moment of a standard normal input.
_ACTIVATION_GAIN = {"linear": 1.0, "lrelu": math.sqrt(2.0)}


def channels_at(config: GeneratorConfig | DiscriminatorConfig, resolution: int) -> int:
    """Return the number of channels at a resolution, min(channel_base / resolution, channel_max).

    Raises:
        ValueError: that number is 0.
    """
    channels = min(config.channel_base // resolution, config.channel_max)
    if channels < 1:
        raise ValueError(
            f"channel_base {config.channel_base} and channel_max {config.channel_max} leave no channels at resolution "
            f"{resolution}: channel_base must be at least {resolution} and channel_max 1."
        )
    return channels


class FullyConnected(nn.Module):
    """Equalised linear layer (StyleGAN2): act(x W^T lr_mult / sqrt(in) + b lr_mult), W ~ N(0, 1) / lr_mult.

    Args:
        activation: "linear" or "lrelu" (slope 0.2, gain sqrt 2).
        bias_init: initial value of the bias, as stored.
        lr_mult: factor on the learning rate of weight and bias.

    Shapes: x [..., in_features] -> [..., out_features], same float dtype.
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        activation: str = "linear",
        bias_init: float = 0.0,
        lr_mult: float = 1.0,
    ) -> None:
        super().__init__()
        self.activation = activation
        self.lr_mult = lr_mult
        self.weight_gain = lr_mult / math.sqrt(in_features)
        weight = torch.randn(out_features, in_features)
        # A first product on "meta", which has no values, would make PyTorch import 900 modules.
        self.weight = nn.Parameter(weight if weight.is_meta else weight / lr_mult)
        self.bias = nn.Parameter(torch.full([out_features], bias_init))

    def forward(self, x: Tensor) -> Tensor:
        """Return [..., out_features] for x [..., in_features]."""
        weight = self.weight if self.weight_gain == 1.0 else self.weight * self.weight_gain
        bias = self.bias if self.lr_mult == 1.0 else self.bias * self.lr_mult
        if self.activation == "linear":
            return F.linear(x, weight, bias)
        y = F.linear(x.reshape(-1, x.shape[-1]), weight)  # [M, out]
        return fi.bias_act(y, bias, act=self.activation).view(*x.shape[:-1], y.shape[1])

    @torch.no_grad()
    def fold_gain(self) -> None:
        """Store the weight multiplied by its gain: the same results, bit for bit, without a product per call.

        The layer is then for inference only: its state is no longer that of a file.
        """
        self.weight.mul_(self.weight_gain)
        self.weight_gain = 1.0


class Conv2d(nn.Module):
    """Equalised convolution of the discriminator, "same" padding, optionally halving the resolution (StyleGAN2).

    The weight is stored as N(0, 1) and scaled by 1 / sqrt(in * kernel^2). With `down`, the input is filtered with the
    FIR filter [1, 3, 3, 1] and decimated by 2.

    Args:
        kernel: odd size of the square kernel.
        activation: "linear" or "lrelu" (slope 0.2, gain sqrt 2).
        clamp: bound of the activations in calls with `clamped`; None never clamps.

    Shapes: x [N, in, H, W] -> [N, out, H, W], or [N, out, H/2, W/2] with `down`; same dtype and memory format.
    """

    fir: Tensor | None

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        activation: str = "linear",
        bias: bool = True,
        down: bool = False,
        clamp: float | None = None,
    ) -> None:
        super().__init__()
        self.kernel = kernel
        self.activation = activation
        self.clamp = clamp
        self.weight_gain = 1.0 / math.sqrt(in_channels * kernel**2)
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        taps = torch.tensor([1.0, 3.0, 3.0, 1.0])
        self.register_buffer("fir", torch.outer(taps, taps) / taps.sum() ** 2 if down else None, persistent=False)

    def forward(self, x: Tensor, gain: float = 1.0, residual: Tensor | None = None, *, clamped: bool = False) -> Tensor:
        """Convolve x; `gain` scales the output of the activation and its bound, and then `residual` is added."""
        if self.bias is None and self.activation == "linear" and residual is None:
            return self._convolve(x, gain)  # nothing follows, so the gain folds into the weight
        y = self._convolve(x, 1.0)
        clamp = self.clamp * gain if clamped and self.clamp is not None else None
        gain = _ACTIVATION_GAIN[self.activation] * gain
        return fi.bias_act(y, self.bias, act=self.activation, gain=gain, clamp=clamp, residual=residual)

    def _convolve(self, x: Tensor, gain: float) -> Tensor:
        weight = (self.weight * (self.weight_gain * gain)).to(x.dtype)
        if self.fir is None:
            return fi.conv2d(x, weight, padding=self.kernel // 2)
        spread = self.fir.shape[0] // 2
        if self.kernel == 1:  # a pointwise convolution commutes with decimation: convolve a quarter of the pixels
            return fi.conv2d(fi.upfirdn2d(x, self.fir, down=2, padding=spread - 1), weight)
        return fi.conv2d(fi.upfirdn2d(x, self.fir, padding=spread - 1 + self.kernel // 2), weight, stride=2)
