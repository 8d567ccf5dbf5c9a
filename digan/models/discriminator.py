"""The discriminators: residual StyleGAN2 networks that judge a frame, or two frames and the time between them."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

import fused_inr as fi
from digan.config import DiscriminatorConfig, GeneratorConfig, check_values
from digan.models.layers import Conv2d, FullyConnected, channels_at
from digan.models.mapping import Mapping

IMAGE_CHANNELS = 3
MOTION_CHANNELS = 7  # two frames and the time between them as a constant plane


class ResidualBlock(nn.Module):
    """Residual block that halves the resolution; both branches are scaled by sqrt(1/2) before they are added."""

    def __init__(self, in_channels: int, out_channels: int, clamp: float) -> None:
        super().__init__()
        self.conv0 = Conv2d(in_channels, in_channels, 3, activation="lrelu", clamp=clamp)
        self.conv1 = Conv2d(in_channels, out_channels, 3, activation="lrelu", down=True, clamp=clamp)
        self.skip = Conv2d(in_channels, out_channels, 1, bias=False, down=True)

    def forward(self, x: Tensor, clamped: bool = False) -> Tensor:
        """Return features [N, out, R/2, R/2] of x [N, in, R, R]; `clamped` bounds those of both 3x3 convolutions."""
        skip = self.skip(x, gain=math.sqrt(0.5))
        x = self.conv0(x, clamped=clamped)
        return self.conv1(x, gain=math.sqrt(0.5), residual=skip, clamped=clamped)


class Discriminator(nn.Module):
    """StyleGAN2's residual discriminator.

    Args:
        channels_in: 3 for the image discriminator, 7 for the motion discriminator (see `motion_input`).

    Attributes:
        mbstd_group: size of the groups over which the minibatch standard deviation is computed; the batch must be a
            multiple of it or smaller.

    Raises:
        ValueError: a value is of the wrong type, or the resolution is not a power of two of at least 8.
    """

    def __init__(self, config: DiscriminatorConfig, channels_in: int) -> None:
        super().__init__()
        check_values(config)
        top = config.resolution
        if top < 8 or top & (top - 1):
            raise ValueError(f"resolution must be a power of two of at least 8, got {top}.")
        self.config = config
        self.channels_in = channels_in
        self.mbstd_group = config.mbstd_group
        self.from_rgb = Conv2d(channels_in, channels_at(config, top), 1, activation="lrelu", clamp=config.clamp)
        self.blocks = nn.ModuleDict()
        resolution = top
        while resolution > 4:
            widths = channels_at(config, resolution), channels_at(config, resolution // 2)
            self.blocks[str(resolution)] = ResidualBlock(*widths, clamp=config.clamp)
            resolution //= 2
        width = channels_at(config, 4)
        self.conv = Conv2d(width + config.mbstd_channels, width, 3, activation="lrelu", clamp=config.clamp)
        self.fc = FullyConnected(width * 4 * 4, width, activation="lrelu")
        self.out = FullyConnected(width, width if config.num_classes else 1)
        self.label_mapping = None
        if config.num_classes:
            # StyleGAN2 uses one learning-rate multiplier for both mapping networks.
            lr_mult = GeneratorConfig.mapping_lr_mult
            self.label_mapping = Mapping(0, width, config.label_layers, lr_mult, num_classes=config.num_classes)

    def forward(
        self,
        x: Tensor,
        labels: Tensor | None = None,
        dtype: torch.dtype | None = None,
        *,
        clamped: bool | None = None,
    ) -> Tensor:
        """Return the logits of a batch.

        Args:
            x: [N, channels_in, R, R] float.
            labels: [N] int64 class indices, for a conditional discriminator.
            dtype: torch.float16 or torch.bfloat16 runs the `half_resolutions` highest resolutions in that type; None
                runs everything in the parameters' type.
            clamped: clamp the activations of every convolution but the skips, float32 resolutions included; None does
                so if any resolution runs in half precision, as published.

        Returns:
            Logits [N, 1] in the parameters' type, positive for real.

        Raises:
            ValueError: x has another shape, or labels are missing or unexpected.
        """
        size = self.config.resolution
        if x.shape[1:] != (self.channels_in, size, size):
            raise ValueError(f"x must be [N, {self.channels_in}, {size}, {size}], got {list(x.shape)}.")
        if labels is not None and self.label_mapping is None:
            raise ValueError("labels were given to an unconditional discriminator: build it with num_classes > 0.")
        full = self.fc.weight.dtype
        half = dtype if dtype is not None and self.config.half_resolutions > 0 else full
        if clamped is None:
            clamped = half != full
        # oneDNN and tensor cores prefer channels-last; float32 on a GPU is as fast without it.
        channels_last = half != full or x.device.type == "cpu"
        x = x.to(half, memory_format=torch.channels_last if channels_last else torch.preserve_format)
        x = self.from_rgb(x, clamped=clamped)
        for name, block in self.blocks.items():
            x = block(x.to(half if int(name) > size >> self.config.half_resolutions else full), clamped)
        x = x.to(full, memory_format=torch.contiguous_format)
        x = fi.minibatch_stddev(x, group_size=min(self.mbstd_group, len(x)), channels=self.config.mbstd_channels)
        x = self.out(self.fc(self.conv(x, clamped=clamped).flatten(1)))  # [N, 1], or [N, width] to project on the label
        if self.label_mapping is None:
            return x
        return (x * self.label_mapping(None, labels)).sum(dim=1, keepdim=True) / math.sqrt(x.shape[1])


def motion_input(frames: Tensor, delta_t: Tensor) -> Tensor:
    """Return the motion discriminator's input [N, 7, H, W] for frames [N, 2, 3, H, W] and delta_t [N].

    Channels: the earlier frame, the later frame, and the time between them, t2 - t1 in [0, 1], as a constant plane.
    """
    n, _, _, height, width = frames.shape
    plane = delta_t.to(frames.dtype).view(n, 1, 1, 1).expand(n, 1, height, width)
    return torch.cat([frames.flatten(1, 2), plane], dim=1)
