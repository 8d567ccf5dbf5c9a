"""What the processes of a run compare before the first step, each value under the name that a user knows it by."""

from __future__ import annotations

import platform
from dataclasses import fields
from typing import Any

import accelerate
import av
import numpy as np
import PIL
import torch

import fused_inr as fi
from digan.config import PROCESSES_MAY_DIFFER, TrainConfig, flag
from digan.data.training_data import TrainingData
from digan.digests import tensor_digest
from digan.files import checksum
from digan.metrics import detector_files, parse
from digan.training.distributed import device_type
from digan.training.trainer import Trainer
from digan.wording import reason


def option_facts(config: TrainConfig) -> dict[str, Any]:
    """Return the options that must not differ, keyed by flag, the type of device, and versions that decide numbers."""
    options = {flag(f.name): getattr(config, f.name) for f in fields(config) if f.name not in PROCESSES_MAY_DIFFER}
    versions = {
        "the type of device": device_type(),
        "the version of digan": fi.__version__,
        "the version of Python": platform.python_version_tuple()[:2],
        "the version of torch": torch.__version__,
        "the version of accelerate": accelerate.__version__,
        "the version of numpy": np.__version__,
        "the version of av": av.__version__,
        "the version of Pillow": PIL.__version__,
    }
    protocols = [parse(name) for name in config.metric_names()]
    detectors = detector_files([config.detector] if config.detector else [], protocols)
    digests = {f"the file of --detector {kind}": _digest(path) for kind, path in detectors.items()}
    return {**options, **versions, **digests}


def state_facts(trainer: Trainer, data: TrainingData) -> dict[str, Any]:
    """Return what decides the first step: precision, kernels, data, counters, networks and optimizers."""
    accelerator = trainer.accelerator
    networks = [tensor for net in trainer.networks().values() for tensor in net.state_dict().values()]
    return {
        "--mixed-precision": accelerator.mixed_precision,
        "the kernels": [name for name, state in fi.backends().items() if state == "ready"],
        "--data": data.identity,
        "the state to start from": f"{trainer.iteration} iterations, {trainer.clips_seen} clips seen, networks "
        f"{tensor_digest(networks)}, optimizers {tensor_digest(_tensors(trainer.optimizer_state()))}",
    }


def _digest(path: str) -> str:
    """Return the digest of a file; where it cannot be read, why."""
    try:
        return checksum(path)
    except OSError as error:
        return reason(error)


def _tensors(state: Any) -> list[torch.Tensor]:
    """Return the tensors of a nested state, in its order."""
    if isinstance(state, torch.Tensor):
        return [state]
    values = state.values() if isinstance(state, dict) else state if isinstance(state, (list, tuple)) else ()
    return [tensor for value in values for tensor in _tensors(value)]
