"""The networks of an official snapshot as ours: what is stored, under which names, and whether it fits."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from digan import official
from digan.errors import NetworkError
from digan.inert_pickle import Record
from digan.inert_snapshot import PERSISTENT_OBJECT, StoredTensor, load
from digan.models.discriminator import IMAGE_CHANNELS, MOTION_CHANNELS, Discriminator
from digan.models.generator import Generator

NETWORKS = ("G_ema", "G", "D")
DISCRIMINATORS = {"d_image": IMAGE_CHANNELS, "d_motion": MOTION_CHANNELS}  # by the names that checkpoints have

_MAX_PARTS = 100_000  # attributes, parameters and modules; a network has about 3,000. One part may stand at many places
_MAX_NAME = 200
_MAX_TEXT = 1000  # of an attribute worth keeping
_MAX_LEFT_OUT = 20

_Network = TypeVar("_Network", bound=nn.Module)


@dataclass
class StoredNetwork:
    """A network as the snapshot stores it.

    Attributes:
        kind: name of its class.
        tensors: parameters and buffers by their official names.
        parameters: how many numbers the parameters are.
        attributes: plain values (None, truth values, numbers, text) of its modules, by dotted name.
    """

    kind: str
    tensors: dict[str, StoredTensor] = field(default_factory=dict)
    parameters: int = 0
    attributes: dict[str, Any] = field(default_factory=dict)

    def read(self) -> dict[str, Tensor]:
        """The tensors themselves, floats as float32."""
        tensors = {name: stored.read() for name, stored in self.tensors.items()}
        return {name: x.float() if x.is_floating_point() else x for name, x in tensors.items()}


class OfficialSnapshot:
    """The networks of an official snapshot, read without executing anything of it.

    Attributes:
        names: which of G_ema, G and D it holds.
        left_out: classes whose objects are neither modules nor numbers, with how many there are, most frequent first.

    Raises:
        NetworkError: the file is no official snapshot, or holds what none does (see ``inert_snapshot``); the methods
            raise it too, for a network that is absent or that is not the published model.
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
        """G_ema, G or D as it is stored."""
        if name not in self._records:
            other = next((other for other in ("G_ema", "G") if name != "D" and other in self._records), None)
            remedy = f": give --network {other}" if other else ""
            raise self._error(f"holds no {name}, only {' and '.join(self.names)}{remedy}")
        with self._fitting(name):
            return _stored(self._records[name], self.path.stat().st_size)

    def generator(self, name: str = "G_ema") -> Generator:
        """G_ema or G as ours, on the CPU in evaluation mode."""
        stored = self.stored(name)
        with self._fitting(name):
            state = official.generator_state(stored.read())
            config = replace(official.generator_config(state), **official.generator_constants(stored.attributes))
            return filled(lambda: Generator(config), state)

    def discriminators(self) -> dict[str, Discriminator]:
        """The image discriminator, d_image, and the motion discriminator, d_motion, of one configuration."""
        stored = self.stored("D")
        with self._fitting("D"):
            constants = official.discriminator_constants(stored.attributes)
            states = official.discriminator_states(stored.read())
            configs = [replace(official.discriminator_config(state), **constants) for state in states]
            if configs[0] != configs[1]:
                raise ValueError("imageD and videoD differ in resolution or width")
            return {
                name: filled(lambda channels=channels: Discriminator(configs[0], channels), state)
                for (name, channels), state in zip(DISCRIMINATORS.items(), states, strict=True)
            }

    def provenance(self) -> dict[str, Any]:
        """Where the networks come from, as JSON: file, sha256, the data they were trained on, what was left out."""
        with self.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        known = _plain(self._training_set)
        return {"file": self.path.name, "sha256": digest, "training_set": known, "left_out": self.left_out}

    @contextmanager
    def _fitting(self, name: str) -> Iterator[None]:
        """Whatever does not fit when a network is taken over becomes one sentence."""
        try:
            yield
        except (ValueError, RuntimeError, LookupError, TypeError, ArithmeticError) as error:
            reason = str(error) if isinstance(error, ValueError) else "the shapes of its parameters do not fit"
            raise self._error(f"has a {name} that cannot be converted: {reason.rstrip('.')}") from error

    def _error(self, reason: str) -> NetworkError:
        printable = "".join(character if character.isprintable() else "?" for character in reason[:_MAX_TEXT])
        return NetworkError(f"{self.path} {printable}.")


def filled(make: Callable[[], _Network], state: dict[str, Tensor]) -> _Network:
    """The network that ``make`` builds, with this state, in evaluation mode; RuntimeError if they do not fit.

    That is seen before any memory is taken: sizes read off a file need not belong together.
    """
    with torch.device("meta"):
        make().load_state_dict(state, assign=True)
    network = make()
    network.load_state_dict(state)
    return network.eval()


def _stored(root: Record, file_size: int) -> StoredNetwork:
    """Tensors and attributes of a module and of all below it, named as in state_dict."""
    network = StoredNetwork(_module(root)[0])
    pending = [("", root)]
    parts = 0
    while pending:
        prefix, module = pending.pop()
        state = _module(module)[1]
        parameters, buffers = _children(state, "_parameters", prefix), _children(state, "_buffers", prefix)
        for name in state.get("_non_persistent_buffers_set", ()):  # state_dict leaves them out
            buffers.pop(f"{prefix}{name}", None)
        for name, tensor in (parameters | buffers).items():
            if not isinstance(tensor, StoredTensor):
                raise ValueError(f"{name} is no tensor")
        network.tensors |= parameters | buffers
        network.parameters += sum(tensor.numel for tensor in parameters.values())
        network.attributes |= {f"{prefix}{attribute}": value for attribute, value in _plain(state).items()}
        modules = _children(state, "_modules", prefix)
        pending += [(f"{name}.", child) for name, child in modules.items()]
        parts += len(state) + len(parameters) + len(buffers) + len(modules)
        if parts > _MAX_PARTS or len(prefix) > _MAX_NAME:
            raise ValueError("its modules contain each other")
    # Tensors may share their memory, and a few bytes more name the same one again: they could fill any memory.
    if sum(tensor.numel * tensor.storage.dtype.itemsize for tensor in network.tensors.values()) > file_size:
        raise ValueError("its tensors are larger than the file")
    return network


def _module(record: Any) -> tuple[str, dict]:
    """Class name and __dict__ of a module, whose class the file may bring along (persistent) or not (torch.nn's)."""
    match record:
        case Record(cls=cls, args=({"class_name": str(kind), "state": dict(state)},)) if cls == PERSISTENT_OBJECT:
            return kind, state
        case Record(cls=cls, state=dict(state)):
            return cls.name, state
    raise ValueError("a part of it is no module")


def _children(state: dict, kind: str, prefix: str) -> dict[str, Any]:
    """Entries of a module's _parameters, _buffers or _modules by their full names, without those that are None."""
    children = state.get(kind)
    if not isinstance(children, dict) or not all(isinstance(name, str) for name in children):
        raise ValueError(f"a part of it has no {kind}")
    return {f"{prefix}{name}": child for name, child in children.items() if child is not None}


def _entries(value: Any) -> dict:
    """A mapping, of a plain or of an unknown class such as EasyDict."""
    value = value.entries if isinstance(value, Record) else value
    return value if isinstance(value, dict) else {}


def _plain(values: dict) -> dict[str, Any]:
    """What of a mapping is None, a truth value, a number or a short text."""
    return {
        name: value
        for name, value in values.items()
        if isinstance(name, str) and isinstance(value, type(None) | bool | int | float | str)
        if not isinstance(value, str) or len(value) <= _MAX_TEXT
    }
