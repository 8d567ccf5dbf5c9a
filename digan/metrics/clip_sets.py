"""The two sides of a metric, sets of real and of generated clips, and the clips that a trial uses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch

from digan.errors import MetricError
from digan.metrics.protocol import MetricProtocol


class ClipSource(Protocol):
    """A set of clips; `batch` accepts any indices below the length, in any order."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Return clips as uint8 [n, T, 3, H, W], where T is the protocol's number of frames."""
        ...


ClipsLike = ClipSource | Sequence[torch.Tensor] | torch.Tensor


class ClipSet:
    """The clips of one side, checked as they are read.

    Args:
        name: "real" or "fake", for error messages.
        clips: a ClipSource, a sequence of clips or a tensor, as `compute` takes them.
        protocol: the metric.

    Raises:
        MetricError: there are fewer than 2 clips.
    """

    def __init__(self, name: str, clips: ClipsLike, protocol: MetricProtocol) -> None:
        self.name, self.protocol, self._clips = name, protocol, clips
        if len(clips) < 2:
            raise MetricError(f"{protocol.name} needs at least 2 {name} clips, there are {len(clips)}")
        self._subsampled = getattr(clips, "frame_indices", None) == protocol.frame_indices

    @property
    def larger(self) -> bool:
        """Whether there are more clips than the protocol asks for, so that a random subset is drawn."""
        return len(self._clips) > self.protocol.count

    def draw(self, seed: int) -> list[int]:
        """Return the sorted indices of the clips of the trial with this seed: a random subset if the set is larger."""
        total = len(self._clips)
        if not self.larger:
            return list(range(total))
        drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[: self.protocol.count]
        return drawn.sort().values.tolist()

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Return clips as uint8 [n, T', 3, H, W], where T' is the number of frames that the protocol reads.

        Raises:
            MetricError: the clips have another shape or type.
        """
        if hasattr(self._clips, "batch"):
            clips = self._clips.batch(indices)
        else:
            clips = torch.stack([torch.as_tensor(self._clips[i]) for i in indices])
        frames = len(self.protocol.frame_indices) if self._subsampled else self.protocol.frames
        expected = (len(indices), frames, 3)
        if clips.ndim != 5 or clips.shape[:3] != expected or clips.dtype != torch.uint8:
            raise MetricError(
                f"{self.protocol.name} needs {self.name} clips as uint8 {[*expected, 'H', 'W']}, "
                f"not {clips.dtype} {list(clips.shape)}"
            )
        return clips if self._subsampled else clips[:, :: self.protocol.subsample]
