"""Official snapshots as plain data: what of a pickle is understood, what is left inert, and what is refused.

Nothing in the file is executed, as no name is ever looked up (see ``inert_pickle``): whatever it holds is harmless.
What no official snapshot contains is refused all the same, so that nobody takes a file that was tampered with for a
network:

- calls: a few are understood here (``_CALLS``: tensors, containers, numpy's numbers); ``_INERT_CALLS`` and those of the
  libraries in ``_INERT_LIBRARIES`` leave a record. Any other is refused, whoever's function or class it is;
- objects of classes: records, of whatever class (omegaconf's, torch.distributions', dnnlib's, unknown ones);
- names of Python's standard library: refused (os, subprocess, builtins.exec, ...) but for ``_STANDARD_NAMES``, typing
  and the calls above;
- the small pickles inside that describe the memory of a tensor: anything but that description is refused;
- objects outside of the file, and more instructions, text or bytes than a snapshot needs or than the file has: refused.
"""

from __future__ import annotations

import math
import mmap
import os
import struct
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from digan.errors import NetworkError
from digan.inert_pickle import Budget, Damage, Global, Machine, Record, Refusal, Stream, hashable, put_items

PERSISTENT_OBJECT = Global("torch_utils.persistence", "_reconstruct_persistent_obj")

_INERT_CALLS = {
    PERSISTENT_OBJECT,
    *(Global("builtins", name) for name in ("bytearray", "complex", "object", "range", "slice")),
    *(Global("collections", name) for name in ("Counter", "deque")),
    *(Global("copyreg", name) for name in ("_reconstructor", "__newobj__")),
    *(Global("datetime", name) for name in ("date", "datetime", "timedelta", "timezone")),
    *(Global("pathlib", name) for name in ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath")),
    *(Global(f"numpy.{core}.multiarray", "_reconstruct") for core in ("core", "_core")),
    Global("numpy", "dtype"),
    Global("torch", "device"),
}
_INERT_LIBRARIES = ("omegaconf", "torch.distributions")  # enumerations are pickled as calls of their classes
_STANDARD_NAMES = {
    *(Global("builtins", t.__name__) for t in (bool, bytes, dict, float, int, list, str, tuple, type)),
    Global("argparse", "Namespace"),
    Global("types", "SimpleNamespace"),
}

_STORAGE_MAGIC = 0x1950A86A20F9469CFC6C  # torch.save's, before zip files
_STORAGE_VERSION = 1001
_STORAGE_DTYPES = {
    f"{name}Storage": dtype
    for name, dtype in [
        ("Double", torch.float64),
        ("Float", torch.float32),
        ("Half", torch.float16),
        ("BFloat16", torch.bfloat16),
        ("Long", torch.int64),
        ("Int", torch.int32),
        ("Short", torch.int16),
        ("Char", torch.int8),
        ("Byte", torch.uint8),
        ("Bool", torch.bool),
    ]
}
_MAX_DIMENSIONS = 8
_MAX_ARGUMENTS = 8
# Struct formats of numpy's type names.
_NUMPY_FORMATS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "b1": "?"} | {
    **{"u8": "Q", "u4": "I", "u2": "H", "u1": "B"}
}


@dataclass(eq=False, slots=True)
class Storage:
    """Memory of tensors: their bytes in the file, little endian."""

    dtype: torch.dtype
    numel: int
    data: memoryview | None = None


