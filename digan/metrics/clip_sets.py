"""The two sides of a metric: sets of clips, and which of them a trial looks at."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol as Interface

import torch

from digan.errors import MetricError
from digan.metrics.protocol import Protocol


class Source(Interface):
    """A set of clips. `batch` may be asked for any indices below the length, in any order."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Clips as uint8 [n,T,3,H,W], T the frames of the protocol."""
        ...


class ClipSet:
    """The clips of one side, checked as they are read.

    name: "real" or "fake", for the messages. clips: a Source, a sequence of clips or one tensor, as `compute` takes.
    """

    def __init__(self, name: str, clips: Source | Sequence[torch.Tensor], protocol: Protocol) -> None:
        self.name, self.protocol, self._clips = name, protocol, clips
        if len(clips) < 2:
            raise MetricError(f"{protocol.name} needs at least 2 {name} clips, there are {len(clips)}")
        self._subsampled = getattr(clips, "frame_indices", None) == protocol.frame_indices

    @property
    def larger(self) -> bool:
        """Whether there are more clips than the protocol asks for, so that they are drawn."""
        return len(self._clips) > self.protocol.count

    def draw(self, seed: int) -> list[int]:
        """The indices that the trial of this seed looks at, in order: all, unless there are more than it asks for."""
        total = len(self._clips)
        if not self.larger:
            return list(range(total))
        drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[: self.protocol.count]
        return drawn.sort().values.tolist()

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """uint8 [n,T',3,H,W], T' the frames that are looked at."""
        if hasattr(self._clips, "batch"):
            clips = self._clips.batch(indices)
        else:
            clips = torch.stack([torch.as_tensor(self._clips[i]) for i in indices])
        frames = len(self.protocol.frame_indices) if self._subsampled else self.protocol.frames
        wanted = (len(indices), frames, 3)
        if clips.ndim != 5 or clips.shape[:3] != wanted or clips.dtype != torch.uint8:
            raise MetricError(
                f"{self.protocol.name} needs {self.name} clips as uint8 {[*wanted, 'H', 'W']}, "
                f"not {clips.dtype} {list(clips.shape)}"
            )
        return clips if self._subsampled else clips[:, :: self.protocol.subsample]
