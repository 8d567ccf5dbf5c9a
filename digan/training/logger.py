"""Output of a training run: the files in its folder, the log and the progress on the terminal."""

from __future__ import annotations

import errno
import json
import os
import re
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate.tracking import LoggerType, TensorBoardTracker, get_available_trackers
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from digan import metrics
from digan.config import TrainConfig
from digan.data import choose
from digan.data.clips import content_key
from digan.data.training_data import TrainingData
from digan.errors import ConfigError, DivergenceError, NetworkError, sentence
from digan.files import remove_drafts, write_atomic
from digan.models.generator import Generator
from digan.run_dir import (
    CHECKPOINTS,
    CONFIG,
    DIVERGED,
    SAMPLES,
    SNAPSHOTS,
    STATISTICS,
    append_record,
    clean,
    drop_records,
    is_own,
    list_metrics,
    list_runs,
    list_snapshots,
    mark_launch,
    metric_path,
    read_records,
    snapshot_number,
    snapshot_path,
)
from digan.run_results import own_context, refresh_best
from digan.sampling.grids import contact_sheet, video_grid
from digan.sampling.latents import clip_times, paced_times, seeded_latents
from digan.sampling.media import write_png, write_video
from digan.sampling.render import GeneratedClips, sample_clips
from digan.training import checkpoint, summary
from digan.training.curves import CurveWriter
from digan.training.distributed import COMPUTE_TYPES, wait_for_all
from digan.training.flops import forward_macs, matmul_peak, step_flops
from digan.training.launch import launch_identity
from digan.training.trainer import Trainer

SAMPLE_FPS = 8
_ABANDONED = 86400  # seconds after which a draft in the folder that all runs share belongs to a killed process


def make_run_dir(config: TrainConfig) -> Path:
    """Create `outdir/00000-<description>`, numbered after the existing runs, and return its path.

    Raises:
        ConfigError: the folder cannot be created.
    """
    subject = config.cfg or Path(config.data or "").stem
    parts = [subject, f"{config.resolution}x{config.frames}", f"batch{config.batch}", config.desc]
    # No spaces, since the name is part of later commands, and no folders in between, where no command would find it.
    parts = [re.sub(r"[\s/\\]+", "-", part).strip("-") for part in parts]
    numbers = [int(p.name[:5]) for p in list_runs(config.outdir)]
    name = "-".join([f"{max(numbers, default=-1) + 1:05d}", *(p for p in parts if p)])
    folder = Path(config.outdir) / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise ConfigError(f"--outdir {config.outdir}: {folder} cannot be created: {error.strerror}.") from None
    return folder


def check_trackers(config: TrainConfig) -> None:
    """Check that accelerate can start every tracker.

    Raises:
        ConfigError: a tracker is unknown or its package is not installed.
    """
    missing = set(config.trackers()) - {tracker.value for tracker in get_available_trackers()}
    if missing:
        raise ConfigError(f"--report-to {min(missing)} is unknown to accelerate or its package is not installed.")


