"""How far rendered clips are from a given one: a pyramid of L1, and a perceptual distance that the user supplies."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from digan.errors import ConfigError, memory_sign

Perceptual = Callable[[Tensor, Tensor], Tensor]  # (x, y), each [n, 3, H, W] in [-1, 1] -> distances [n]
_SMALLEST = 8  # pixels per side of the coarsest level


class ClipLoss:
    """The distance of clips to a given clip, for each clip on its own.

    At every level of a pyramid, in which each level has half the pixels per side of the one before, it is the mean
    absolute difference of the pixels and, times `edges`, of the differences between neighbouring pixels. The levels are
    averaged. Coarse levels attract shapes that do not overlap yet. A further term, times `changes`, compares what
    moves: the pixels minus their mean over time. Without it, searches tend to settle on the mean frame.

    A value of the clip at an end of [-1, 1] may have been cut off there, so that values beyond are as good.

    Args:
        clip: float [T, 3, H, W] in [-1, 1].
        edges: weight of the differences between neighbouring pixels.
        changes: weight of what changes over time.
        perceptual: a further distance between frames; None for none.
        perceptual_weight: its weight.
    """

    def __init__(
        self,
        clip: Tensor,
        edges: float = 1.0,
        changes: float = 1.0,
        perceptual: Perceptual | None = None,
        perceptual_weight: float = 1.0,
    ) -> None:
        self.clip, self.edges, self.changes = clip, edges, changes
        self.perceptual, self.perceptual_weight = perceptual, perceptual_weight

    def at_frames(self, frames: list[int]) -> ClipLoss:
        """Return the same loss for some frames of the clip."""
        return ClipLoss(self.clip[frames], self.edges, self.changes, self.perceptual, self.perceptual_weight)

    def __call__(self, clips: Tensor) -> Tensor:
        """Return the distance of each clip, float32 [N], for clips [N, T, 3, H, W]."""
        n = len(clips)
        # Averaging and differences are linear, so the pyramid of the error is the error of the pyramids.
        error = self._error(clips.float())
        levels = list(_pyramid(error.flatten(1, 2)))  # each [N, 3T, h, w]
        loss = torch.stack([self._level(level) for level in levels]).mean(dim=0)
        loss = loss + self.changes * (error - error.mean(dim=1, keepdim=True)).abs().mean(dim=(1, 2, 3, 4))
        if self.perceptual is not None:
            originals = self.clip.expand_as(error)
            distances = self.perceptual((originals + error).flatten(0, 1), originals.flatten(0, 1))  # [N T]
            loss = loss + self.perceptual_weight * distances.view(n, -1).mean(dim=1)
        return loss

    def _error(self, clips: Tensor) -> Tensor:
        error = clips - self.clip
        error = torch.where(self.clip >= 1, error.clamp(max=0), error)
        return torch.where(self.clip <= -1, error.clamp(min=0), error)

    def _level(self, error: Tensor) -> Tensor:
        edges = sum(error.diff(dim=dim).abs().mean(dim=(1, 2, 3)) for dim in (-2, -1))
        return error.abs().mean(dim=(1, 2, 3)) + self.edges * edges


def _pyramid(x: Tensor) -> Iterator[Tensor]:
    """Yield [N, C, H, W], then its averages over 2x2 pixels, over 4x4 pixels, and so on."""
    yield x
    while min(x.shape[-2:]) >= 2 * _SMALLEST:
        x = F.avg_pool2d(x, 2)
        yield x


def load_perceptual(path: Path, resolution: int, device: torch.device) -> Perceptual:
    """Load a perceptual distance, such as LPIPS, and try it.

    The file is a TorchScript module, called as `module(x, y)` on the rendered and the original frames, each float32
    [n, 3, H, W] in [-1, 1] (rendered ones may lie slightly outside). It returns n distances, as [n] or [n, 1, 1, 1],
    differentiable in x; 0 for equal frames.

    Args:
        path: the file.
        resolution: H and W of the frames.
        device: where it runs.

    Raises:
        ConfigError: the file cannot be loaded or is not such a module.
    """
    if not path.is_file():
        raise ConfigError(f"--perceptual {path} does not exist: give a TorchScript file.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of TorchScript, the format of published metrics
            module = torch.jit.load(str(path), map_location=device).eval()
    except RuntimeError as error:
        if memory_sign(error):
            raise
        raise ConfigError(f"--perceptual {path} is not a TorchScript file: save it with torch.jit.save.") from None
    for parameter in module.parameters():
        parameter.requires_grad_(False)

    def distances(x: Tensor, y: Tensor) -> Tensor:
        return module(x, y).float().view(len(x))

    probe = torch.zeros(2, 3, resolution, resolution, device=device, requires_grad=True)
    try:
        differentiable = distances(probe, torch.full_like(probe, 0.5)).requires_grad
    except (RuntimeError, AttributeError) as error:
        if memory_sign(error):
            raise
        reason = str(error).strip().splitlines()[-1].rstrip(".")
        raise ConfigError(
            f"--perceptual {path} fails on two pairs of frames of {resolution}x{resolution} pixels ({reason}): it must "
            "map (x, y), each [n, 3, H, W], to n distances."
        ) from None
    if not differentiable:
        raise ConfigError(f"--perceptual {path} is not differentiable: save it without torch.no_grad.")
    return distances
