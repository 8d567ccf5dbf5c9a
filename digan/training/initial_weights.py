"""`--init`: a new run starts from the weights of another network, with optimizers and counters of its own."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from digan.config import GeneratorConfig, TrainConfig, flag
from digan.errors import ConfigError, NetworkError
from digan.models.hub import find_network, read_network
from digan.run_dir import known_fields
from digan.tensor_files import DamagedFile, read_tensors
from digan.training import checkpoint
from digan.training.trainer import NETWORKS, Trainer

_WIDTHS = ("z_dim", "w_dim", "fourier_dim", "fmm_rank", "channel_base", "channel_max")
_SCALES = ("space_frequency", "time_frequency")


class InitialWeights(NamedTuple):
    """The networks to start from."""

    source: Path
    config: GeneratorConfig | TrainConfig
    networks: dict[str, Mapping[str, Tensor]]  # state dicts, keyed by name in checkpoints


def read_initial_weights(init: str) -> InitialWeights:
    """Read the networks that `--init` names.

    Args:
        init: a checkpoint or a run that has one, for the discriminators and the averaged generator too; or what
            `find_network` takes: a snapshot, a converted official network, a folder or a name on the hub, which hold
            the averaged generator alone.

    Raises:
        ConfigError: there is no such network, or it is damaged.
    """
    path = Path(init)
    if path.suffix in (".pkl", ".pickle") and path.is_file():
        raise ConfigError(f"--init {init} is a pickle: convert it first, with `digan convert {init} OUT.safetensors`.")
    checkpoints = checkpoint.in_path(path)
    try:
        if checkpoints:
            return _of_checkpoint(checkpoint.newest_sound(checkpoints, print, "--init"))
        return _of_generator(find_network(path))
    except (NetworkError, DamagedFile, OSError) as error:
        raise ConfigError(f"--init: {str(error).rstrip('.')}.") from None


def _of_checkpoint(path: Path) -> InitialWeights:
    config = TrainConfig(**known_fields(TrainConfig, checkpoint.read_state(path)["config"]))
    networks: dict[str, Mapping[str, Tensor]] = {
        name: read_tensors(path / f"{name}.safetensors")[0] for name in NETWORKS
    }
    return InitialWeights(path, config, networks)


def _of_generator(file: Path) -> InitialWeights:
    network = read_network(file)
    tensors = {name: tensor.float() for name, tensor in network.tensors.items()}
    return InitialWeights(file, network.config, {"g": tensors, "g_ema": tensors})


def initialise(trainer: Trainer, weights: InitialWeights) -> list[str]:
    """Copy weights into the networks of a trainer.

    Blocks that only one resolution has stay as they were drawn, as do the layers that depend on the number of classes
    if it differs.

    Returns:
        Sentences about what was copied and what is new, for the log.

    Raises:
        ConfigError: a tensor has another shape, or is not finite, or the scales of the frequencies differ.
    """
    names = _differing(weights, trainer.config)
    if set(names) & set(_SCALES):
        # The widths would be refused next, by the shape of a tensor: one command mends all of it.
        own = ", ".join(str(getattr(trainer.config, name)) for name in names)
        raise ConfigError(
            f"--init: give {_options(weights, names)}, as {weights.source} was trained, instead of {own}."
        )
    new: list[str] = []
    unused: list[str] = []
    for name, state in weights.networks.items():
        missing, left_over = _copy(trainer, name, state, weights)
        new += [f"{name}.{module}" for module in _modules(missing)]
        unused += [f"{name}.{module}" for module in _modules(left_over)]
    names = [name for name in NETWORKS if name in weights.networks]
    notes = [f"--init: {', '.join(names)} start from {weights.source}."]
    fresh = [name for name in NETWORKS if name not in weights.networks]
    if fresh:
        notes.append(f"--init: {weights.source.name} holds a generator alone: {', '.join(fresh)} start untrained.")
    if new:
        notes.append(f"--init: these parts are new: {', '.join(new)}.")
    if unused:
        notes.append(f"--init: these parts of {weights.source.name} are not used: {', '.join(unused)}.")
    return notes


def _copy(
    trainer: Trainer, name: str, state: Mapping[str, Tensor], weights: InitialWeights
) -> tuple[list[str], list[str]]:
    """Copy the state of one network; return the names of its tensors that are new, and of those not used."""
    own = trainer.networks()[name].state_dict()
    other_resolution = weights.config.resolution != trainer.config.resolution
    other_classes = _num_classes(state) != _num_classes(own)
    missing = []
    for key, tensor in own.items():
        given = state.get(key)
        depends = (other_resolution and _depends_on_resolution(key)) or (other_classes and _depends_on_classes(key))
        if given is None or depends:
            missing.append(key)
            continue
        if given.shape != tensor.shape:
            raise ConfigError(_misfit(f"{name}.{key}", given, tensor, weights, trainer.config))
        if not given.isfinite().all():
            raise ConfigError(f"--init: {name}.{key} of {weights.source} holds values that are not finite.")
        with torch.no_grad():
            tensor.copy_(given)
    return missing, [key for key in state if key not in own]


def _depends_on_resolution(key: str) -> bool:
    """Return whether a tensor belongs to the layer of a discriminator that sees the pixels."""
    return key.startswith("from_rgb.")


def _depends_on_classes(key: str) -> bool:
    """Return whether a tensor belongs to a layer whose inputs or outputs follow from the number of classes."""
    return key.startswith(("mapping.embed.", "mapping.layers.0.", "label_mapping.", "out."))


def _num_classes(state: Mapping[str, Tensor]) -> int:
    embeddings = [state[key] for key in ("mapping.embed.weight", "label_mapping.embed.weight") if key in state]
    return embeddings[0].shape[1] if embeddings else 0


def _misfit(key: str, given: Tensor, tensor: Tensor, weights: InitialWeights, config: TrainConfig) -> str:
    options = _options(weights, _differing(weights, config))
    remedy = f"give the widths of that network, {options}" if options else "start from another network"
    return (
        f"--init: {key} of {weights.source} has the shape {list(given.shape)}, but {list(tensor.shape)} in this run: "
        f"{remedy}."
    )


def _differing(weights: InitialWeights, config: TrainConfig) -> list[str]:
    """Return the scales and widths that a run must share with the networks that it starts from, and does not."""
    return [name for name in (*_SCALES, *_WIDTHS) if getattr(weights.config, name) != getattr(config, name)]


def _options(weights: InitialWeights, names: Iterable[str]) -> str:
    """Return the options by which a run has the scales and widths of the networks that it starts from."""
    return " ".join(f"{flag(name)} {getattr(weights.config, name)}" for name in names)


def _modules(keys: Iterable[str]) -> list[str]:
    """Return the blocks or layers that tensors belong to, each once."""
    parts: dict[str, Any] = {}
    for key in keys:
        path = key.split(".")
        parts[".".join(path[:2] if path[0] in ("blocks", "mapping") else path[:1])] = None
    return list(parts)
