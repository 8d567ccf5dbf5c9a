"""Features of many clips: computed in bounded batches, distributed over processes, and cached between runs."""

from __future__ import annotations

import hashlib
import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import torch

from digan.metrics.clip_sets import ClipSet
from digan.metrics.features import Extractor
from digan.metrics.protocol import MetricProtocol
from digan.tensor_files import DamagedFile, read_tensors, write_tensors

Gather = Callable[[torch.Tensor], torch.Tensor]
ProgressCallback = Callable[[int, int], None]


class Extraction:
    """Compute this process's share of a metric's features and gather all of them; arguments as for `compute`."""

    def __init__(
        self,
        extractor: Extractor,
        protocol: MetricProtocol,
        device: torch.device,
        batch: int,
        rank: int,
        world: int,
        gather: Gather | None,
        progress: ProgressCallback | None,
    ) -> None:
        self.extractor, self.protocol = extractor, protocol
        self._device, self._batch, self._rank, self._world = device, batch, rank, world
        self._gather, self._progress = gather, progress
        times = (len(protocol.frame_indices),) if getattr(extractor, "per_frame", False) else ()
        self._shape = (*times, extractor.dim)  # of the features of a clip
        self._done = self._total = 0

    def expect(self, clips: int) -> None:
        """Add clips, counted over all processes, to the total that is reported to `progress`."""
        self._total += len(range(self._rank, clips, self._world))

    def features(self, clips: ClipSet, indices: Sequence[int]) -> torch.Tensor:
        """Return the features of these clips on the CPU, float32 [n, F], or [n, T', F] of single frames.

        Every process returns all of them.
        """
        own = indices[self._rank :: self._world]
        # Shapes must be equal in all processes, although some have one clip less or none.
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
        """Return the features in a file, or None unless every process can read it.

        The processes must agree, since all of them or none take part in gathering features.
        """
        features = _read(path)
        if self._world == 1 or path is None:
            return features
        readable = torch.tensor([int(features is not None)], device=self._device)
        return features if self._gather(readable).min() == 1 else None

    def keep(self, path: Path, features: torch.Tensor) -> None:
        """Write features for `kept`, in the first process only."""
        if self._rank == 0:
            try:
                write_tensors(path, {"features": features}, {"name": path.stem})
            except OSError as error:
                warnings.warn(f"features are not kept in {path}: {error.strerror}", stacklevel=3)


class Drawn:
    """The clips that the trials of these seeds draw from one set; features of a clip drawn repeatedly are shared.

    Args:
        clips: the set.
        seeds: seeds of the trials.
        extraction: computes the features.
        cache: folder for features, as for `compute`; None caches nothing.
        key: identifies the content of the set in the cache.
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
        """Whether trials use different clips, because their draws differ or the set belongs to one trial only."""
        return len(self._draws) == 1 or len(set(map(tuple, self._draws.values()))) > 1

    def count(self, seed: int) -> int:
        """Return the number of clips of the trial with this seed."""
        return len(self._draws[seed])

    def features(self, seed: int) -> torch.Tensor:
        """Return the features of the trial with this seed.

        Returns:
            float32 [n, F], where n counts its clips, or the frames of all its clips if features are per frame.
        """
        if self._features is None:
            self._features = self._extraction.features(self._clips, self._needed)
            if self._path is not None:
                self._extraction.keep(self._path, self._features)
        rows = torch.searchsorted(torch.tensor(self._needed), torch.tensor(self._draws[seed]))
        return self._features[rows].flatten(0, -2)

    def _cache_path(self, folder: Path, key: str | None) -> Path:
        # The file name depends on everything that determines the features.
        name, protocol = self._extraction.extractor.name, self._extraction.protocol
        identity = [key, name, protocol.frames, protocol.subsample, self._needed]
        digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20]
        return folder / f"{name}-{len(self._needed)}-{digest}.safetensors"


def _read(path: Path | None) -> torch.Tensor | None:
    """Return cached features; None if there is no file, or it is damaged or of other features."""
    if path is None or not path.is_file():
        return None
    try:
        tensors, metadata = read_tensors(path)
    except (DamagedFile, OSError):
        return None
    return tensors.get("features") if metadata.get("name") == path.stem else None
