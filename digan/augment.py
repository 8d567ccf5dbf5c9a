"""Differentiable augmentation of real and generated clips (DiffAugment, NeurIPS 2020).

The two frames of a clip share one draw; the means of saturation and contrast are each frame's own. The time plane of
the motion discriminator's input is never augmented.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from digan.processes import send

_TRANSLATION = 0.125  # largest shift, as a fraction of the side
_CUTOUT = 0.5  # side of the square, as a fraction of the side

# Operations of each policy, and how many uniform numbers one operation takes for a clip.
_POLICIES = {
    "color": {"brightness": 1, "saturation": 1, "contrast": 1},
    "translation": {"translation": 2},
    "cutout": {"cutout": 2},
}


@dataclass(frozen=True)
class AugmentDraw:
    """What was drawn for a batch: for each operation, in order, uniform numbers in [0, 1), [N, 1 or 2] float32."""

    uniforms: dict[str, Tensor]

    def shard(self, index: int, shards: int) -> AugmentDraw:
        """The draws of clips index, index + shards, ...: the part of one process or of one micro-batch."""
        return AugmentDraw({name: u[index::shards] for name, u in self.uniforms.items()})

    def to(self, device: torch.device) -> AugmentDraw:
        """The same draws on another device."""
        return AugmentDraw({name: send(u, device) for name, u in self.uniforms.items()})


def draw_augment(policy: str, n: int, generator: torch.Generator) -> AugmentDraw:
    """Draw the augmentation of n clips.

    Args:
        policy: names out of color, translation and cutout, separated by commas; applied in this order. "" is none.
        generator: CPU generator; the draws of a batch depend on nothing else.

    Raises:
        ValueError: an unknown or a repeated name.
    """
    names = [name.strip() for name in policy.split(",")] if policy else []
    unknown = [name for name in names if name not in _POLICIES]
    if unknown or len(set(names)) != len(names):
        raise ValueError(f"--aug takes each of {', '.join(_POLICIES)} at most once, got {policy!r}.")
    sizes = {op: size for name in names for op, size in _POLICIES[name].items()}
    return AugmentDraw({op: torch.rand([n, size], generator=generator) for op, size in sizes.items()})


def apply_augment(frames: Tensor, draw: AugmentDraw) -> Tensor:
    """Augment frames [N, T, C, H, W] float with a draw of N clips on the same device; same shape, differentiable."""
    for name, uniform in draw.uniforms.items():
        if len(uniform) != len(frames):
            raise ValueError(f"the augmentation was drawn for {len(uniform)} clips, but there are {len(frames)}.")
        frames = _OPERATIONS[name](frames, uniform.to(frames.dtype))
    return frames


def augment_motion_input(clip: Tensor, draw: AugmentDraw) -> Tensor:
    """Augment the two frames of the motion discriminator's input [N, 7, H, W]; the time plane passes unchanged."""
    frames = apply_augment(clip[:, :6].unflatten(1, (2, 3)), draw)
    return torch.cat([frames.flatten(1, 2), clip[:, 6:]], dim=1)


def _per_clip(uniform: Tensor) -> Tensor:
    return uniform.view(-1, 1, 1, 1, 1)


def _brightness(x: Tensor, uniform: Tensor) -> Tensor:
    return x + (_per_clip(uniform) - 0.5)


def _saturation(x: Tensor, uniform: Tensor) -> Tensor:
    mean = x.mean(dim=2, keepdim=True)
    return (x - mean) * (_per_clip(uniform) * 2) + mean


def _contrast(x: Tensor, uniform: Tensor) -> Tensor:
    mean = x.mean(dim=(2, 3, 4), keepdim=True)
    return (x - mean) * (_per_clip(uniform) + 0.5) + mean


def _translation(x: Tensor, uniform: Tensor) -> Tensor:
    n, t, c, height, width = x.shape
    # Source pixel of each target pixel, per clip; what comes from outside is zero.
    rows = _shifted(height, uniform[:, 0])  # [N, H]
    columns = _shifted(width, uniform[:, 1])  # [N, W]
    inside = ((rows >= 0) & (rows < height)).unsqueeze(2) & ((columns >= 0) & (columns < width)).unsqueeze(1)
    source = rows.clamp(0, height - 1).unsqueeze(2) * width + columns.clamp(0, width - 1).unsqueeze(1)  # [N, H, W]
    source = source.view(n, 1, -1).expand(-1, t * c, -1)
    moved = x.reshape(n, t * c, height * width).gather(2, source).view(x.shape)
    return moved.masked_fill(~inside.view(n, 1, 1, height, width), 0.0)


def _shifted(size: int, uniform: Tensor) -> Tensor:
    limit = int(size * _TRANSLATION + 0.5)
    return torch.arange(size, device=uniform.device) + (_integers(uniform, 2 * limit + 1) - limit).unsqueeze(1)


def _cutout(x: Tensor, uniform: Tensor) -> Tensor:
    height, width = x.shape[3:]
    rows, columns = _covered(height, uniform[:, 0]), _covered(width, uniform[:, 1])  # [N, H], [N, W]
    hole = rows.unsqueeze(2) & columns.unsqueeze(1)  # [N, H, W]
    return x.masked_fill(hole[:, None, None], 0.0)


def _covered(size: int, uniform: Tensor) -> Tensor:
    side = int(size * _CUTOUT + 0.5)
    first = (_integers(uniform, size + 1 - side % 2) - side // 2).unsqueeze(1)  # [N, 1]
    pixel = torch.arange(size, device=uniform.device)
    return (pixel >= first) & (pixel < first + side)


def _integers(uniform: Tensor, count: int) -> Tensor:
    """Uniform numbers in [0, 1) to integers in [0, count); the product may round up to count, hence the clamp."""
    return (uniform * count).long().clamp(max=count - 1)


_OPERATIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "brightness": _brightness,
    "saturation": _saturation,
    "contrast": _contrast,
    "translation": _translation,
    "cutout": _cutout,
}
