"""One number for two sets of clips: features in bounded batches, shared among processes, real ones cached."""

from __future__ import annotations

import functools
import hashlib
import json
import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from typing import Protocol as Interface

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from digan.errors import MetricError
from digan.files import atomic_path
from digan.metrics.features import Detector, Extractor, RandomFeatures
from digan.metrics.frechet import frechet_distance, kernel_distance
from digan.metrics.protocol import Protocol

Gather = Callable[[torch.Tensor], torch.Tensor]
Progress = Callable[[int, int], None]


class Source(Interface):
    """A set of clips. `batch` may be asked for any indices below the length, in any order."""

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Clips as uint8 [n,T,3,H,W], T the frames of the protocol."""
        ...


def compute(
    protocol: str | Protocol,
    reals: Source | Sequence[torch.Tensor] | torch.Tensor,
    fakes: Source | Sequence[torch.Tensor] | torch.Tensor,
    *,
    detector: Extractor | str | Path | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    batch: int = 16,
    progress: Progress | None = None,
    cache: str | Path | None = None,
    cache_key: str | None = None,
    rank: int = 0,
    world: int = 1,
    gather: Gather | None = None,
) -> dict[str, Any]:
    """Compute a metric, in every process the same.

    protocol: a name such as "fvd2048_16f", or what `parse` made of it.
    reals, fakes: a Source, a sequence of uint8 clips [T,3,H,W], or one tensor [N,T,3,H,W]. T is the protocol's number
        of frames, of which every subsample-th is looked at; a source that makes only those says so by an attribute
        `frame_indices` equal to the protocol's. From a set larger than the protocol asks for, that many clips are
        drawn with `seed`; a smaller one is used whole, which the counts in the result show.
    detector: for FVD and KVD, the path of the I3D file or a Detector; ignored by rfvd.
    seed: of the draw; a trial of a repeated measurement is a seed.
    batch: clips in memory at a time.
    progress: called with (clips done, clips to do) of this process.
    cache, cache_key: a folder in which the features of the reals are kept, and a name for their content; whoever
        changes the data, its resolution or the choice of windows must change the key.
    rank, world, gather: this process takes every world-th clip; `gather` concatenates a tensor of equal shape from
        all processes along the first axis, in the order of ranks (as `Accelerator.gather` does).

    Returns {"metric", "value", "n_real", "n_fake", "features", "seed", "seconds"}. Raises MetricError.
    """
    start = time.perf_counter()
    protocol = Protocol.parse(protocol)
    if world > 1 and gather is None:
        raise MetricError(f"{protocol.name} over {world} processes needs a function that gathers features")
    if (cache is None) != (cache_key is None):
        raise MetricError("cached features need both, a folder (cache) and a name for the data (cache_key)")
    extractor = _extractor(protocol, detector, torch.device(device))
    sets = [_Clips(name, clips, protocol, seed) for name, clips in (("real", reals), ("fake", fakes))]
    share = _Share(extractor, torch.device(device), batch, rank, world, gather, progress)

    path = None if cache is None else _cache_path(Path(cache), cache_key, sets[0], extractor)
    real_features = share.agreed(_read_cache(path))
    share.total = sum(len(range(rank, len(s.chosen), world)) for s in sets[real_features is not None :])
    if real_features is None:
        real_features = share.features(sets[0])
        if path is not None and rank == 0:
            with atomic_path(path) as temporary:
                temporary.write_bytes(save({"features": real_features}))
    fake_features = share.features(sets[1])

    distance = kernel_distance if protocol.kind == "kvd" else frechet_distance
    with warnings.catch_warnings():
        if rank != 0:  # one warning is enough
            warnings.simplefilter("ignore")
        value = distance(real_features, fake_features)
    return {
        "metric": protocol.name,
        "value": value,
        "n_real": len(real_features),
        "n_fake": len(fake_features),
        "features": extractor.name,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 3),
    }


def append_result(folder: str | Path, result: dict[str, Any], **context: Any) -> Path:
    """Append a result, with `context` (JSON values) added, as one line to `folder`/metric-<name>.jsonl."""
    path = Path(folder) / f"metric-{result['metric']}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps({**result, **context}) + "\n")
    return path


def _extractor(protocol: Protocol, detector: Extractor | str | Path | None, device: torch.device) -> Extractor:
    if not protocol.needs_detector:
        return RandomFeatures(device)
    if detector is None:
        raise MetricError(
            f"{protocol.name} needs the TorchScript I3D file: give it with --detector FILE, or use "
            f"rfvd{protocol.count}_{protocol.frames}f, which needs no file"
        )
    if isinstance(detector, (str, Path)):
        return _load_detector(str(detector), device)
    return detector


# A training run computes several metrics at every snapshot with one file.
_load_detector = functools.lru_cache(maxsize=1)(Detector)


class _Clips:
    """The clips of one side, checked: `chosen` are the indices that the protocol looks at, in order."""

    def __init__(self, name: str, clips: Source | Sequence[torch.Tensor], protocol: Protocol, seed: int) -> None:
        self.name, self.protocol, self._clips = name, protocol, clips
        total = len(clips)
        if total < 2:
            raise MetricError(f"{protocol.name} needs at least 2 {name} clips, there are {total}")
        if total > protocol.count:
            drawn = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[: protocol.count]
            self.chosen = drawn.sort().values.tolist()
        else:
            self.chosen = list(range(total))
        self._subsampled = getattr(clips, "frame_indices", None) == protocol.frame_indices

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


class _Share:
    """This process's part of the work, and the exchange with the others."""

    def __init__(
        self,
        extractor: Extractor,
        device: torch.device,
        batch: int,
        rank: int,
        world: int,
        gather: Gather | None,
        progress: Progress | None,
    ) -> None:
        self.extractor, self.device, self.batch, self.rank, self.world = extractor, device, batch, rank, world
        self._gather, self._progress = gather, progress
        self.done = self.total = 0

    def features(self, clips: _Clips) -> torch.Tensor:
        """Features of all chosen clips, float32 [n,F] on the CPU, in order, in every process."""
        count = len(clips.chosen)
        own = clips.chosen[self.rank :: self.world]
        parts = []
        for first in range(0, len(own), self.batch):
            indices = own[first : first + self.batch]
            parts.append(self.extractor(clips.batch(indices)).to(self.device, torch.float32))
            self.done += len(indices)
            if self._progress is not None:
                self._progress(self.done, self.total)
        width = self.extractor.dim
        features = torch.cat(parts) if parts else torch.zeros(0, width, device=self.device)
        if self.world == 1:
            return features.cpu()
        # Equal shapes in every process, also in those that got one clip less or, with few clips, none.
        longest = -(-count // self.world)
        padded = torch.zeros(longest, width, device=self.device)
        padded[: len(own)] = features
        gathered = self._gather(padded).view(self.world, longest, width)  # clip i is at [i % world, i // world]
        return gathered.transpose(0, 1).reshape(-1, width)[:count].cpu()

    def agreed(self, cached: torch.Tensor | None) -> torch.Tensor | None:
        """The cached features if every process found them: else all would not take part in the same exchanges."""
        if self.world == 1:
            return cached
        found = torch.tensor([int(cached is not None)], device=self.device)
        return cached if self._gather(found).min() == 1 else None


def _cache_path(folder: Path, key: str, clips: _Clips, extractor: Extractor) -> Path:
    identity = [key, extractor.name, clips.protocol.frames, clips.protocol.subsample, clips.chosen]
    digest = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:20]
    return folder / f"{extractor.name}-{len(clips.chosen)}-{digest}.safetensors"


def _read_cache(path: Path | None) -> torch.Tensor | None:
    """Cached features, or None where there are none or the file is damaged, in which case they are made again."""
    if path is None or not path.is_file():
        return None
    try:
        with safe_open(path, "pt") as file:
            return file.get_tensor("features")
    except (SafetensorError, OSError):
        return None