@dataclass(eq=False, slots=True)
class StoredTensor:
    """A tensor that was not read yet; it lies inside its storage and has no more elements. Offsets in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return math.prod(self.shape)

    def read(self) -> Tensor:
        """A copy on the CPU, of the stored shape and dtype."""
        if self.numel == 0:
            return torch.empty(self.shape, dtype=self.storage.dtype)
        whole = torch.frombuffer(self.storage.data, dtype=self.storage.dtype)
        return whole.as_strided(self.shape, self.stride, self.offset).clone(memory_format=torch.contiguous_format)


class Snapshot(NamedTuple):
    """What ``load`` returns.

    Attributes:
        value: the pickled value in builtin containers, text and numbers, ``Global``, ``Record`` and ``StoredTensor``.
        inert: how often each class or function occurred whose object stayed a record.
    """

    value: Any
    inert: Counter[str]


def load(path: str | os.PathLike[str]) -> Snapshot:
    """Read a pickle (protocols 0 to 5) without running anything of it.

    Tensors and large byte strings stay in a memory map of the file until they are asked for.

    Raises:
        NetworkError: the file is refused (see above), damaged, or no pickle; one sentence that says which.
    """
    path = Path(path)
    if not path.is_file():
        raise NetworkError(f"{path} is not a file: give an official snapshot (network-snapshot-*.pkl).")
    with path.open("rb") as file:
        if problem := _foreign(file.read(16), path.stat().st_size):
            raise NetworkError(f"{path} {problem}.")
        # Copy on write: torch wants memory that it might write to, and the file must stay as it is.
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    machine = _SnapshotMachine(Stream(view, Budget()))
    try:
        value = machine.run()
    except Refusal as refusal:
        raise NetworkError(f"{path} {refusal}, which no official snapshot does; nothing of it was run.") from None
    except Damage as damage:
        raise NetworkError(
            f"{path} is no pickle or a damaged one ({damage}, at byte {machine.stream.position:,}): "
            "download the official snapshot again."
        ) from None
    return Snapshot(value, machine.inert)


def _foreign(head: bytes, size: int) -> str | None:
    """What a file that begins like this is, if people take it for a snapshot, and what to do about it."""
    if not size:
        return "is empty: download the official snapshot again"
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<"):  # perhaps after a byte order mark
        return "is a web page, not a snapshot: open it in a browser, and download what it links to"
    if head.startswith(b"version https://"):
        return "is a pointer to a file in Git LFS: fetch the file itself with `git lfs pull`"
    if head.startswith(b"PK\x03\x04"):
        return "is a zip file, perhaps of torch.save: give the official snapshot (network-snapshot-*.pkl), unpacked"
    if head.startswith((b"\x1f\x8b", b"\xfd7zXZ", b"BZh")):
        return "is compressed: unpack it first"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
        return "is a safetensors file, which needs no conversion: give it to `digan sample --network`"
    return None


class _SnapshotMachine(Machine):
    def name(self, name: Global) -> Global:
        standard = name.module.partition(".")[0] in sys.stdlib_module_names and name.module != "typing"
        if standard and not (name in _STANDARD_NAMES or name in _CALLS or name in _INERT_CALLS):
            raise Refusal(f"names {name}")
        return name

    def call(self, function: Global, args: tuple) -> Any:
        if function in _CALLS:
            if len(args) > _MAX_ARGUMENTS:  # to pass them on takes time, and the same ones may be passed many times
                raise Damage(f"it has {len(args):,} arguments for {function}")
            return _CALLS[function](self, *args)
        inert_library = any(function.module.startswith(f"{library}.") for library in _INERT_LIBRARIES)
        if function not in _INERT_CALLS and not inert_library:
            return super().call(function, args)
        return self.record(function, args)


class _StorageMachine(Machine):
    """Reads the pickles that describe a storage: plain values, and one persistent id in place of the storage itself."""

    def name(self, name: Global) -> Global:
        if name.module not in ("torch", "torch.cuda") or name.name not in _STORAGE_DTYPES:
            raise Refusal(f"names {name} where the memory of a tensor is described")
        return name

    def persistent(self, identity: Any) -> Storage:
        match identity:
            case ("storage", Global(name=name), str(), str(), int(numel), None):
                return Storage(_STORAGE_DTYPES[name], numel)
        raise Refusal("refers to an object outside of the file where the memory of a tensor is described")


def _storage(machine: Machine, data: bytes | memoryview) -> Storage:
    """What torch.save wrote of a storage before it used zip files: five pickles, number of elements, their bytes."""
    if not isinstance(data, memoryview):  # short, or made of text: torch must not write to Python's own bytes
        machine.stream.budget.spend(text=len(data))
        data = memoryview(bytearray(data))
    stream = Stream(data, machine.stream.budget)
    magic, version, system, storage, keys = (_StorageMachine(stream).run() for _ in range(5))
    if magic != _STORAGE_MAGIC or version != _STORAGE_VERSION or not isinstance(storage, Storage):
        raise Damage("the memory of a tensor is not described as torch does")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Damage("it was written on a big-endian machine")
    if not isinstance(keys, list) or len(keys) != 1 or struct.unpack("<q", stream.read(8))[0] != storage.numel:
        raise Damage("the memory of a tensor has another size than it announces")
    storage.data = stream.view(storage.numel * storage.dtype.itemsize)
    return storage


def _tensor(machine: Machine, storage: Storage, offset: int, shape: tuple, stride: tuple, *unused: Any) -> StoredTensor:
    # Of lists the file could change the length after it was checked.
    tuples = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= _MAX_DIMENSIONS
    if not isinstance(storage, Storage) or not tuples:
        raise Damage("a tensor is not described as torch does")
    if not all(isinstance(n, int) and 0 <= n < 2**63 for n in (offset, *shape, *stride)):
        raise Damage("a tensor has sizes that are not natural numbers")
    tensor = StoredTensor(storage, offset, shape, stride)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if tensor.numel and (last >= storage.numel or tensor.numel > storage.numel):
        raise Damage("a tensor reaches beyond its memory")
    return tensor


def _number(machine: Machine, dtype: Any, data: Any) -> Any:
    """A numpy scalar as a Python number; a record if it is neither integer, float nor truth value."""
    match dtype:
        case Record(args=(str(name), *_), state=(_, str(order), *_)) if name in _NUMPY_FORMATS:
            form = struct.Struct((">" if order == ">" else "<") + _NUMPY_FORMATS[name])
            data = data.encode("latin1") if isinstance(data, str) and len(data) == form.size else data
            return form.unpack(data)[0]
    return machine.record(Global("numpy", "generic"), (dtype, data))


def _mapping(machine: Machine, items: Any = ()) -> dict:
    if isinstance(items, Global):  # what a defaultdict makes of a key that is missing
        items = ()
    return put_items({}, [part for key, value in _copied(machine, items) for part in (key, value)])


def _copied(machine: Machine, items: list | tuple) -> list:
    """The items, paid for: a few instructions may copy one list any number of times."""
    machine.stream.budget.spend(instructions=len(items))
    return list(items)


def _encoded(machine: Machine, text: str, encoding: str) -> bytes:
    """Byte strings of protocols 0 to 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refusal("asks to encode text in a way that pickle does not")
    machine.stream.budget.spend(text=len(text))
    return text.encode("latin1")


