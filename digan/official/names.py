"""Translate networks of the official implementation: parameter names, and the configuration that they imply."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypedDict, cast

from torch import Tensor

from digan.config import DiscriminatorConfig, GeneratorConfig

_IGNORED = re.compile(r"(^|\.)resample_filter$")  # a constant that our networks compute

# (pattern of an official name, our name as a template or a function of the match).
_GENERATOR_NAMES = [
    (r"mapping\.w_avg", r"mapping.w_avg"),
    (r"mapping\.fc(\d+)\.(weight|bias)", r"mapping.layers.\1.\2"),
    (r"mapping\.embed\.(weight|bias)", r"mapping.embed.\1"),
    (r"synthesis\.b4\.conv1\.(.+)", r"blocks.4.layers.0.\1"),
    (r"synthesis\.b4\.extra_convs\.(\d+)\.(.+)", lambda m: f"blocks.4.layers.{int(m[1]) + 1}.{m[2]}"),
    (r"synthesis\.b(\d+)\.conv([01])\.(.+)", r"blocks.\1.layers.\2.\3"),
    (r"synthesis\.b(\d+)\.extra_convs\.(\d+)\.(.+)", lambda m: f"blocks.{m[1]}.layers.{int(m[2]) + 2}.{m[3]}"),
    (r"synthesis\.b(\d+)\.torgb\.(.+)", r"blocks.\1.to_rgb.\2"),
    (r"synthesis\.b(\d+)\.(?:input\.input\.)?coord_fuser\.xyaffine\.(.+)", r"blocks.\1.fourier.content.\2"),
    (r"synthesis\.b(\d+)\.(?:input\.input\.)?coord_fuser\.affine\.(.+)", r"blocks.\1.fourier.motion.\2"),
    (r"synthesis\.b(\d+)\.(?:input\.input\.)?coord_fuser\.motion_mlp\.(.+)", r"blocks.\1.fourier.motion_mlp.\2"),
]

_DISCRIMINATOR_NAMES = [
    (r"b4\.(conv|fc|out)\.(weight|bias)", r"\1.\2"),
    (r"b\d+\.fromrgb\.(weight|bias)", r"from_rgb.\1"),
    (r"b(\d+)\.(conv0|conv1|skip)\.(weight|bias)", r"blocks.\1.\2.\3"),
    (r"mapping\.fc(\d+)\.(weight|bias)", r"label_mapping.layers.\1.\2"),
    (r"mapping\.embed\.(weight|bias)", r"label_mapping.embed.\1"),
]

# Pattern of an official attribute -> the field of our configuration; only what shapes do not imply.
_FUSER = r"synthesis\.b\d+\.(?:input\.input\.)?coord_fuser"
_GENERATOR_CONSTANTS = {
    r"mapping\.fc\d+\.bias_gain": "mapping_lr_mult",
    r"mapping\.w_avg_beta": "w_avg_beta",
    rf"{_FUSER}\.fourier_scale": "space_frequency",
    rf"{_FUSER}\.motion_sigma": "time_frequency",
}
_DISCRIMINATOR_CONSTANTS = {r"(?:image|video)D\.b4\.mbstd\.group_size": "mbstd_group"}


class GeneratorConstants(TypedDict, total=False):
    """Fields of `GeneratorConfig` that shapes do not imply."""

    mapping_lr_mult: float
    w_avg_beta: float
    space_frequency: float
    time_frequency: float


class DiscriminatorConstants(TypedDict, total=False):
    """Fields of `DiscriminatorConfig` that shapes do not imply."""

    mbstd_group: int


# Pattern of an official attribute -> the only value that our networks implement.
_GENERATOR_SWITCHES = {
    r"ours": True,
    rf"{_FUSER}\.use_cosine": True,
    rf"{_FUSER}\.use_raw_coords": False,
    r"synthesis\.b\d+\.architecture": "skip",
    r"synthesis\.b\d+\.conv[01]\.instance_norm": False,
}
_DISCRIMINATOR_SWITCHES = {r"(?:image|video)D\.b\d+\.architecture": "resnet"}


def generator_constants(attributes: Mapping[str, Any]) -> GeneratorConstants:
    """Return the fields of `GeneratorConfig` that an official generator's attributes determine.

    Args:
        attributes: Plain values of its modules by dotted name, e.g. "mapping.w_avg_beta".

    Raises:
        ValueError: The attributes contradict each other, or belong to a variant that `Generator` does not implement.
    """
    return cast(GeneratorConstants, _constants(attributes, _GENERATOR_CONSTANTS, _GENERATOR_SWITCHES))


def discriminator_constants(attributes: Mapping[str, Any]) -> DiscriminatorConstants:
    """Do the same as `generator_constants`, for `DiscriminatorConfig`."""
    return cast(DiscriminatorConstants, _constants(attributes, _DISCRIMINATOR_CONSTANTS, _DISCRIMINATOR_SWITCHES))


def generator_state(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """Convert the state dict of an official generator to one of `Generator`.

    Raises:
        ValueError: A name is not one of the official generator's.
    """
    # The official layers are 1x1 convolutions; ours are matrices.
    return {
        generator_name(name): tensor.flatten(1) if tensor.ndim == 4 else tensor
        for name, tensor in official.items()
        if not _IGNORED.search(name)
    }


def discriminator_states(official: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Convert the state dict of an official discriminator to those of the image and the motion `Discriminator`.

    Raises:
        ValueError: A name is not one of the official discriminator's.
    """
    return _discriminator_state(official, "imageD."), _discriminator_state(official, "videoD.")


