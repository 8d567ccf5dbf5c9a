"""Checkpoints: written atomically, with everything that resuming needs and checksums of it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from digan.config import TrainConfig, check_values, flag
from digan.errors import ConfigError
from digan.files import atomic_folder, checksum, parse_json, remove
from digan.run_dir import CHECKPOINTS, known_fields, list_runs
from digan.tensor_files import read_tensors, write_object, write_tensors
from digan.training.trainer import NETWORKS, Trainer

STATE = "state.json"
_OPTIMIZERS = "optimizers.pt"
_NAME = re.compile(r"^checkpoint-(\d{9,})$")

Report = Callable[[str], None]


def save(trainer: Trainer, folder: Path, config: dict[str, Any], keep: int, data: str | None = None) -> Path:
    """Write `folder/checkpoint-<clips seen>` and remove all but the newest `keep` checkpoints.

    Checkpoints with more clips are removed too: they belong to a branch that was abandoned when the run was resumed
    from an earlier checkpoint.

    Args:
        trainer: the trainer whose state is saved.
        folder: the folder of all checkpoints of the run.
        config: the configuration of the run.
        keep: number of checkpoints to keep.
        data: the identity of the training data.

    Returns:
        The folder of the new checkpoint.
    """
    target = folder / f"checkpoint-{trainer.clips_seen:09d}"
    with atomic_folder(target) as draft:
        for name, net in trainer.networks().items():
            write_tensors(draft / f"{name}.safetensors", net.state_dict(), {})
        write_object(draft / _OPTIMIZERS, trainer.optimizer_state())
        state = {
            "counters": trainer.counters(),
            "config": config,
            "data": data,
            "torch": torch.__version__,
            "files": {file.name: checksum(file) for file in sorted(draft.iterdir())},
        }
        (draft / STATE).write_text(json.dumps({**state, "checksum": _checksum(state)}, indent=1))
    checkpoints = list_all(folder)
    older = [path for path in checkpoints if _clips(path) < trainer.clips_seen and (path / STATE).is_file()]
    kept = [target, *older[max(len(older) - keep + 1, 0) :]]
    for path in checkpoints:
        if path not in kept:
            remove(path)
    return target


def load(trainer: Trainer, checkpoint: Path) -> None:
    """Restore networks, optimizers and counters, bit for bit.

    Raises:
        ConfigError: a file is missing, damaged or does not fit the networks.
    """
    try:
        for name, net in trainer.networks().items():
            net.load_state_dict(read_tensors(checkpoint / f"{name}.safetensors")[0])
        trainer.load_optimizer_state(_read_optimizers(checkpoint))
        trainer.load_counters(read_state(checkpoint)["counters"])
    except ConfigError:
        raise
    except Exception as error:  # damaged pickles, and wrong values given to an optimizer, can raise anything
        raise ConfigError(f"--resume: the checkpoint {checkpoint} cannot be loaded: {_reason(error)}.") from None


def read_state(checkpoint: Path) -> dict[str, Any]:
    """Return the counters, the configuration and the other facts of a checkpoint without loading its tensors.

    Raises:
        ConfigError: they are damaged.
    """
    try:
        state = parse_json((checkpoint / STATE).read_bytes())
        _check_state(checkpoint, state)
    except (OSError, ValueError) as error:
        raise _damaged(checkpoint, f"{STATE}: {_reason(error)}") from None
    return state


def verify(checkpoint: Path) -> bool:
    """Check that every file of a checkpoint holds what was written.

    Returns:
        True if checksums confirm it; False if the checkpoint is from a version without checksums but can be read.

    Raises:
        ConfigError: it is damaged.
    """
    state = read_state(checkpoint)
    name = ""
    try:
        if "files" in state:
            for name, expected in state["files"].items():
                if checksum(checkpoint / name) != expected:
                    raise ValueError("its checksum differs")
            return True
        for name in (f"{network}.safetensors" for network in NETWORKS):
            read_tensors(checkpoint / name)
        name = _OPTIMIZERS
        _read_optimizers(checkpoint)
        return False
    except Exception as error:  # of any type, from unpickling
        raise _damaged(checkpoint, f"{name}: {_reason(error)}") from None


def find(resume: str, outdir: str, report: Report = print) -> Path | None:
    """Return the checkpoint that `--resume` names; of a run, the newest one that is not damaged.

    Args:
        resume: "latest", or the path of a run folder or of one of its checkpoints.
        outdir: folder of the runs that "latest" considers.
        report: called with a sentence for each checkpoint that is damaged or cannot be checked, and if "latest" finds
            nothing.

    Returns:
        For a path, that checkpoint or the newest one of that run. For "latest", the newest checkpoint of the newest run
        that has one; None if no run has one.

    Raises:
        ConfigError: the path holds no checkpoint, or all are damaged.
    """
    if resume == "latest":
        latest = next((path for run in reversed(list_runs(outdir)) if (path := newest(run, report))), None)
        if latest is None:
            report(f"nothing to resume under {outdir}: a new run starts.")
        return latest
    checkpoints = in_path(Path(resume))
    if not checkpoints:
        raise ConfigError(
            f"--resume {resume}: nothing to resume under {resume}; give 'latest', a run folder or one of its "
            "checkpoints."
        )
    return newest_sound(checkpoints, report)


def newest(run: Path, report: Report = print) -> Path | None:
    """Return the newest checkpoint of a run that is not damaged; None if the run has no checkpoint.

    Args:
        run: the run folder.
        report: as in `find`.

    Raises:
        ConfigError: all are damaged.
    """
    checkpoints = list_all(run / CHECKPOINTS)
    return newest_sound(checkpoints, report) if checkpoints else None


def run_of(checkpoint: Path) -> Path:
    """Return the run folder of a checkpoint."""
    if len(checkpoint.parents) > 1:
        return checkpoint.parents[1]
    return Path(os.path.relpath(checkpoint.absolute().parents[1]))  # the path is relative to the folder of checkpoints


def is_checkpoint(path: Path) -> bool:
    """Return whether something with the name of a checkpoint is there, damaged or not."""
    return _NAME.match(path.absolute().name) is not None and os.path.lexists(path)


def list_all(folder: Path) -> list[Path]:
    """Return the checkpoints in `folder`, oldest first, damaged ones included."""
    return sorted((p for p in folder.glob("checkpoint-*") if _NAME.match(p.name)), key=_clips)


def in_path(path: Path) -> list[Path]:
    """Return the checkpoints at a path, oldest first: itself, or those of a run or of a folder of checkpoints."""
    return [path] if is_checkpoint(path) else list_all(path / CHECKPOINTS) or list_all(path)


def newest_sound(checkpoints: Sequence[Path], report: Report, option: str = "--resume") -> Path:
    """Return the newest undamaged checkpoint.

    Args:
        checkpoints: at least one, oldest first.
        report: as in `find`.
        option: flag that named them, for messages.

    Raises:
        ConfigError: all are damaged.
    """
    problems: list[str] = []
    for path in reversed(checkpoints):
        try:
            certain = verify(path)
        except ConfigError as error:
            problems.append(str(error).rstrip("."))
            continue
        for problem in problems:
            report(f"{problem}; {path.name}, the one before, is used.")
        if not certain:
            report(f"the checkpoint {path} is from a version without checksums: its content is unchecked.")
        return path
    raise ConfigError(f"{option}: {problems[0]}, and there is no sound one before it: give {option} another run.")


def _read_optimizers(checkpoint: Path) -> dict[str, Any]:
    # Optimizers move the state to their device. Not `map_location=device`: with several processes on CPUs the device is
    # cpu:0, which torch.load refuses.
    return torch.load(checkpoint / _OPTIMIZERS, map_location="cpu", weights_only=True)


def _check_state(checkpoint: Path, state: Any) -> None:
    """Raise ValueError if the content of state.json is not what `save` wrote."""
    if not isinstance(state, dict):
        raise ValueError("it is not a JSON object")
    stored = {name: value for name, value in state.items() if name != "checksum"}
    if ("files" in state or "checksum" in state) and state.get("checksum") != _checksum(stored):
        raise ValueError("its checksum differs")
    counters, config = state.get("counters"), state.get("config")
    if not isinstance(config, dict) or not isinstance(counters, dict):
        raise ValueError("it lacks the counters or the configuration")
    check_values(TrainConfig(**known_fields(TrainConfig, config)), flag)
    if not all(type(counters.get(name)) is int and counters[name] >= 0 for name in ("iteration", "clips_seen")):
        raise ValueError("the counters are not natural numbers")
    if _NAME.match(checkpoint.absolute().name) and _clips(checkpoint) != counters["clips_seen"]:
        raise ValueError(f"it is the state at {counters['clips_seen']} clips")


def _checksum(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _clips(checkpoint: Path) -> int:
    """Return the number in the name of a checkpoint."""
    return int(checkpoint.absolute().name.rpartition("-")[2])


def _damaged(checkpoint: Path, what: str) -> ConfigError:
    return ConfigError(f"the checkpoint {checkpoint} is damaged ({what}).")


def _reason(error: Exception) -> str:
    """Return the first line of an error's message, or its type if it has none."""
    text = error.strerror if isinstance(error, OSError) else str(error)
    return (text or type(error).__name__).strip().splitlines()[0].rstrip(".")
