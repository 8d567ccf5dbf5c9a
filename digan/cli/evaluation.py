"""The evaluation of a network, or of two sets of videos: opens both sides, computes, prints and records the results."""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from digan import metrics
from digan.cli.terminal import ProgressBar, ResultTable
from digan.config import TrainConfig, flag
from digan.data import Clips, VideoIndex, choose, load_index
from digan.data.clips import content_key, cut_clips
from digan.data.index import CACHE_FOLDER
from digan.errors import ConfigError, DataError
from digan.files import checksum
from digan.metrics import ClipSource, Detector, MetricProtocol
from digan.metrics.experiments import EXPERIMENTS, PLAIN, Maker, Model
from digan.models.generator import Generator
from digan.models.hub import find_network
from digan.run_dir import is_run
from digan.wording import counted


class OnePerVideo:
    """One clip of each video that is long enough, drawn with the seed."""

    def __init__(self, clips: Clips, seed: int) -> None:
        self._clips = clips
        videos = clips.windows.index.videos
        self._chosen = choose(clips, len(videos) - clips.windows.too_short, seed)

    def __len__(self) -> int:
        return len(self._chosen)

    def batch(self, indices: Sequence[int]) -> torch.Tensor:
        """Return clips `[N, F, 3, R, R]` uint8."""
        return self._clips.batch([self._chosen[i] for i in indices])

    def labels(self) -> torch.Tensor:
        """Return the classes of the clips, int64 `[N]`."""
        return self._clips.labels()[torch.as_tensor(self._chosen)]