def generator_name(official: str) -> str:
    """Return our name of an official generator's parameter or buffer; ValueError if there is none."""
    return _rename(official, _GENERATOR_NAMES)


def discriminator_name(official: str) -> str:
    """Return our name of an official parameter, passed without imageD. or videoD.; ValueError if there is none."""
    return _rename(official, _DISCRIMINATOR_NAMES)


def generator_config(state: dict[str, Tensor]) -> GeneratorConfig:
    """Return the configuration that a state dict of `Generator` implies, with defaults for what shapes do not imply."""
    widths = _widths(state, r"blocks\.(\d+)\.layers\.0\.weight")
    depth = {size: len(_numbers(state, rf"blocks\.{size}\.layers\.(\d+)\.weight")) for size in widths}
    with_extra = [size for size, layers in depth.items() if layers > (1 if size == 4 else 2)]
    with_features = _numbers(state, r"blocks\.(\d+)\.fourier\.content\.weight")
    num_classes = state["mapping.embed.weight"].shape[1] if "mapping.embed.weight" in state else 0
    w_dim = len(state["mapping.w_avg"])
    rank = state["blocks.4.layers.0.affine.weight"].shape[0] // sum(state["blocks.4.layers.0.weight"].shape)
    channel_base, channel_max = _channels(widths)
    return GeneratorConfig(
        resolution=max(widths),
        z_dim=state["blocks.4.fourier.motion.weight"].shape[1] - w_dim,
        w_dim=w_dim,
        num_classes=num_classes,
        mapping_layers=len(_numbers(state, r"mapping\.layers\.(\d+)\.weight")),
        fourier_dim=state["blocks.4.fourier.motion.weight"].shape[0],
        fmm_rank=rank,
        channel_base=channel_base,
        channel_max=channel_max,
        base_resolution=min((size for size in with_features if size > 4), default=2 * max(widths)) // 2,
        extra_layers_from=min(with_extra, default=2 * max(widths)),
    )


def discriminator_config(state: dict[str, Tensor]) -> DiscriminatorConfig:
    """Return the configuration that a state dict of `Discriminator` implies, with defaults as above."""
    widths = _widths(state, r"blocks\.(\d+)\.conv0\.weight") | {4: len(state["conv.bias"])}
    embed = state.get("label_mapping.embed.weight")
    layers = len(_numbers(state, r"label_mapping\.layers\.(\d+)\.weight"))
    channel_base, channel_max = _channels(widths)
    return DiscriminatorConfig(
        resolution=max(widths),
        num_classes=0 if embed is None else embed.shape[1],
        channel_base=channel_base,
        channel_max=channel_max,
        mbstd_channels=state["conv.weight"].shape[1] - widths[4],
        label_layers=layers or DiscriminatorConfig.label_layers,
    )


def _constants(attributes: Mapping[str, Any], fields: dict[str, str], switches: dict[str, Any]) -> dict[str, float]:
    constants: dict[str, float] = {}
    for name, value in attributes.items():
        for pattern, expected in switches.items():
            if re.fullmatch(pattern, name) and value != expected:
                raise ValueError(f"{name} is {value!r} in it: a variant of the model that is not implemented here.")
        for pattern, field in fields.items():
            if not re.fullmatch(pattern, name) or value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ValueError(f"{name} is {value!r} in it where a number is expected.")
            if constants.setdefault(field, value) != value:
                raise ValueError(f"{name} is {value} in it where other layers have {constants[field]}.")
    return constants


def _discriminator_state(official: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {
        discriminator_name(name.removeprefix(prefix)): tensor
        for name, tensor in official.items()
        if name.startswith(prefix) and not _IGNORED.search(name)
    }


def _rename(name: str, table: list) -> str:
    for pattern, replacement in table:
        if re.fullmatch(pattern, name):
            return re.sub(pattern, replacement, name)
    raise ValueError(f"{name} is not a parameter of the official DIGAN implementation, whose names are expected here.")


def _numbers(state: dict[str, Tensor], pattern: str) -> list[int]:
    return sorted(int(match[1]) for match in (re.fullmatch(pattern, name) for name in state) if match)


def _widths(state: dict[str, Tensor], pattern: str) -> dict[int, int]:
    """Return resolution -> channels, from the first dimension of the weights whose names match."""
    matches = [(re.fullmatch(pattern, name), tensor) for name, tensor in state.items()]
    return {int(match[1]): len(tensor) for match, tensor in matches if match}


def _channels(widths: dict[int, int]) -> tuple[int, int]:
    """Return channel_base and channel_max such that min(channel_base / R, channel_max) = widths[R]."""
    channel_max = max(widths.values())
    reduced = {size: width for size, width in widths.items() if width < channel_max}
    size = min(reduced) if reduced else max(widths)
    return size * widths[size], channel_max
