"""Train DIGAN: `accelerate launch digan/train.py [options]`. Without options it trains on generated demo videos."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

if __name__ == "__main__":
    # When this file runs as a script, Python puts its folder first on the path, where its files would shadow installed
    # packages. The command sets up the process before PyTorch is loaded, then imports this module under its own name.
    _root = Path(__file__).resolve().parents[1]
    sys.path[0] = str(_root)
    sys.path.append(str(_root / "kernels"))
    from digan.cli.main import main

    sys.exit(main(["train", *sys.argv[1:]]))

from digan.data.training_data import TrainingData
from digan.training import checkpoint
from digan.training.distributed import StopSignal
from digan.training.logger import RunLogger, make_run_dir
from digan.training.run_lock import run_lock
from digan.training.trainer import Trainer


def train(trainer: Trainer, data: TrainingData, resume: Path | None = None, notes: Sequence[str] = ()) -> Path:
    """Train to the end of the run, or until a signal requests a stop.

    Args:
        trainer: the networks and their updates; holds the configuration.
        data: the real clips.
        resume: checkpoint to continue from, inside its run folder.
        notes: sentences for the log.

    Returns:
        The run folder.

    Raises:
        ConfigError: another run is writing to the folder, or it cannot be written.
    """
    folder = checkpoint.run_of(resume) if resume else make_run_dir(trainer.config, trainer.accelerator)
    with run_lock(folder, trainer.accelerator) as unlocked:
        return _train(trainer, data, folder, resume, [*notes, unlocked])


def _train(trainer: Trainer, data: TrainingData, folder: Path, resume: Path | None, notes: Sequence[str]) -> Path:
    if resume is not None:
        checkpoint.load(trainer, resume)
    log = RunLogger(folder, trainer, data)
    log.start(notes)
    if resume is None:
        log.write_reals()
        log.write_fakes("fakes_init")
        log.evaluate(trainer.g_ema, 0, "untrained")
    else:
        log.evaluate_missing()

    stop = StopSignal(trainer.accelerator)
    batches = data.batches(trainer.sharding, start=trainer.iteration)
    while trainer.clips_seen < log.total_clips:
        trainer.step([trainer.reals(next(batches)) for _ in range(trainer.micro_batches)])
        log.update()
        if log.tick_due():
            log.tick()
        if log.snapshot_due():
            log.snapshot()
        elif stop.requested():
            log.save_checkpoint()
            log.write_fakes()
            break
    log.finish()
    return folder
