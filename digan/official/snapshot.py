"""The networks of an official snapshot: find them in the pickle, and build ours from them."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from digan.config import DiscriminatorConfig
from digan.errors import NetworkError
from digan.files import parse_json
from digan.models.discriminator import IMAGE_CHANNELS, MOTION_CHANNELS, Discriminator
from digan.models.generator import Generator
from digan.models.hub import filled
from digan.official import names
from digan.official.policy import PERSISTENT_OBJECT, StoredTensor, load
from digan.official.unpickle import Record
from digan.tensor_files import read_tensors, write_tensors

NETWORKS = ("G_ema", "G", "D")
DISCRIMINATORS = {"d_image": IMAGE_CHANNELS, "d_motion": MOTION_CHANNELS}  # name in checkpoints -> image channels

# Attributes, parameters and modules, each counted wherever it occurs; a network has about 3,000.
_MAX_PARTS = 100_000
_MAX_NAME = 200  # characters of a dotted name
_MAX_TEXT = 1000  # characters of an attribute or a message
_MAX_LEFT_OUT = 20  # classes listed


@dataclass
class StoredNetwork:
    """A network as the snapshot stores it.

    Attributes:
        kind: Name of its class.
        tensors: Parameters and buffers by their official names.
        parameters: Number of elements of all parameters.
        attributes: Plain values (None, bool, numbers, text) of its modules, by dotted name.
    """

    kind: str
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    parameters: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)

    def read(self) -> dict[str, Tensor]:
        """Return copies of the tensors, with floating-point ones as float32."""
        tensors = {name: stored.read() for name, stored in self.tensors.items()}
        return {name: x.float() if x.is_floating_point() else x for name, x in tensors.items()}


class OfficialSnapshot:
    """The networks of an official snapshot, read without executing anything in it.

    Attributes:
        names: Which of G_ema, G and D it holds.
        left_out: Classes whose objects are neither modules nor numbers -> number of objects, most frequent first.

    Raises:
        NetworkError: The file is not an official snapshot, or holds what none does (see `policy`). The methods raise
            it too, for a network that is absent or that is not the published model.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        value, inert = load(path)
        content = _entries(value)
        self._records = {name: content[name] for name in NETWORKS if isinstance(content.get(name), Record)}
        if not self._records:
            raise self._error("is a pickle without networks G, D and G_ema: give an official network-snapshot-*.pkl")
        self._training_set = _entries(content.get("training_set_kwargs"))
        self.names = list(self._records)
        modules = (str(PERSISTENT_OBJECT), "torch.nn.", "numpy.")
        left_out = [(name, count) for name, count in inert.most_common() if not name.startswith(modules)]
        self.left_out = dict(left_out[:_MAX_LEFT_OUT])

    def stored(self, name: str) -> StoredNetwork:
        """Return G_ema, G or D as it is stored."""
        if name not in self._records:
            other = next((other for other in ("G_ema", "G") if name != "D" and other in self._records), None)
            remedy = f": give --network {other}" if other else ""
            raise self._error(f"holds no {name}, only {' and '.join(self.names)}{remedy}")
        with self._fitting(name):
            return _stored(self._records[name], self.path.stat().st_size)

    def generator(self, name: str = "G_ema") -> Generator:
        """Return G_ema or G as a `Generator`, on the CPU in evaluation mode."""
        stored = self.stored(name)
        with self._fitting(name):
            state = names.generator_state(stored.read())
            config = replace(names.generator_config(state), **names.generator_constants(stored.attributes))
            return filled(lambda: Generator(config), state)

    def discriminators(self) -> dict[str, Discriminator]:
        """Return the image discriminator d_image and the motion discriminator d_motion, which share a configuration."""
        stored = self.stored("D")
        with self._fitting("D"):
            constants = names.discriminator_constants(stored.attributes)
            states = names.discriminator_states(stored.read())
            configs = [replace(names.discriminator_config(state), **constants) for state in states]
            if configs[0] != configs[1]:
                raise ValueError("imageD and videoD differ in resolution or width")
            return {
                name: filled(lambda channels=channels: Discriminator(configs[0], channels), state)
                for (name, channels), state in zip(DISCRIMINATORS.items(), states, strict=True)
            }

    def provenance(self) -> dict[str, Any]:
        """Describe the origin of the networks in JSON types: file, sha256, training data, what was left out."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        training_set = _plain(self._training_set)
        return {"file": self.path.name, "sha256": digest, "training_set": training_set, "left_out": self.left_out}

    @contextmanager
    def _fitting(self, name: str) -> Iterator[None]:
        """Turn any error that a malformed network causes into one sentence."""
        try:
            yield
        except (ValueError, RuntimeError, LookupError, TypeError, ArithmeticError) as error:
            reason = str(error) if isinstance(error, ValueError) else "the shapes of its parameters do not fit"
            raise self._error(f"has a {name} that cannot be converted: {reason.rstrip('.')}") from error

    def _error(self, reason: str) -> NetworkError:
        printable = "".join(character if character.isprintable() else "?" for character in reason[:_MAX_TEXT])
        return NetworkError(f"{self.path} {printable}.")


def save_discriminators(networks: dict[str, Discriminator], path: str | os.PathLike[str], **metadata: Any) -> None:
    """Write d_image and d_motion, which share a configuration, to a safetensors file, completely or not at all."""
    header = {"config": asdict(networks["d_image"].config), **metadata}
    tensors = {
        f"{name}.{key}": tensor for name, network in networks.items() for key, tensor in network.state_dict().items()
    }
    write_tensors(path, tensors, {key: json.dumps(value) for key, value in header.items()})


def load_discriminators(path: str | os.PathLike[str]) -> dict[str, Discriminator]:
    """Read d_image and d_motion from a file of `save_discriminators`, on the CPU in evaluation mode.

    Raises:
        NetworkError: The file is something else.
    """
    try:
        tensors, metadata = read_tensors(path)
        config = DiscriminatorConfig(**parse_json(metadata["config"]))
        networks = {}
        for name, channels in DISCRIMINATORS.items():
            state = {key.removeprefix(f"{name}."): x for key, x in tensors.items() if key.startswith(f"{name}.")}
            networks[name] = filled(lambda channels=channels: Discriminator(config, channels), state)
        return networks
    except (OSError, LookupError, TypeError, ValueError, RuntimeError) as error:
        raise NetworkError(
            f"{path} holds no discriminators: give a file that `digan convert --discriminators` wrote."
        ) from error


def _stored(root: Record, file_size: int) -> StoredNetwork:
    """Collect tensors and attributes of a module and its submodules, named as in `state_dict`."""
    network = StoredNetwork(_module(root)[0])
    pending = [("", root)]
    parts = 0
    while pending:
        prefix, module = pending.pop()
        state = _module(module)[1]
        parameters, buffers = _children(state, "_parameters", prefix), _children(state, "_buffers", prefix)
        for name in state.get("_non_persistent_buffers_set", ()):  # as state_dict does
            buffers.pop(f"{prefix}{name}", None)
        for name, tensor in (parameters | buffers).items():
            if not isinstance(tensor, StoredTensor):
                raise ValueError(f"{name} is not a tensor")
        network.tensors |= parameters | buffers
        network.parameters += sum(tensor.numel for tensor in parameters.values())
        network.attributes |= {f"{prefix}{attribute}": value for attribute, value in _plain(state).items()}
        modules = _children(state, "_modules", prefix)
        pending += [(f"{name}.", child) for name, child in modules.items()]
        parts += len(state) + len(parameters) + len(buffers) + len(modules)
        if parts > _MAX_PARTS or len(prefix) > _MAX_NAME:
            raise ValueError("its modules contain each other")
    # Any number of tensors may share one storage, and copies of them could fill the memory.
    if sum(tensor.numel * tensor.storage.dtype.itemsize for tensor in network.tensors.values()) > file_size:
        raise ValueError("its tensors are larger than the file")
    return network


def _module(record: Any) -> tuple[str, dict]:
    """Return the class name and `__dict__` of a module, either of a class stored in the file or of torch.nn."""
    match record:
        case Record(cls=cls, args=({"class_name": str(kind), "state": dict(state)},)) if cls == PERSISTENT_OBJECT:
            return kind, state
        case Record(cls=cls, state=dict(state)):
            return cls.name, state
    raise ValueError("a part of it is not a module")


def _children(state: dict, kind: str, prefix: str) -> dict[str, Any]:
    """Return the entries of a module's _parameters, _buffers or _modules that are not None, by their full names."""
    children = state.get(kind)
    if not isinstance(children, dict) or not all(isinstance(name, str) for name in children):
        raise ValueError(f"a part of it has no {kind}")
    return {f"{prefix}{name}": child for name, child in children.items() if child is not None}


def _entries(value: Any) -> dict:
    """Return the entries of a dict, or of a record of a subclass such as EasyDict; else nothing."""
    value = value.entries if isinstance(value, Record) else value
    return value if isinstance(value, dict) else {}


def _plain(values: dict) -> dict[str, Any]:
    """Return the entries that are None, a bool, a number or a short text."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(name, str) and isinstance(value, type(None) | bool | int | float | str)
        if not isinstance(value, str) or len(value) <= _MAX_TEXT
    }