class Evaluation:
    """One run of the command: opens the network and the videos, then computes one result after the other."""

    def __init__(self, args: argparse.Namespace, accelerator: Accelerator) -> None:
        self.args, self.accelerator = args, accelerator
        self.experiment = EXPERIMENTS[args.experiment] if args.experiment else PLAIN
        self.network, g = self._open_network() if args.network else (None, None)
        self.clips_seen = g.metadata.get("clips_seen") if g else None
        self.recorded = recorded = g.metadata.get("data", {}) if g else {}
        self.span = args.frames or recorded.get("frames", TrainConfig.frames)
        names = (args.metrics or self.experiment.metric(self.span)).split(",")
        self.protocols = [metrics.parse(name.strip()) for name in names]
        self.detectors = self._detectors()
        self.run_folder = self._run_folder()
        self.outdir, self.cache = self._folders()

        self.split = args.split or recorded.get("split", TrainConfig.split)
        self.trained_stride = recorded.get("stride", args.stride or TrainConfig.stride)
        self.stride = args.stride or self.trained_stride
        self.overlap = recorded.get("overlap", TrainConfig.overlap) if args.overlap is None else args.overlap
        self.resize = args.resize or recorded.get("resize", TrainConfig.resize)
        self.reals, self.fakes = self._open_data(g)
        self.resolution = self._resolution(g)
        self.psi = 1.0 if args.psi is None else args.psi
        self.model = None if g is None else Model(g, self.span, self._labels(g), self.psi)

    def facts(self) -> dict[str, Any]:
        """Return what the processes must agree on, by flag: all options but paths, and digests of what these name."""
        places = ("config", "network", "data", "fake", "split_list", "detector", "outdir", "cache", "threads")
        sets = {"--data": self.reals, "--fake": self.fakes}
        return {
            **{flag(name): value for name, value in vars(self.args).items() if name not in places},
            "the digest of --network": self.network and _checksum(self.network),
            **{f"the videos of {name}": videos and videos.contents for name, videos in sets.items()},
            **{f"the file of --detector {kind}": detector.sha256 for kind, detector in self.detectors.items()},
        }

    def run(self) -> int:
        """Compute all results; print each and append it to its file. Return the exit status."""
        tasks = []
        for protocol in self.protocols:
            reals, key = self._real_clips(protocol)
            tasks.append((protocol, reals, key, self._rows(protocol, reals)))
        table = ResultTable([p.name for p in self.protocols], [name for *_, rows in tasks for name in rows])
        if self.main:
            print("\n".join(self._opening([(protocol, reals) for protocol, reals, *_ in tasks])), flush=True)
            table.print_head()
        for protocol, reals, key, rows in tasks:
            for name, fakes in rows.items():
                result = self._compute(protocol, reals, key, name, fakes)
                if self.main and result is not None:
                    self._record(protocol, name, result)
                    table.print_row(name, result)
        if self.main:
            print("\n".join(self._closing()), flush=True)
        return 0

    def _open_network(self) -> tuple[Path, Generator]:
        """Return the file of the network and the generator, on the device."""
        file = find_network(self.args.network, self.args.which)
        return file, Generator.from_pretrained(file).to(self.accelerator.device)

    def _compute(
        self, protocol: MetricProtocol, reals: ClipSource | None, key: str | None, name: str, fakes: Maker | ClipSource
    ) -> dict[str, Any] | None:
        """Return the result of a row; None if there is none."""
        accelerator = self.accelerator
        with ProgressBar(f"{protocol.name} {name}", shown=self.main) as progress:
            return metrics.compute(
                protocol,
                reals,
                fakes,
                detector=self.detectors,
                device=accelerator.device,
                seed=self.args.seed,
                trials=self.args.trials,
                batch=self.args.batch,
                progress=progress,
                cache=self.cache if key else None,
                cache_key=key,
                rank=accelerator.process_index,
                world=accelerator.num_processes,
                gather=accelerator.gather,
            )

    def _record(self, protocol: MetricProtocol, name: str, result: dict[str, Any]) -> None:
        """Append the result of a row to its file."""
        metrics.append_result(self.outdir, result, **self._context(protocol, name))

    def _closing(self) -> list[str]:
        """Return the lines that follow the table."""
        return [f"results appended to {self.outdir / 'metric-<name>.jsonl'}"]

    @property
    def main(self) -> bool:
        """Whether this is the main process."""
        return self.accelerator.is_main_process

    def _detectors(self) -> dict[str, Detector]:
        """Load the detectors of all metrics, keyed by kind, so that a wrong file is found before the first metric."""
        files = metrics.detector_files(self.args.detector or [], self.protocols)
        kinds = {p.detector for p in self.protocols if p.detector is not None}
        return {kind: Detector(files[kind], self.accelerator.device, kind) for kind in sorted(kinds)}

    def _run_folder(self) -> Path | None:
        """Return the folder of the run that the network belongs to, if any."""
        parents = [] if self.network is None else self.network.resolve().parents[:2]
        return next((folder for folder in parents if is_run(folder)), None)

    def _folders(self) -> tuple[Path, Path]:
        """Return the folder of results and that of indices and features, by default those of the network's run."""
        run = self.run_folder
        outdir = Path(self.args.outdir) if self.args.outdir else run or Path()
        cache = (run.parent if run and not self.args.outdir else outdir) / CACHE_FOLDER
        return outdir, Path(self.args.cache) if self.args.cache else cache

    def _open_data(self, g: Generator | None) -> tuple[VideoIndex | None, VideoIndex | None]:
        """Return the real videos, None without --data, and the fake videos, None with a network."""
        args = self.args
        need_reals = [p for p in self.protocols if p.needs_reals]
        if args.data is None and need_reals:
            raise ConfigError(f"{need_reals[0].name} compares with real videos: give them with --data DIR.")
        classes = g is not None and g.config.num_classes > 0 and args.labels is None
        reals = fakes = None
        if args.data is not None:
            options = dict(split=self.split, split_list=args.split_list, labels=classes)
            reals = load_index(args.data, self.cache, **options)
        if g is None:
            fakes = load_index(args.fake or args.data, self.cache, split=args.fake_split or self.split)
        return reals, fakes

    def _resolution(self, g: Generator | None) -> int:
        """Return the pixels per side at which clips are compared."""
        if g is None:
            sides = {side for v in self.fakes.videos for side in (v.width, v.height)}
            if self.args.resolution is None and len(sides) > 1:
                first = self.fakes.videos[0]
                raise ConfigError(
                    f"the fake videos are not squares of one size ({first.name} is {first.width}x{first.height}): set "
                    "the pixels per side of the comparison with --resolution."
                )
            return self.args.resolution or sides.pop()
        resolution = self.args.resolution or g.config.resolution * self.experiment.enlarge
        try:
            g.grid(resolution)
        except ValueError as error:
            raise ConfigError(f"--resolution {resolution}: {error}") from None
        return resolution

    def _labels(self, g: Generator) -> torch.Tensor | None:
        """Return --labels, the classes that the fakes cycle through; None for those of each protocol's real clips.

        Raises:
            ConfigError: they do not fit the network, or there are no real clips with its classes.
        """
        labels, classes = self.args.labels, g.config.num_classes
        if not classes:
            if labels:
                raise ConfigError(f"--labels: the network {self.network} has no classes; leave it out.")
            return None
        if labels:
            if max(labels) >= classes:
                raise ConfigError(f"--labels {max(labels)}: the network {self.network} has classes 0 to {classes - 1}.")
            return torch.tensor(labels)
        if self.reals is None:
            raise ConfigError(f"the network {self.network} has {classes} classes: select some with --labels.")
        folders, trained = self.reals.class_names, g.metadata.get("data", {}).get("class_names")
        if len(folders) != classes or (trained and trained != folders):
            raise ConfigError(
                f"the {len(folders)} class folders of --data {self.args.data} are not the {classes} classes of the "
                f"network {self.network}: give the videos that it was trained on, or class numbers with --labels."
            )
        return None

    def _rows(self, protocol: MetricProtocol, reals: Clips | OnePerVideo | None) -> Mapping[str, Maker | ClipSource]:
        """Return the fakes of each result, keyed by the result's name; `reals` are those that the protocol needs."""
        if self.model is not None:
            model = replace(self.model, labels=self._labels_of(protocol, reals))
            return self.experiment.rows(model, protocol, self.resolution)
        stride = self.args.fake_stride or (1 if self.args.fake else self.stride)
        return {"videos": self._chosen(self._cut(self.fakes, protocol, stride))[0]}

    def _labels_of(self, protocol: MetricProtocol, reals: Clips | OnePerVideo | None) -> torch.Tensor | None:
        """Return the classes that the fakes of a protocol cycle through: --labels, or those of its real clips."""
        if self.model.labels is not None or not self.model.g.config.num_classes:
            return self.model.labels
        return (reals or self._cut_reals(protocol)[0]).labels()

    def _real_stride(self, protocol: MetricProtocol) -> int:
        return max(1, round(self.stride * self.experiment.pace(self.span, protocol.frames)))

    def _real_pace(self, protocol: MetricProtocol) -> float:
        """Return the speed of motion in the real clips relative to the generated ones; 1 without a network."""
        if self.model is None:
            return 1.0
        step = self.trained_stride * self.experiment.pace(self.span, protocol.frames)
        return self._real_stride(protocol) / step

    def _real_clips(self, protocol: MetricProtocol) -> tuple[Clips | OnePerVideo | None, str | None]:
        """Return the real clips that a protocol needs and a cache key for their content; None if it needs none."""
        if not protocol.needs_reals:
            return None, None
        return self._cut_reals(protocol)

    def _cut_reals(self, protocol: MetricProtocol) -> tuple[Clips | OnePerVideo, str]:
        """Return the real clips for a protocol and a cache key for their content."""
        return self._chosen(self._cut(self.reals, protocol, self._real_stride(protocol)))

    def _cut(self, index: VideoIndex, protocol: MetricProtocol, stride: int) -> Clips:
        """Cut videos into all clips of the length that a protocol needs."""
        frames = protocol.frames
        longest = max(video.num_frames for video in index.videos)
        if frames * stride > longest:
            raise DataError(
                f"{protocol.name} needs clips of {counted(frames, 'frame')} at stride {stride}, which span "
                f"{counted(frames * stride, 'frame')}, but the longest of the {counted(len(index.videos), 'video')} in "
                f"{index.source.path} has {longest}: use a metric with fewer frames, or a smaller --stride."
            )
        return cut_clips(index, frames, stride, self.overlap, self.resolution, self.resize)

    def _chosen(self, clips: Clips) -> tuple[Clips | OnePerVideo, str]:
        """Apply --one-per-video; return the clips and a cache key for their content."""
        if not self.args.one_per_video:
            return clips, content_key(clips)
        return OnePerVideo(clips, self.args.seed), f"{content_key(clips)}-one-per-video-{self.args.seed}"

    def _opening(self, tasks: Sequence[tuple[MetricProtocol, ClipSource | None]]) -> list[str]:
        """Return lines that describe the comparison, given each metric's protocol and real clips."""
        size = f"{self.resolution}x{self.resolution} pixels"
        lines = [f"fakes, at {size}: {self._fakes_summary()}"]
        if self.reals is not None:
            lines.append(f"reals, at {size}: {self.reals.summary()}")
        for protocol, reals in tasks:
            if reals is not None:
                lines.append(f"{protocol.name}: {len(reals):,} real clips at stride {self._real_stride(protocol)}")
                pace = self._real_pace(protocol)
                if abs(pace - 1) > 0.1:
                    lines[-1] += f", {pace:.2g} times as fast as the generated clips, which also affects the value"
        return lines

    def _fakes_summary(self) -> str:
        return str(self.network) if self.fakes is None else self.fakes.summary()

    def _context(self, protocol: MetricProtocol, row: str) -> dict[str, Any]:
        """Return the settings to record with a result."""
        args = self.args
        context = {"row": row, "experiment": args.experiment, "protocol": asdict(protocol)}
        context |= {"resolution": self.resolution, "one_per_video": args.one_per_video}
        if self.reals is not None:
            context |= {"data": str(args.data), "split": self.reals.split, "data_fingerprint": self.reals.fingerprint}
            context |= {"stride": self._real_stride(protocol), "overlap": self.overlap, "resize": self.resize}
        if self.model is not None:
            context |= {"network": str(self.network), "network_sha256": _checksum(self.network), "span": self.span}
            context |= {"psi": self.psi, "labels": args.labels, "real_pace": self._real_pace(protocol)}
            if self.clips_seen is not None:
                context["clips"] = self.clips_seen
        else:
            context |= {"fake": str(args.fake or args.data), "fake_split": self.fakes.split}
            context |= {"fake_fingerprint": self.fakes.fingerprint}
        return context | {"time": datetime.now(UTC).isoformat(timespec="seconds")}


_checksum = functools.cache(checksum)  # of network files, which records of several metrics name
