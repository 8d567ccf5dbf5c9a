"""The folder of a training run: what is written into it, and what the person in front of it sees."""

from __future__ import annotations

import functools
import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from accelerate.tracking import LoggerType, TensorBoardTracker, get_available_trackers
from accelerate.utils import broadcast_object_list
from tqdm import tqdm

from digan import metrics
from digan.config import TrainConfig
from digan.data import choose
from digan.data.training_data import TrainingData, content_key
from digan.errors import ConfigError
from digan.models.generator import Generator
from digan.run_dir import (
    CHECKPOINTS,
    SAMPLES,
    STATISTICS,
    drop_records,
    is_own,
    list_metrics,
    list_snapshots,
    metric_path,
    read_records,
    snapshot_number,
    snapshot_path,
)
from digan.sampling.grids import contact_sheet, video_grid
from digan.sampling.latents import clip_times, paced_times, seeded_latents
from digan.sampling.media import write_png, write_video
from digan.sampling.render import Fakes, sample_clips
from digan.training import checkpoint, summary
from digan.training.distributed import COMPUTE_TYPES
from digan.training.flops import forward_macs, matmul_peak, step_flops
from digan.training.trainer import Trainer

SAMPLE_FPS = 8


def make_folder(config: TrainConfig, accelerator: Accelerator) -> Path:
    """Makes `outdir/00000-<description>`, numbered after the runs that are there; the same path in every process."""
    path = [""]
    if accelerator.is_main_process:
        what = config.cfg or Path(config.data or "").stem
        parts = [what, f"{config.resolution}x{config.frames}", f"batch{config.batch}", config.desc]
        numbers = [int(p.name[:5]) for p in checkpoint.list_runs(config.outdir)]
        name = "-".join([f"{max(numbers, default=-1) + 1:05d}", *(p for p in parts if p)])
        folder = Path(config.outdir) / name
        try:
            folder.mkdir(parents=True)
        except OSError as error:
            raise ConfigError(f"--outdir {config.outdir}: {folder} cannot be made: {error.strerror}.") from None
        path = [str(folder)]
    return Path(broadcast_object_list(path)[0])


def check_trackers(config: TrainConfig) -> None:
    """Raises `ConfigError` for a tracker that accelerate cannot start here."""
    missing = set(config.trackers()) - {tracker.value for tracker in get_available_trackers()}
    if missing:
        raise ConfigError(f"--report-to {min(missing)} is unknown to accelerate or its package is not installed.")


def _beside_training(method: Callable[..., Any]) -> Callable[..., Any]:
    """A method of `Run` whose time does not count in the speed of training."""

    @functools.wraps(method)
    def timed(self: Run, *args: Any, **kwargs: Any) -> Any:
        tick, start = self.tick_started, time.time()
        result = method(self, *args, **kwargs)
        self.tick_started = tick + time.time() - start  # whatever such a method called inside has added is in it
        return result

    return timed