def _subscripted(machine: Machine, origin: Any, parameters: Any) -> Record:
    """Types such as Optional[int] of a typed configuration."""
    if not isinstance(origin, Global) or origin.module != "typing":
        raise Refusal("asks to call operator.getitem")
    return machine.record(origin, (parameters,))


_CALLS: dict[Global, Callable[..., Any]] = {
    Global("torch.storage", "_load_from_bytes"): _storage,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_parameter"): lambda machine, data, *unused: data,
    Global("torch._utils", "_rebuild_parameter_with_state"): lambda machine, data, *unused: data,
    Global("torch", "Size"): lambda machine, size=(): tuple(_copied(machine, size)),
    Global("numpy.core.multiarray", "scalar"): _number,
    Global("numpy._core.multiarray", "scalar"): _number,
    Global("collections", "OrderedDict"): _mapping,
    Global("collections", "defaultdict"): _mapping,
    Global("builtins", "dict"): _mapping,
    Global("builtins", "list"): lambda machine, items=(): _copied(machine, items),
    Global("builtins", "set"): lambda machine, items=(): set(map(hashable, _copied(machine, items))),
    Global("builtins", "frozenset"): lambda machine, items=(): frozenset(map(hashable, _copied(machine, items))),
    Global("_codecs", "encode"): _encoded,
    Global("operator", "getitem"): _subscripted,
}
