"""Features of many clips: in bounded batches, shared among processes, kept between runs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from digan.files import atomic_path
from digan.metrics.clip_sets import ClipSet
from digan.metrics.features import Extractor
from digan.metrics.protocol import Protocol

Gather = Callable[[torch.Tensor], torch.Tensor]
Progress = Callable[[int, int], None]


class Extraction:
    """One process's part of the features of a metric, and the exchange with the others; arguments as of `compute`."""

    def __init__(
        self,
        extractor: Extractor,
        protocol: Protocol,
        device: torch.device,
        batch: int,
        rank: int,
        world: int,
        gather: Gather | None,
        progress: Progress | None,
    ) -> None:
        self.extractor, self.protocol = extractor, protocol
        self._device, self._batch, self._rank, self._world = device, batch, rank, world
        self._gather, self._progress = gather, progress
        times = (len(protocol.frame_indices),) if getattr(extractor, "per_frame", False) else ()
        self._shape = (*times, extractor.dim)  # of the features of a clip
        self._done = self._total = 0

    def expect(self, clips: int) -> None:
        """Announces clips of all processes together, for the total that `progress` is told."""
        self._total += len(range(self._rank, clips, self._world))

    def features(self, clips: ClipSet, indices: Sequence[int]) -> torch.Tensor:
        """Features of these clips, float32 [n,F] or [n,T',F] of single frames, on the CPU, in every process."""
        own = indices[self._rank :: self._world]
        # Equal shapes in every process, also in those that got one clip less or, with few clips, none.
        features = torch.zeros(-(-len(indices) // self._world), *self._shape, device=self._device)
        for first in range(0, len(own), self._batch):
            part = own[first : first + self._batch]
            features[first : first + len(part)] = self.extractor(clips.batch(part))
            self._done += len(part)
            if self._progress is not None:
                self._progress(self._done, self._total)
        if self._world == 1:
            return features.cpu()
        gathered = self._gather(features).view(self._world, *features.shape)  # clip i is at [i % world, i // world]
        return gathered.transpose(0, 1).flatten(0, 1)[: len(indices)].cpu()

    def kept(self, path: Path | None) -> torch.Tensor | None:
        """The features in a file if every process finds them: else all would not take part in the same exchanges."""
        features = _read(path)
        if self._world == 1 or path is None:
            return features
        found = torch.tensor([int(features is not None)], device=self._device)
        return features if self._gather(found).min() == 1 else None

    def keep(self, path: Path, features: torch.Tensor) -> None:
        """Writes features for `kept`, in the first process."""
        if self._rank == 0:
            with atomic_path(path) as temporary:
                temporary.write_bytes(save({"features": features.contiguous()}))


class Drawn:
    """What the trials of these seeds draw from one set. A clip that several of them draw is looked at once.

    cache, key: as of `compute`; without them nothing is kept.
    """

    def __init__(
        self,
        clips: ClipSet,
        seeds: Iterable[int],
        extraction: Extraction,
        cache: str | Path | None = None,
        key: str | None = None,
    ) -> None:
        self._clips, self._extraction = clips, extraction
        self._draws = {seed: clips.draw(seed) for seed in seeds}
        self._needed = sorted(set().union(*self._draws.values()))
        self._path = None if cache is None else self._cache_path(Path(cache), key)
        self._features = extraction.kept(self._path)
        if self._features is None:
            extraction.expect(len(self._needed))

    @property
    def varies(self) -> bool:
        """Whether different clips are looked at: other ones in every trial, or a set made for this trial alone."""
        return len(self._draws) == 1 or len(set(map(tuple, self._draws.values()))) > 1

    def count(self, seed: int) -> int:
        """Clips that the trial of this seed looks at."""
        return len(self._draws[seed])

    def features(self, seed: int) -> torch.Tensor:
        """Of the trial of this seed: float32 [n,F], n its clips, or all their frames where features are of frames."""
        if self._features is None:
            self._features = self._extraction.features(self._clips, self._needed)
            if self._path is not None:
                self._extraction.keep(self._path, self._features)
        rows = torch.searchsorted(torch.tensor(self._needed), torch.tensor(self._draws[seed]))
        return self._features[rows].flatten(0, -2)

    def _cache_path(self, folder: Path, key: str | None) -> Path:
        # Everything that the features depend on is in the name.
        name, protocol = self._extraction.extractor.name, self._extraction.protocol
        identity = [key, name, protocol.frames, protocol.subsample, self._needed]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20]
        return folder / f"{name}-{len(self._needed)}-{digest}.safetensors"


def _read(path: Path | None) -> torch.Tensor | None:
    """Kept features, or None where there are none or the file is damaged, in which case they are made again."""
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("features")
    except (SafetensorError, OSError):
        return None
