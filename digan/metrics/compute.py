"""Computing a metric of two sets of clips: one value, or mean and standard deviation over trials."""

from __future__ import annotations

import importlib.metadata
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch

from digan.errors import MetricError
from digan.metrics.clip_sets import ClipSet, ClipsLike
from digan.metrics.detectors import detector_files, load_detector, missing_detector
from digan.metrics.distances import frechet_distance, kernel_distance
from digan.metrics.extraction import Drawn, Extraction, Gather, ProgressCallback
from digan.metrics.features import Extractor, RandomFeatures
from digan.metrics.inception_score import inception_score
from digan.metrics.protocol import MetricProtocol
from digan.run_dir import append_record, metric_path

Detectors = Extractor | str | Path | Mapping[str, Extractor | str | Path]


def compute(
    protocol: str | MetricProtocol,
    reals: ClipsLike | None,
    fakes: ClipsLike | Callable[[int], ClipsLike],
    *,
    detector: Detectors | None = None,
    device: torch.device | str = "cpu",
    seed: int = 0,
    trials: int | None = None,
    splits: int = 10,
    batch: int = 16,
    progress: ProgressCallback | None = None,
    cache: str | Path | None = None,
    cache_key: str | None = None,
    rank: int = 0,
    world: int = 1,
    gather: Gather | None = None,
) -> dict[str, Any]:
    """Compute a metric; every process returns the same value.

    Args:
        protocol: a name such as "fvd2048_16f", or a parsed `MetricProtocol`.
        reals: the real clips: a `ClipSource`, a sequence of uint8 clips [T, 3, H, W], or one tensor [N, T, 3, H, W]. T
            is the protocol's number of frames, of which every subsample-th is read; a source that provides only those
            has an attribute `frame_indices` equal to the protocol's. If the set is larger than the protocol asks for,
            a subset is drawn with `seed`; a smaller set is used whole, as the counts in the result show. None for an
            inception score, which uses the fakes only.
        fakes: the generated clips, in the same forms, or a function that makes such a set from a seed, so that every
            trial has new fakes; preferably a `ClipSource`, which generates clips batch by batch.
        detector: for metrics that need a file: its path, "KIND=path" as `detector_files` reads it, a `Detector`, or a
            mapping of kinds ("i3d", "c3d", "inception") to paths or detectors; ignored by rfvd.
        device: where features are computed.
        seed: seed of the subsets, of `fakes` if it is a function, and of the splits of an inception score.
        trials: number of measurements; trial k uses seed + k. Features of a clip that several trials use are computed
            once. None measures once and reports no deviation.
        splits: number of splits of an inception score.
        batch: clips in memory at a time.
        progress: called with this process's (clips done, clips to do).
        cache: folder for the features of the reals.
        cache_key: identifies the content of the reals in the cache; it must change whenever the data, its resolution or
            the choice of windows changes.
        rank: index of this process, which takes clips rank, rank + world, rank + 2 world, ...
        world: number of processes.
        gather: concatenates tensors of equal shape from all processes along the first axis, in the order of ranks (as
            `Accelerator.gather` does).

    Returns:
        {"metric", "better", "value", "n_real", "n_fake", "features", "seed", "seconds"}, where "better" is "smaller" or
        "larger", the direction in which the metric improves. With `trials`, "value" is the mean over trials, and there
        are "trials", "values" in order and "std", their sample standard deviation (divided by trials - 1; None for a
        single trial). An inception score also has "std_of_splits", the population standard deviation over splits,
        averaged over trials.

    Raises:
        MetricError: an option, a set of clips or the detector does not fit the protocol.
    """
    start = time.perf_counter()
    protocol = MetricProtocol.parse(protocol)
    _check_options(protocol, reals, trials, world, gather, cache, cache_key)
    device = torch.device(device)
    extractor = _extractor(protocol, detector, device)
    extraction = Extraction(extractor, protocol, device, batch, rank, world, gather, progress)
    seeds = range(seed, seed + (trials or 1))
    with warnings.catch_warnings():
        if rank != 0:  # warn in one process only
            warnings.simplefilter("ignore")
        real_side = None
        if protocol.needs_reals:
            real_side = Drawn(ClipSet("real", reals, protocol), seeds, extraction, cache, cache_key)
        fake_sides = _fake_sides(protocol, fakes, seeds, extraction)
        if len(seeds) > 1 and not any(side.varies for side in (real_side, *fake_sides) if side is not None):
            warnings.warn(
                f"all {trials} trials of {protocol.name} use the same clips, since no set has more than "
                f"{protocol.count} clips; their standard deviation is meaningless",
                stacklevel=2,
            )
        measured = []
        for trial in seeds:
            fake_side = fake_sides.pop(0)  # frees features of fakes that no later trial uses
            real_features = None if real_side is None else real_side.features(trial)
            measured.append(_measure(protocol, real_features, fake_side.features(trial), splits, trial))
    return {
        "metric": protocol.name,
        "better": protocol.better,
        **_summary(measured, trials),
        "n_real": 0 if real_side is None else real_side.count(seed),
        "n_fake": fake_side.count(trial),
        "features": extractor.name,
        "seed": seed,
        "seconds": round(time.perf_counter() - start, 3),
    }


