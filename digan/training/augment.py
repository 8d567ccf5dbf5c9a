"""Differentiable augmentation of real and generated clips (DiffAugment, NeurIPS 2020).

The two frames of a clip share one draw; the means that saturation and contrast need are computed per frame. The time
plane of the motion discriminator's input is never augmented.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import fused_inr as fi
from digan.training.distributed import send

_TRANSLATION = 0.125  # largest shift, as a fraction of the side
_CUTOUT = 0.5  # side of the square, as a fraction of the side

# Amounts of the color operations as functions of uniform numbers.
_AMOUNTS = {"brightness": lambda u: u - 0.5, "saturation": lambda u: u * 2, "contrast": lambda u: u + 0.5}

# Operations of each policy, and the number of uniform numbers that each takes per clip.
_POLICIES = {
    "color": {"brightness": 1, "saturation": 1, "contrast": 1},
    "translation": {"translation": 2},
    "cutout": {"cutout": 2},
}


@dataclass(frozen=True)
class AugmentDraw:
    """Random numbers of a batch: for each operation, in order, uniform in [0, 1), `[N, 1 or 2]` float32."""

    uniforms: dict[str, Tensor]

    def select(self, indices: slice) -> AugmentDraw:
        """Return the random numbers of a slice of the clips, such as a micro-batch."""
        return AugmentDraw({name: u[indices] for name, u in self.uniforms.items()})

    def to(self, device: torch.device) -> AugmentDraw:
        """Copy the random numbers to another device."""
        return AugmentDraw({name: send(u, device) for name, u in self.uniforms.items()})


def draw_augment(policy: str, n: int, generator: torch.Generator) -> AugmentDraw:
    """Draw the augmentation of `n` clips.

    Args:
        policy: any of color, translation and cutout, separated by commas, applied in the given order; "" for none.
        n: number of clips.
        generator: CPU generator, the only source of randomness.

    Raises:
        ValueError: a name is unknown or repeated.
    """
    names = [name.strip() for name in policy.split(",")] if policy else []
    unknown = [name for name in names if name not in _POLICIES]
    if unknown or len(set(names)) != len(names):
        raise ValueError(f"--aug takes each of {', '.join(_POLICIES)} at most once, got {policy!r}.")
    sizes = {op: size for name in names for op, size in _POLICIES[name].items()}
    return AugmentDraw({op: torch.rand([n, size], generator=generator) for op, size in sizes.items()})


def apply_augment(frames: Tensor, draw: AugmentDraw) -> Tensor:
    """Augment frames differentiably.

    Args:
        frames: `[N, T, C, H, W]` float.
        draw: random numbers of N clips, on the device of the frames.

    Returns:
        `[N, T, C, H, W]`.
    """
    for uniform in draw.uniforms.values():
        if len(uniform) != len(frames):
            raise ValueError(f"the augmentation was drawn for {len(uniform)} clips, but the batch has {len(frames)}.")
    for uniforms in _split_at_color(draw.uniforms):
        frames = _augment_at_once(frames, uniforms)
    return frames


def augment_motion_input(clip: Tensor, draw: AugmentDraw) -> Tensor:
    """Augment the two frames in the motion discriminator's input `[N, 7, H, W]`; the time plane stays unchanged."""
    frames = apply_augment(clip[:, :6].unflatten(1, (2, 3)), draw)
    return torch.cat([frames.flatten(1, 2), clip[:, 6:]], dim=1)


def _split_at_color(uniforms: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """Split the operations into groups that one call can apply: a single group unless color is between the others."""
    names = list(uniforms)
    color = [position for position, name in enumerate(names) if name in _AMOUNTS]
    cut = color[-1] + 1 if color and color[0] > 0 else len(names)
    return [{name: uniforms[name] for name in group} for group in (names[:cut], names[cut:]) if group]


def _augment_at_once(frames: Tensor, uniforms: dict[str, Tensor]) -> Tensor:
    """Apply operations in order in one call; those of color must be the first or the last."""
    names, sides = list(uniforms), frames.shape[3:]
    amounts = {name: _AMOUNTS[name](u[:, 0]) for name, u in uniforms.items() if name in _AMOUNTS}
    translation = cutout = None
    if "translation" in uniforms:
        limits = [int(side * _TRANSLATION + 0.5) for side in sides]
        translation = -_integers(uniforms["translation"], [(-limit, limit + 1) for limit in limits])
    squares = [int(side * _CUTOUT + 0.5) for side in sides]
    if "cutout" in uniforms:
        ranges = [(-(cut // 2), side + 1 - cut % 2 - cut // 2) for side, cut in zip(sides, squares, strict=True)]
        cutout = _integers(uniforms["cutout"], ranges)
        if translation is not None and names.index("cutout") < names.index("translation"):
            cutout = cutout + translation  # the square moves with the frame
    return fi.augment(
        frames,
        **amounts,
        translation=translation,
        cutout=cutout,
        cutout_size=(squares[0], squares[1]),
        color_last=names[0] not in _AMOUNTS,
    )


def _integers(uniforms: Tensor, ranges: list[tuple[int, int]]) -> Tensor:
    """Map uniform numbers `[N, K]` in [0, 1) to integers in the half-open range of each of the K columns."""
    columns = []
    for uniform, (first, end) in zip(uniforms.unbind(1), ranges, strict=True):
        offsets = (uniform * (end - first)).long().clamp(max=end - first - 1)  # the product may round up
        columns.append(offsets + first)
    return torch.stack(columns, dim=1)
