"""Checkpoints: written atomically, with everything that resuming needs."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from digan.errors import ConfigError
from digan.files import parse_json, save_object, save_tensors
from digan.run_dir import CHECKPOINTS, list_runs
from digan.training.trainer import Trainer

STATE = "state.json"
_NAME = re.compile(r"^checkpoint-(\d{9})$")


def save(trainer: Trainer, folder: Path, config: dict[str, Any], keep: int) -> Path:
    """Write `folder/checkpoint-<clips seen>` and remove all but the newest `keep` checkpoints.

    The files are written to a temporary folder, which is renamed once it is complete.

    Args:
        trainer: the trainer whose state is saved.
        folder: the folder of all checkpoints of the run.
        config: the configuration of the run.
        keep: number of checkpoints to keep.

    Returns:
        The folder of the new checkpoint.
    """
    target = folder / f"checkpoint-{trainer.clips_seen:09d}"
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    try:
        partial.mkdir(parents=True)
        for name, net in trainer.networks().items():
            save_tensors(net.state_dict(), partial / f"{name}.safetensors")
        save_object(trainer.optimizer_state(), partial / "optimizers.pt")
        state = {"counters": trainer.counters(), "config": config, "torch": torch.__version__}
        (partial / STATE).write_text(json.dumps(state, indent=1))
        shutil.rmtree(target, ignore_errors=True)
        os.replace(partial, target)
    except BaseException:  # a second Ctrl-C too
        shutil.rmtree(partial, ignore_errors=True)
        raise
    for old in list_complete(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load(trainer: Trainer, checkpoint: Path) -> None:
    """Restore networks, optimizers and counters, bit for bit.

    Raises:
        ConfigError: a file is missing, damaged or does not fit the networks.
    """
    try:
        for name, net in trainer.networks().items():
            net.load_state_dict(load_file(checkpoint / f"{name}.safetensors"))
        # Optimizers move the state to their device. Not `map_location=device`: with several processes on CPUs the
        # device is cpu:0, which torch.load refuses.
        optimizers = torch.load(checkpoint / "optimizers.pt", map_location="cpu", weights_only=True)
        trainer.load_optimizer_state(optimizers)
        trainer.load_counters(read_state(checkpoint)["counters"])
    except (OSError, RuntimeError, ValueError, KeyError, UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--resume: the checkpoint {checkpoint} cannot be loaded: {reason}") from None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the counters and the configuration of a checkpoint without loading its tensors."""
    try:
        state = parse_json((checkpoint / STATE).read_bytes())
        if not all(isinstance(state, dict) and isinstance(state.get(key), dict) for key in ("counters", "config")):
            raise ValueError("it does not hold counters and a configuration")
        return state
    except (OSError, ValueError) as error:
        raise ConfigError(f"--resume: {checkpoint} has no readable state.json: {error}.") from None


def find(resume: str, outdir: str) -> Path | None:
    """Return the checkpoint that `--resume` names.

    Args:
        resume: "latest", or the path of a run folder or of one of its checkpoints.
        outdir: folder of the runs that "latest" considers.

    Returns:
        For a path, that checkpoint or the newest one of that run. For "latest", the newest checkpoint of the newest run
        that has one; None if no run has one.

    Raises:
        ConfigError: the path holds no complete checkpoint.
    """
    if resume == "latest":
        return next((c for run in reversed(list_runs(outdir)) if (c := newest(run))), None)
    path = Path(resume)
    if _NAME.match(path.name) and (path / STATE).is_file():
        return path
    checkpoints = list_complete(path / CHECKPOINTS) or list_complete(path)
    if not checkpoints:
        raise ConfigError(
            f"--resume {resume} is neither 'latest' nor a run folder or checkpoint with a complete state."
        )
    return checkpoints[-1]


def newest(run: Path) -> Path | None:
    """Return the newest complete checkpoint of a run; None if it has none."""
    return next(reversed(list_complete(run / CHECKPOINTS)), None)


def list_complete(folder: Path) -> list[Path]:
    """Return the complete checkpoints in `folder`, oldest first."""
    return sorted(p for p in folder.glob("checkpoint-*") if _NAME.match(p.name) and (p / STATE).is_file())
