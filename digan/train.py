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
from digan.run_dir import start_name
from digan.training import checkpoint
from digan.training.agreement import state_facts
from digan.training.distributed import StopSignal
from digan.training.logger import RunLogger, make_run_dir
from digan.training.processes import ALONE, Processes
from digan.training.run_lock import run_lock
from digan.training.trainer import Trainer


def train(
    trainer: Trainer,
    data: TrainingData,
    resume: Path | None = None,
    processes: Processes = ALONE,
    notes: Sequence[str] = (),
) -> Path:
    """Train to the end of the run, or until a signal requests a stop.

    Args:
        trainer: the networks and their updates; holds the configuration.
        data: the real clips.
        resume: checkpoint to continue from, inside its run folder.
        processes: all processes of the launch.
        notes: sentences for the log.

    Returns:
        The run folder.

    Raises:
        ConfigError: another run is writing to the folder, or it cannot be written.
        DivergenceError: training diverged.
    """
    if resume is None:
        _agree(trainer, data, processes)
    folder = Path(processes.from_main("the run folder", lambda: str(_folder(trainer, resume))))
    with run_lock(folder, processes) as unlocked:
        if resume is not None:
            processes.together("loading", lambda: checkpoint.load(trainer, resume))
            _agree(trainer, data, processes)
        _train(trainer, data, folder, resume is not None, [*notes, unlocked])
        # The main process writes the last results. A process that left earlier would exit with status 0 even if that
        # failed.
        processes.exchange("the last results", True)
    return folder


def _agree(trainer: Trainer, data: TrainingData, processes: Processes) -> None:
    if processes.world > 1:
        processes.agree(state_facts(trainer, data), "give all of them the same videos and checkpoint")


def _folder(trainer: Trainer, resume: Path | None) -> Path:
    return make_run_dir(trainer.config) if resume is None else checkpoint.run_of(resume)


def _train(trainer: Trainer, data: TrainingData, folder: Path, resumed: bool, notes: Sequence[str]) -> None:
    log = RunLogger(folder, trainer, data)
    log.start(notes)
    if not resumed:
        log.write_reals()
        log.write_fakes("fakes_init")
        log.evaluate(trainer.g_ema, 0, start_name(trainer.config))
    else:
        log.evaluate_missing()

    with StopSignal(trainer.accelerator) as stop:
        batches = data.batches(trainer.sharding, trainer.iteration, report=log.log)
        while trainer.clips_seen < log.total_clips:
            trainer.step([trainer.reals(next(batches)) for _ in range(trainer.micro_batches)])
            log.update()
            log.check_finite()
            if log.tick_due():
                log.tick()
            if log.snapshot_due():
                log.snapshot()
            elif stop.requested():
                log.save_checkpoint()
                log.write_fakes()
                break
        log.finish()