class Run:
    """Log, statistics, samples, snapshots and checkpoints of one training run. Only the main process writes.

    Args:
        folder: the run folder.
        feed: the data; its clips stand beside the samples and in the metrics.
        clips_seen: where a resumed run continues: records of later clips are dropped from the statistics.
    """

    def __init__(
        self, folder: Path, config: TrainConfig, accelerator: Accelerator, feed: TrainingData, clips_seen: int
    ) -> None:
        self.folder, self.config, self.accelerator, self.feed = folder, config, accelerator, feed
        self.main = accelerator.is_main_process
        self.total = round(config.kimg * 1000)
        self.started = self.tick_started = time.time()
        self.tick_clips = clips_seen
        self.bar: tqdm | None = None
        # All processes at once, as they will work.
        peak = matmul_peak(accelerator.device, COMPUTE_TYPES[accelerator.mixed_precision])
        self.peak = float(accelerator.reduce(torch.tensor(peak, device=accelerator.device), "sum"))
        if not self.main:
            return
        self.clip_flops = step_flops(forward_macs(config, feed.num_classes)).weighted(config)
        (folder / "config.json").write_text(json.dumps(asdict(config), indent=1))
        with open(folder / "command.sh", "a") as file:  # a line for the start and for each time it was resumed
            file.write(f"accelerate launch {shlex.join(sys.argv)}\n")
        for file in (folder / STATISTICS, *list_metrics(folder).values()):
            drop_records(file, clips_seen)
        if sys.stderr.isatty():
            self.bar = tqdm(total=self.total, initial=clips_seen, unit="clip", dynamic_ncols=True, smoothing=0.05)
        self._start_trackers()

    def log(self, text: str) -> None:
        """One message to the terminal and to log.txt."""
        if self.main:
            tqdm.write(text, file=sys.stdout)
            sys.stdout.flush()
            with open(self.folder / "log.txt", "a") as file:
                file.write(text + "\n")

    def advance(self, trainer: Trainer) -> bool:
        """Moves the progress bar; True when a tick is due."""
        if self.bar is not None:
            self.bar.update(trainer.clips_seen - self.bar.n)
        tick = round(self.config.tick * 1000)
        return trainer.clips_seen // tick > self.tick_clips // tick or trainer.clips_seen >= self.total

    def tick(self, trainer: Trainer) -> None:
        """Writes the statistics since the last tick: means of the losses, speed, memory, time left.

        The speed leaves out samples, snapshots and metrics. The arithmetic is that of `digan.training.flops`; its share
        is that of the matrix product in the discriminators' compute type, measured when the run started.
        """
        stats = trainer.collect_statistics()
        now = time.time()
        speed = (trainer.clips_seen - self.tick_clips) / max(now - self.tick_started, 1e-9)
        left = (self.total - trainer.clips_seen) / max(speed, 1e-9)
        self.tick_clips, self.tick_started = trainer.clips_seen, now
        if not self.main:
            return
        flops = speed * self.clip_flops
        record = {
            "clips": trainer.clips_seen,
            "iteration": trainer.iteration,
            **stats,
            "clips_per_second": speed,
            "tflops_per_second": flops / 1e12,
            "share_of_peak": flops / self.peak,
            "memory_gb": psutil.Process().memory_info().rss / 2**30,
            "seconds": now - self.started,
        }
        if self.accelerator.device.type == "cuda":
            record["gpu_memory_gb"] = torch.cuda.max_memory_allocated() / 2**30
        with open(self.folder / STATISTICS, "a") as file:
            file.write(json.dumps(record) + "\n")
        self.accelerator.log({k: v for k, v in record.items() if k != "clips"}, step=trainer.clips_seen)
        losses = "  ".join(f"{k} {v:.3g}" for k, v in stats.items())
        if self.bar is not None:
            self.bar.set_postfix_str(losses)
        line = (
            f"kimg {trainer.clips_seen / 1000:.2f}/{self.config.kimg:g}  {losses}  "
            f"{summary.speed(record)}  {record['memory_gb']:.1f} GB  {summary.clock(now - self.started)} gone  "
            f"{summary.clock(left)} left"
        )
        if self.bar is None:
            self.log(line)
        else:
            with open(self.folder / "log.txt", "a") as file:
                file.write(line + "\n")

    @_beside_training
    def draw_reals(self) -> None:
        """Writes real clips beside which the samples can be judged."""
        if self.main:
            some = choose(self.feed.clips, self.config.samples, self.config.seed)
            clips = self.feed.clips.batch(some)  # [n,F,3,R,R]
            self._write_clips("reals", clips)

    @_beside_training
    def draw_fakes(self, trainer: Trainer, name: str | None = None) -> None:
        """Writes samples of the averaged generator; latents and times are the same in every call."""
        if self.main:
            n = self.config.samples
            z_content, z_motion = seeded_latents(self.config.z_dim, self.config.seed, range(n))
            labels = torch.arange(n) % trainer.num_classes if trainer.num_classes else None
            clips = sample_clips(trainer.g_ema, z_content, z_motion, clip_times(self.config.frames), labels)
            self._write_clips(name or f"fakes{self._number(trainer)}", clips)

    @_beside_training
    def snapshot(self, trainer: Trainer) -> None:
        """Writes the averaged generator, samples, a checkpoint and metrics."""
        path = snapshot_path(self.folder, self._number(trainer))
        if self.main:
            path.parent.mkdir(exist_ok=True)
            trainer.g_ema.save(path, clips_seen=trainer.clips_seen, data=self._data())
        self.draw_fakes(trainer)
        self.save(trainer)
        self.evaluate(trainer.g_ema, trainer.clips_seen, path.name)

    @_beside_training
    def save(self, trainer: Trainer) -> None:
        """Writes a checkpoint from which the run can be resumed."""
        if self.main:
            checkpoint.save(trainer, self.folder / CHECKPOINTS, asdict(self.config), self.config.checkpoints)
        self.accelerator.wait_for_everyone()

    @_beside_training
    def catch_up(self, trainer: Trainer) -> None:
        """Computes the metrics that the last snapshot lacks: the run may have been ended before it had them all."""
        todo: list[Any] = [None, []]
        snapshots = list_snapshots(self.folder, until=self._number(trainer))
        if self.main and snapshots:
            todo = [snapshots[-1], [m for m in self.config.metric_names() if not self._has(m, snapshots[-1].name)]]
        last, names = broadcast_object_list(todo)
        if names:
            g = Generator.from_pretrained(last).to(self.accelerator.device)
            self.evaluate(g, g.metadata["clips_seen"], last.name, names)

    @_beside_training
    def evaluate(self, g: Generator, clips: int, snapshot: str, names: Sequence[str] | None = None) -> None:
        """Computes metrics of a generator after `clips` clips, by default all, and appends them to their files."""
        for name in self.config.metric_names() if names is None else names:
            protocol = metrics.parse(name)
            reals = self.feed.clips_of(protocol.frames)
            labels = reals.labels() if g.config.num_classes else None
            result = metrics.compute(
                protocol,
                reals=reals,
                fakes=Fakes(
                    g,
                    protocol.count,
                    paced_times(protocol.frames, self.config.frames),
                    self.config.seed,
                    labels,
                    frame_indices=protocol.frame_indices,
                ),
                detector=self.config.detector,
                device=self.accelerator.device,
                seed=self.config.seed,
                progress=self._progress(name),
                cache=self.feed.cache,
                cache_key=content_key(reals),
                rank=self.accelerator.process_index,
                world=self.accelerator.num_processes,
                gather=self.accelerator.gather,
            )
            if self.main:
                metrics.append_result(self.folder, result, clips=clips, snapshot=snapshot)
                self.accelerator.log({name: result["value"]}, step=clips)
                self.log(f"{name} {result['value']:.5g}  ({result['seconds']:.0f} s)")

    def close(self) -> None:
        """Ends the progress bar and the trackers."""
        if self.bar is not None:
            self.bar.close()
        self.accelerator.end_training()

    def _number(self, trainer: Trainer) -> str:
        return snapshot_number(trainer.clips_seen, self.config.batch)

    def _data(self) -> dict[str, Any]:
        """What a network was trained on, as its file tells it: how clips were cut, of which videos and classes."""
        cut = {name: getattr(self.config, name) for name in ("frames", "stride", "overlap", "split")}
        index = self.feed.index
        return {**cut, "fingerprint": index.fingerprint, "class_names": index.class_names}

    def _has(self, metric: str, snapshot: str) -> bool:
        records = read_records(metric_path(self.folder, metric))
        return any(is_own(record) and record["snapshot"] == snapshot for record in records)

    def _progress(self, name: str) -> Callable[[int, int], None] | None:
        """Shows on the terminal how far a metric is."""
        bar = self.bar
        if bar is None:
            return None
        return lambda done, total: bar.set_postfix_str(f"{name}: {done} of {total} clips")

    def _start_trackers(self) -> None:
        names = self.config.trackers()
        # TensorBoard's events belong into the run folder itself, not into a subfolder named after the project.
        events = [TensorBoardTracker("", logging_dir=str(self.folder))] if "tensorboard" in names else []
        self.accelerator.log_with = [*events, *(LoggerType(n) for n in names if n != "tensorboard")]
        # TensorBoard's way to keep a configuration is a folder named after the time of day: config.json is enough.
        known = {k: v for k, v in asdict(self.config).items() if isinstance(v, (int, float, str, bool))}
        self.accelerator.init_trackers("digan", config=known if names != ["tensorboard"] else None)

    def _write_clips(self, name: str, clips: torch.Tensor) -> None:
        folder = self.folder / SAMPLES
        folder.mkdir(exist_ok=True)
        write_video(folder / f"{name}.mp4", video_grid(clips), fps=SAMPLE_FPS)
        write_png(folder / f"{name}.png", contact_sheet(clips))
