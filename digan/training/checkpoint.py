"""Checkpoints that are written whole or not at all, and hold everything that resuming needs."""

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
from safetensors.torch import load_file, save_file

from digan.errors import ConfigError
from digan.run_dir import CHECKPOINTS
from digan.training.trainer import Trainer

STATE = "state.json"
_NAME = re.compile(r"^checkpoint-(\d{9})$")
_RUN = re.compile(r"^\d{5}(-.*)?$")


def save(trainer: Trainer, folder: Path, config: dict[str, Any], keep: int) -> Path:
    """Writes `folder/checkpoint-<clips seen>` and removes all but the newest `keep` checkpoints.

    The files are written under a temporary name; the rename at the end is what makes the checkpoint exist.
    """
    target = folder / f"checkpoint-{trainer.clips_seen:09d}"
    partial = folder / f".{target.name}.partial"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, net in trainer.networks().items():
        save_file({k: v.contiguous() for k, v in net.state_dict().items()}, partial / f"{name}.safetensors")
    torch.save(trainer.optimizer_state(), partial / "optimizers.pt")
    state = {"counters": trainer.counters(), "config": config, "torch": torch.__version__}
    (partial / STATE).write_text(json.dumps(state, indent=1))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(partial, target)
    for old in list_complete(folder)[:-keep]:
        shutil.rmtree(old, ignore_errors=True)
    return target


def load(trainer: Trainer, checkpoint: Path) -> None:
    """Restores networks, optimizers and counters, bit for bit.

    Raises:
        ConfigError: a file is missing or does not fit the networks.
    """
    try:
        for name, net in trainer.networks().items():
            net.load_state_dict(load_file(checkpoint / f"{name}.safetensors"))
        # Optimizers move what they are given; several processes on CPUs have a device cpu:0, which torch.load refuses.
        optimizers = torch.load(checkpoint / "optimizers.pt", map_location="cpu", weights_only=True)
        trainer.load_optimizer_state(optimizers)
        trainer.load_counters(read_state(checkpoint)["counters"])
    except (OSError, RuntimeError, ValueError, KeyError, UnpicklingError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise ConfigError(f"--resume: the checkpoint {checkpoint} cannot be loaded: {reason}") from None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Counters and configuration of a checkpoint, without its tensors."""
    try:
        return json.loads((checkpoint / STATE).read_text())
    except (OSError, ValueError) as error:
        raise ConfigError(f"--resume: {checkpoint} holds no readable state.json: {error}.") from None


def find(resume: str, outdir: str) -> Path | None:
    """The checkpoint that `--resume` means.

    Args:
        resume: "latest": the newest checkpoint of the newest run under `outdir` that has one, None if there is none;
            or the path of a run folder or of one of its checkpoints.

    Raises:
        ConfigError: a path was given and no complete checkpoint lies there.
    """
    if resume == "latest":
        return next((c[-1] for run in reversed(list_runs(outdir)) if (c := list_complete(run / CHECKPOINTS))), None)
    path = Path(resume)
    if _NAME.match(path.name) and (path / STATE).is_file():
        return path
    found = list_complete(path / CHECKPOINTS) or list_complete(path)
    if not found:
        raise ConfigError(
            f"--resume {resume} is neither 'latest' nor a run folder or checkpoint with a complete state."
        )
    return found[-1]


def list_runs(outdir: str) -> list[Path]:
    """The run folders `00000-...` under `outdir`, oldest first."""
    return sorted(p for p in Path(outdir).glob("*") if _RUN.match(p.name))


def list_complete(folder: Path) -> list[Path]:
    """Complete checkpoints in `folder`, oldest first."""
    found = [p for p in folder.glob("checkpoint-*") if _NAME.match(p.name) and (p / STATE).is_file()]
    return sorted(found)
