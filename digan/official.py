"""Parameters of the official implementation: their names in ours, and the configuration their shapes imply."""

from __future__ import annotations

import re

from torch import Tensor

from digan.config import DiscriminatorConfig, GeneratorConfig

_IGNORED = re.compile(r"(^|\.)resample_filter$")  # a constant, which ours builds itself

# (pattern of an official name, ours); \1.. are the groups, and a callable is given the match.
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


def generator_state(official: dict[str, Tensor]) -> dict[str, Tensor]:
    """State dict of an official generator -> state dict of ``Generator``.

    Raises:
        ValueError: a name that the official generator does not have.
    """
    # The official layers are 1x1 convolutions; ours are matrices.
    return {
        generator_name(name): tensor.flatten(1) if tensor.ndim == 4 else tensor
        for name, tensor in official.items()
        if not _IGNORED.search(name)
    }


def discriminator_states(official: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """State dict of an official discriminator -> state dicts of the image and of the motion ``Discriminator``.

    Raises:
        ValueError: a name that the official discriminator does not have.
    """
    return _discriminator_state(official, "imageD."), _discriminator_state(official, "videoD.")


def generator_name(official: str) -> str:
    """Our name of an official generator's parameter or buffer; ValueError if it has none."""
    return _rename(official, _GENERATOR_NAMES)


def discriminator_name(official: str) -> str:
    """Our name of an official parameter, given without imageD. or videoD.; ValueError if it has none."""
    return _rename(official, _DISCRIMINATOR_NAMES)


def generator_config(state: dict[str, Tensor]) -> GeneratorConfig:
    """The configuration that a state dict of ``Generator`` implies; defaults for what shapes do not tell."""
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
    """The configuration that a state dict of ``Discriminator`` implies; defaults for what shapes do not tell."""
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
    """Channels of each resolution, read off the first dimension of the weights whose names match."""
    matches = [(re.fullmatch(pattern, name), tensor) for name, tensor in state.items()]
    return {int(match[1]): len(tensor) for match, tensor in matches if match}


def _channels(widths: dict[int, int]) -> tuple[int, int]:
    """channel_base and channel_max with min(channel_base / R, channel_max) = widths[R]."""
    channel_max = max(widths.values())
    reduced = {size: width for size, width in widths.items() if width < channel_max}
    size = min(reduced) if reduced else max(widths)
    return size * widths[size], channel_max
