"""Trains DIGAN: `accelerate launch digan/train.py [options]`. Without options it learns videos that it makes."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

if __package__ in (None, ""):
    # As a script, Python puts this folder first on the path, where its files would shadow installed packages.
    _root = Path(__file__).resolve().parents[1]
    sys.path[0] = str(_root)
    sys.path.append(str(_root / "kernels"))
    # OpenMP threads that spin while they wait starve the data workers and whatever else runs on the same cores: steps
    # took 10 to 30 times as long beside one busy process. It has to be said before PyTorch is loaded.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from accelerate import Accelerator

from digan.cli.options import parse_options, resolve
from digan.config import TrainConfig
from digan.data.training_data import TrainingData
from digan.errors import ConfigError, DataError
from digan.metrics import MetricError
from digan.training import checkpoint, summary
from digan.training.allocator import keep_freed_memory
from digan.training.distributed import LaterSum, make_accelerator
from digan.training.logger import Run, check_trackers, make_folder
from digan.training.trainer import Trainer


def train(config: TrainConfig, accelerator: Accelerator, resume: Path | None) -> Path | None:
    """Trains as `config` says and returns the run folder; None after a dry run.

    Args:
        resume: checkpoint to continue from, in the run folder that holds it.
    """
    check_trackers(config)
    feed = TrainingData(config, accelerator)
    trainer = Trainer(config, accelerator, feed.num_classes)
    if accelerator.is_main_process:
        print(summary.start(config, accelerator, trainer, feed, resume), flush=True)
    if config.dry_run:
        return None

    if resume is not None:
        checkpoint.load(trainer, resume)
    folder = resume.parents[1] if resume else make_folder(config, accelerator)
    run = Run(folder, config, accelerator, feed, trainer.clips_seen)
    if resume is None:
        run.draw_reals()
        run.draw_fakes(trainer, "fakes_init")
        run.evaluate(trainer.g_ema, 0, "untrained")
    else:
        run.catch_up(trainer)

    stop = StopSignal(accelerator)
    batches = feed.batches(trainer.micro_batches, start=trainer.iteration)
    snapshot_clips = round(config.snap * config.tick * 1000)
    while trainer.clips_seen < run.total:
        reals = [trainer.reals(next(batches)) for _ in range(trainer.micro_batches)]
        trainer.update_g(reals)
        if config.pl_weight and trainer.iteration % config.pl_interval == 0:
            trainer.update_path_length(reals)
        trainer.update_d(reals)
        if config.gamma and trainer.iteration % config.r1_interval == 0:
            trainer.update_r1(reals)
        trainer.update_ema()
        before = trainer.clips_seen
        trainer.advance()

        finished = trainer.clips_seen >= run.total
        if run.advance(trainer):
            run.tick(trainer)
        if trainer.clips_seen // snapshot_clips > before // snapshot_clips or finished:
            run.snapshot(trainer)
        elif stop.requested():
            run.save(trainer)
            run.draw_fakes(trainer)
            break
    run.log(summary.end(folder, config, trainer.clips_seen))
    run.close()
    return folder


class StopSignal:
    """Turns Ctrl-C, SIGTERM and the end of accelerate's launcher into a request that the loop honours between two
    iterations, so that nothing is lost."""

    def __init__(self, accelerator: Accelerator) -> None:
        self.received = False
        self.asked = LaterSum(accelerator) if accelerator.num_processes > 1 else float
        # The launcher of one process does not pass SIGTERM on: it ends, and the run would go on unseen.
        self.launcher = os.getppid() if "ACCELERATE_MIXED_PRECISION" in os.environ else None
        for name in (signal.SIGINT, signal.SIGTERM):
            signal.signal(name, self._receive)

    def _receive(self, number: int, frame: object) -> None:
        if self.received:
            raise KeyboardInterrupt
        self.received = True

    def requested(self) -> bool:
        """Whether any process was asked to stop, of several those before the last call; all must call this together."""
        return self.asked(self.received or (self.launcher is not None and os.getppid() != self.launcher)) > 0


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit status: 0, or 2 with one sentence on what to change."""
    try:
        given = parse_options(sys.argv[1:] if argv is None else argv)
        resume = (
            checkpoint.find(given["resume"], given.get("outdir", TrainConfig.outdir)) if given.get("resume") else None
        )
        config = resolve(given, checkpoint.read_state(resume)["config"] if resume else None)
        accelerator = make_accelerator(config.mixed_precision, config.threads)
        if accelerator.device.type == "cpu":
            keep_freed_memory()
        train(config, accelerator, resume)
    except (ConfigError, DataError, MetricError) as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
