"""Every hyper-parameter of the project, once: name, type, default, help text and presets."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class GeneratorConfig:
    """Architecture of the generator. Defaults: DIGAN at 128x128."""

    resolution: int = 128  # pixels per side of a training frame: 32, 64, 128, 256 or 512
    z_dim: int = 512  # size of z_content and of z_motion
    w_dim: int = 512  # size of the intermediate latent w
    num_classes: int = 0  # 0: unconditional
    mapping_layers: int = 2
    mapping_lr_mult: float = 0.01
    w_avg_beta: float = 0.995
    fourier_dim: int = 128  # D, the number of Fourier features of one stage; 2D inputs (sin and cos)
    fmm_rank: int = 10
    channel_base: int = 32768  # channels at resolution R: min(channel_base / R, channel_max)
    channel_max: int = 512
    base_resolution: int = 32  # the first stage's grid; the official blocks b4..b32 all run on it
    extra_layers_from: int = 128  # stages at and above this resolution end with one extra layer
    space_frequency: float = 10**0.5
    time_frequency: float = 0.25


@dataclass(frozen=True)
class DiscriminatorConfig:
    """Architecture of the image and the motion discriminator, which share their widths."""

    resolution: int = 128
    num_classes: int = 0
    channel_base: int = 32768
    channel_max: int = 512
    mbstd_group: int = 4
    mbstd_channels: int = 1
    label_layers: int = 8  # depth of the label mapping network, with num_classes > 0
    half_resolutions: int = 4  # the highest resolutions run in the half-precision compute type
    half_clamp: float = 256.0  # activations are clamped to this times the gain, under half precision only