class Stopwatch:
    """A timer that leaves out the time spent inside `paused()`."""

    def __init__(self) -> None:
        self._pauses = 0
        self.restart()

    def restart(self) -> None:
        """Restart from zero."""
        self._started, self._paused = time.time(), 0.0

    def elapsed(self) -> float:
        """Return the seconds since the last restart, without pauses."""
        return time.time() - self._started - self._paused

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the timer inside the `with` block; blocks may be nested."""
        self._pauses += 1
        start = time.time()
        try:
            yield
        finally:
            self._pauses -= 1
            if not self._pauses:
                self._paused += time.time() - start


class RunLogger:
    """Writes the log, statistics, samples, snapshots and checkpoints of a training run. Only the main process writes.

    Args:
        folder: the run folder.
        trainer: the trainer; in a resumed run, with the counters of the checkpoint.
        data: the real clips, for the samples and the metrics.
    """

    def __init__(self, folder: Path, trainer: Trainer, data: TrainingData) -> None:
        self.folder, self.trainer, self.data = folder, trainer, data
        self.config, self.accelerator = trainer.config, trainer.accelerator
        self.is_main = self.accelerator.is_main_process
        self.total_clips = round(self.config.kimg * 1000)
        self.stopwatch = Stopwatch()
        self.peak = 0.0  # operations per second of the matrix product on all devices together
        self._clip_flops = 0.0
        self._started = time.time()
        self._clips_at_tick = self._clips_at_snapshot = trainer.clips_seen
        self._bar: tqdm | None = None
        self._curves = CurveWriter(folder, self.log)

    def start(self, notes: Sequence[str] = ()) -> None:
        """Measure the devices, write the configuration and the command, and drop records that will be written again.

        Args:
            notes: sentences for the log; empty ones are left out.

        Raises:
            ConfigError: the run folder cannot be written.
        """
        device = self.accelerator.device
        # All processes measure at the same time, as they do in training.
        peak = matmul_peak(device, COMPUTE_TYPES[self.accelerator.mixed_precision])
        self.peak = float(self.accelerator.reduce(torch.tensor(peak, device=device), "sum"))
        if device.type == "cuda":  # the largest product is not part of the run's memory
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats(device)
        if self.is_main:
            self._clip_flops = step_flops(forward_macs(self.config, self.data.num_classes)).weighted(self.config)
            try:
                self._prepare(notes)
            except OSError as error:
                why = sentence(error) or str(error)
                raise ConfigError(f"the run folder cannot be written: {why.rstrip('.')}.") from None
            if sys.stderr.isatty():
                clips = self.trainer.clips_seen
                self._bar = tqdm(total=self.total_clips, initial=clips, unit="clip", dynamic_ncols=True, smoothing=0.05)
            self._start_trackers()
        self.stopwatch.restart()

    def log(self, text: str) -> None:
        """Write a message to the terminal and to log.txt."""
        if self.is_main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
            self._append_to_log(text)

    def update(self) -> None:
        """Update the progress bar."""
        if self._bar is not None:
            self._bar.update(self.trainer.clips_seen - self._bar.n)

    def tick_due(self) -> bool:
        """Return whether a tick, or the run, has ended since the last tick was written."""
        return self._passed(self._clips_at_tick, round(self.config.tick * 1000))

    def snapshot_due(self) -> bool:
        """Return whether a snapshot interval, or the run, has ended since the last snapshot."""
        return self._passed(self._clips_at_snapshot, round(self.config.snap * self.config.tick * 1000))

    def tick(self) -> None:
        """Write the statistics since the last tick: mean losses, speed, memory, time elapsed and remaining.

        The speed excludes the time for samples, snapshots and metrics. Operations are counted as in
        `digan.training.flops`; the peak is that of the matrix product in the discriminators' compute type, measured
        when the run starts.
        """
        trainer = self.trainer
        losses = trainer.collect_statistics()  # waits for the device, so the time must be read afterwards
        seconds = self.stopwatch.elapsed()
        speed = (trainer.clips_seen - self._clips_at_tick) / max(seconds, 1e-9)
        missing = max(self.total_clips - trainer.clips_seen, 0)  # the last batch may go beyond
        remaining = missing / max(speed, 1e-9)
        self._clips_at_tick = trainer.clips_seen
        self.stopwatch.restart()
        if not self.is_main:
            return
        record = self._record(losses, speed)
        append_record(self.folder / STATISTICS, record)
        self.accelerator.log({k: v for k, v in record.items() if k != "clips"}, step=trainer.clips_seen)
        mean_losses = "  ".join(f"{k} {v:.3g}" for k, v in losses.items())
        line = (
            f"kimg {trainer.clips_seen / 1000:.2f}/{self.config.kimg:g}  {mean_losses}  "
            f"{summary.speed(record)}  {record['memory_gb']:.1f} GiB  elapsed {summary.clock(record['seconds'])}  "
            f"remaining {summary.clock(remaining)}"
        )
        if self._bar is None:
            self.log(line)
        else:
            self._bar.set_postfix_str(mean_losses)
            self._append_to_log(line)

    def write_reals(self) -> None:
        """Write real clips for comparison with the samples."""
        if self.is_main:
            with self.stopwatch.paused():
                indices = choose(self.data.clips, self.config.samples, self.config.seed)
                self._write_clips("reals", self.data.clips.batch(indices))

    def write_fakes(self, name: str | None = None) -> None:
        """Write samples of the averaged generator, with the same latents and times in every call.

        Args:
            name: base name of the files; None for `fakes` followed by the number of the snapshot.
        """
        if self.is_main:
            with self.stopwatch.paused():
                n, classes = self.config.samples, self.trainer.num_classes
                z_content, z_motion = seeded_latents(self.config.z_dim, self.config.seed, range(n))
                labels = torch.arange(n) % classes if classes else None
                times = clip_times(self.config.frames)
                clips = sample_clips(self.trainer.g_ema, z_content, z_motion, times, labels)
                self._write_clips(name or f"fakes{self._number()}", clips)

    def check_finite(self, networks: bool = False) -> None:
        """Stop the run if training diverged.

        Args:
            networks: also look at every value of the networks, before they are saved.

        Raises:
            DivergenceError: training diverged; the state is saved, and all checkpoints are still there.
        """
        problem = self.trainer.nonfinite.problem()
        if networks and not problem and (name := self.trainer.find_nonfinite()):
            problem = f"{name} is not finite at iteration {self.trainer.iteration}"
        if not problem:
            return
        folder = self.folder / DIVERGED
        if self.is_main:
            folder = self._save(DIVERGED, keep=1)
        message = f"training diverged: {problem}; lower --lr or raise --gamma in a new run. The state is in {folder}"
        if self.is_main:
            self._append_to_log(message)
        self._close()
        raise DivergenceError(f"{message}.")

    def snapshot(self) -> None:
        """Write the averaged generator, samples and a checkpoint, evaluate the metrics, and draw the curves."""
        self.check_finite(networks=True)
        trainer = self.trainer
        self._clips_at_snapshot = trainer.clips_seen
        with self.stopwatch.paused():
            path = snapshot_path(self.folder, self._number())
            if self.is_main:
                path.parent.mkdir(exist_ok=True)
                trainer.g_ema.save(path, clips_seen=trainer.clips_seen, data=self._data_facts())
            self.write_fakes()
            self._write_checkpoint()
            self.evaluate(trainer.g_ema, trainer.clips_seen, path.name)
            if self.is_main:
                self._curves.write()

    def save_checkpoint(self) -> None:
        """Write everything that resuming needs."""
        self.check_finite(networks=True)
        self._write_checkpoint()

    def _write_checkpoint(self) -> None:
        with self.stopwatch.paused():
            if self.is_main:
                self._save(CHECKPOINTS, self.config.checkpoints)
            wait_for_all(self.accelerator)

    def _save(self, folder: str, keep: int) -> Path:
        return checkpoint.save(self.trainer, self.folder / folder, asdict(self.config), keep, self.data.identity)

    def evaluate_missing(self) -> None:
        """Compute the metrics of the last snapshot that are missing because the run ended too early."""
        missing: list[Any] = [None, []]
        snapshots = list_snapshots(self.folder, until=self._number())
        if self.is_main and snapshots:
            names = [m for m in self.config.metric_names() if not self._has(m, snapshots[-1].name)]
            missing = [snapshots[-1], names]
        snapshot, names = broadcast_object_list(missing)
        if not names:
            return
        try:
            g = Generator.from_pretrained(snapshot).to(self.accelerator.device)
        except NetworkError as error:
            self.log(f"metrics of the last snapshot are missing and cannot be computed: {error}")
        else:
            self.evaluate(g, g.metadata["clips_seen"], snapshot.name, names)

    def evaluate(self, g: Generator, clips: int, snapshot: str, names: Sequence[str] | None = None) -> None:
        """Compute metrics of a generator and append them to their files.

        Args:
            g: the generator.
            clips: number of real clips that the generator has seen.
            snapshot: name of the generator in the records.
            names: the metrics; None for all metrics of the configuration.
        """
        with self.stopwatch.paused():
            for name in self.config.metric_names() if names is None else names:
                result = self._compute(g, name)
                if self.is_main:
                    metrics.append_result(self.folder, result, **own_context(clips, snapshot))
                    self.accelerator.log({name: result["value"]}, step=clips)
                    self.log(f"{name} {result['value']:.5g}  ({result['seconds']:.0f} s)")
            if self.is_main:
                refresh_best(self.folder)

    def finish(self) -> None:
        """Log where the results are, and close the progress bar and the trackers."""
        self.log(summary.end(self.folder, self.config, self.trainer.clips_seen))
        self._close()

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.close()
        self.accelerator.end_training()

    def _passed(self, before: int, interval: int) -> bool:
        clips = self.trainer.clips_seen
        return clips // interval > before // interval or clips >= self.total_clips

    def _prepare(self, notes: Sequence[str]) -> None:
        """Bring the files of the run folder to the state of the trainer's counters."""
        for folder in (self.folder / name for name in (SAMPLES, SNAPSHOTS, CHECKPOINTS)):
            if os.path.lexists(folder) and not folder.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, "it is not a folder; move it away", str(folder))
        launch = launch_identity()
        if launch is not None:
            mark_launch(self.folder, launch)
        for note in filter(None, notes):
            self.log(note)
        if drafts := clean(self.folder):
            self.log(f"removed {drafts} unfinished file(s) of an earlier process.")
        remove_drafts(self.data.cache, age=_ABANDONED)
        write_atomic(self.folder / CONFIG, json.dumps(asdict(self.config), indent=1))
        # One line for the start, one per resume; names that are no text keep their bytes.
        with open(self.folder / "command.sh", "a", encoding="utf-8", errors="surrogateescape") as file:
            file.write(f"accelerate launch {shlex.join(sys.argv)}\n")
        for path in (self.folder / STATISTICS, *list_metrics(self.folder).values()):
            drop_records(path, self.trainer.clips_seen, self.log)
        refresh_best(self.folder)

    def _append_to_log(self, text: str) -> None:
        with open(self.folder / "log.txt", "a", encoding="utf-8", errors="backslashreplace") as file:
            file.write(text + "\n")

    def _record(self, losses: dict[str, float], speed: float) -> dict[str, float]:
        """Return the record of a tick; `speed` in clips per second."""
        flops = speed * self._clip_flops
        record = {
            "clips": self.trainer.clips_seen,
            "iteration": self.trainer.iteration,
            **losses,
            "clips_per_second": speed,
            "tflops_per_second": flops / 1e12,
            "share_of_peak": flops / self.peak,
            "memory_gb": psutil.Process().memory_info().rss / 2**30,
            "seconds": time.time() - self._started,
            "started": self._started,
        }
        if self.accelerator.device.type == "cuda":
            record["gpu_memory_gb"] = torch.cuda.max_memory_allocated(self.accelerator.device) / 2**30
        return record

    def _compute(self, g: Generator, name: str) -> dict[str, Any]:
        protocol = metrics.parse(name)
        reals = self.data.clips_of(protocol.frames)
        fakes = GeneratedClips(
            g,
            protocol.count,
            paced_times(protocol.frames, self.config.frames),
            self.config.seed,
            reals.labels() if g.config.num_classes else None,
            frame_indices=protocol.frame_indices,
        )
        return metrics.compute(
            protocol,
            reals=reals,
            fakes=fakes,
            detector=self.config.detector,
            device=self.accelerator.device,
            seed=self.config.seed,
            progress=self._progress(name),
            cache=self.data.cache,
            cache_key=content_key(reals),
            rank=self.accelerator.process_index,
            world=self.accelerator.num_processes,
            gather=self.accelerator.gather,
        )

    def _number(self) -> str:
        return snapshot_number(self.trainer.clips_seen, self.config.batch)

    def _data_facts(self) -> dict[str, Any]:
        """Return the facts about the training data that a network file stores: how clips are cut, and the videos."""
        options = {name: getattr(self.config, name) for name in ("frames", "stride", "overlap", "resize", "split")}
        index = self.data.index
        return {**options, "fingerprint": index.fingerprint, "class_names": index.class_names}

    def _has(self, metric: str, snapshot: str) -> bool:
        records = read_records(metric_path(self.folder, metric))
        return any(is_own(record) and record.get("snapshot") == snapshot for record in records)

    def _progress(self, name: str) -> Callable[[int, int], None] | None:
        """Return a callback that shows the progress of a metric on the progress bar; None without a bar."""
        bar = self._bar
        if bar is None:
            return None
        return lambda done, total: bar.set_postfix_str(f"{name}: {done} of {total} clips")

    def _start_trackers(self) -> None:
        names = self.config.trackers()
        # TensorBoard's events belong in the run folder itself, not in a subfolder named after the project.
        events = [TensorBoardTracker("", logging_dir=str(self.folder))] if "tensorboard" in names else []
        self.accelerator.log_with = [*events, *(LoggerType(n) for n in names if n != "tensorboard")]
        # TensorBoard would store the configuration in a folder named after the current time: config.json is enough.
        options = {k: v for k, v in asdict(self.config).items() if isinstance(v, (int, float, str, bool))}
        self.accelerator.init_trackers("digan", config=options if names != ["tensorboard"] else None)

    def _write_clips(self, name: str, clips: torch.Tensor) -> None:
        """Write clips `[N, F, 3, R, R]` uint8 as a video and a contact sheet."""
        folder = self.folder / SAMPLES
        folder.mkdir(exist_ok=True)
        write_video(folder / f"{name}.mp4", video_grid(clips), fps=SAMPLE_FPS)
        write_png(folder / f"{name}.png", contact_sheet(clips))