def append_result(folder: str | Path, result: dict[str, Any], **context: Any) -> Path:
    """Append a result to `folder`/metric-<name>.jsonl, with package versions and `context` (JSON values).

    Returns:
        The path of the file.
    """
    path = metric_path(Path(folder), result["metric"])
    versions = {"digan": _version(), "torch": torch.__version__, "python": platform.python_version()}
    append_record(path, {**result, "versions": versions, **context})
    return path


def _version() -> str:
    try:
        return importlib.metadata.version("digan")
    except importlib.metadata.PackageNotFoundError:  # imported from a source tree
        return "not installed"


def _check_options(
    protocol: MetricProtocol,
    reals: ClipsLike | None,
    trials: int | None,
    world: int,
    gather: Gather | None,
    cache: str | Path | None,
    cache_key: str | None,
) -> None:
    if world > 1 and gather is None:
        raise MetricError(f"{protocol.name} over {world} processes needs `gather`, which collects their features")
    if (cache is None) != (cache_key is None):
        raise MetricError("cached features need both a folder (cache) and a name for the data (cache_key)")
    if trials is not None and trials < 1:
        raise MetricError(f"--trials {trials} must be at least 1")
    if protocol.needs_reals and reals is None:
        raise MetricError(f"{protocol.name} compares with real clips; give them with --data")


def _extractor(protocol: MetricProtocol, detector: Detectors | None, device: torch.device) -> Extractor:
    kind = protocol.detector
    if kind is None:
        return RandomFeatures(device)
    if detector is None:
        raise missing_detector(protocol)
    if isinstance(detector, (str, Path)):
        detector = detector_files([detector], [protocol])
    if isinstance(detector, Mapping):
        if kind not in detector:
            raise missing_detector(protocol)
        detector = detector[kind]
    if isinstance(detector, (str, Path)):
        return load_detector(str(detector), device, kind)
    actual = getattr(detector, "kind", kind)
    if actual != kind:
        raise MetricError(f"{protocol.name} needs a detector of kind {kind}, not {actual}: {detector.name}")
    return detector


def _fake_sides(
    protocol: MetricProtocol,
    fakes: ClipsLike | Callable[[int], ClipsLike],
    seeds: Sequence[int],
    extraction: Extraction,
) -> list[Drawn]:
    """Return one side per trial: the same set for all, or new fakes for each."""
    if hasattr(fakes, "__len__"):
        return [Drawn(ClipSet("fake", cast(ClipsLike, fakes), protocol), seeds, extraction)] * len(seeds)
    return [Drawn(ClipSet("fake", fakes(seed), protocol), [seed], extraction) for seed in seeds]


def _measure(
    protocol: MetricProtocol, reals: torch.Tensor | None, fakes: torch.Tensor, splits: int, seed: int
) -> tuple[float, float | None]:
    """Return the value of one trial, and for an inception score its standard deviation over splits."""
    if protocol.kind == "isv":
        return inception_score(fakes, splits, seed)
    distance = kernel_distance if protocol.kind == "kvd" else frechet_distance
    return distance(reals, fakes), None


def _summary(measured: Sequence[tuple[float, float | None]], trials: int | None) -> dict[str, Any]:
    values, deviations = map(list, zip(*measured, strict=True))
    summary: dict[str, Any] = {"value": statistics.fmean(values)}
    if trials is not None:
        summary["std"] = statistics.stdev(values) if trials > 1 else None
        summary |= {"values": values, "trials": trials}
    if deviations[0] is not None:
        summary["std_of_splits"] = statistics.fmean(deviations)
    return summary
