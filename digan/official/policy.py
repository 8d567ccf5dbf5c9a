"""Decide what of a snapshot's pickle is read, what stays an inert record, and what is refused.

Nothing in the file is executed, since no name is ever looked up (see `unpickle`). Whatever no official snapshot
contains is refused nevertheless, so that a file that was tampered with is not taken for a network:

- Calls: those in `_CALLS` (tensors, containers, numpy scalars) are imitated. Those in `_INERT_CALLS` and of the
  `_INERT_LIBRARIES` become records. All others are refused.
- Objects of classes become records, whatever the class (of omegaconf, torch.distributions, dnnlib or unknown).
- Names in Python's standard library (os, subprocess, builtins.exec, ...) are refused, except those in
  `_STANDARD_NAMES`, those in typing, and the calls above.
- The pickles inside the file that describe the storage of a tensor may contain that description only.
- Objects outside the file are refused, and more instructions, text or bytes than a snapshot needs or the file has.
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
from digan.official.unpickle import (
    Budget,
    Damage,
    Global,
    InertUnpickler,
    Record,
    Refusal,
    Stream,
    check_keys,
    set_items,
)

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

_STORAGE_MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before it wrote zip files
_STORAGE_VERSION = 1001
_STORAGE_DTYPES = {
    **{
        f"{name}Storage": getattr(torch, name.lower())
        for name in "Double Float Half BFloat16 Long Int Short Bool".split()
    },
    **{"CharStorage": torch.int8, "ByteStorage": torch.uint8},
}
_MAX_DIMENSIONS = 8
_MAX_ARGUMENTS = 8
# numpy type name -> struct format.
_NUMPY_FORMATS = {"f8": "d", "f4": "f", "f2": "e", "i8": "q", "i4": "i", "i2": "h", "i1": "b", "b1": "?"} | {
    **{"u8": "Q", "u4": "I", "u2": "H", "u1": "B"}
}


@dataclass(eq=False, slots=True)
class Storage:
    """The elements that tensors share, as bytes of the file, little endian."""

    dtype: torch.dtype
    numel: int
    data: memoryview | None = None


@dataclass(eq=False, slots=True)
class StoredTensor:
    """A tensor whose elements are still in the file: a valid view of its storage. Offset and strides in elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def read(self) -> Tensor:
        """Return a copy on the CPU, of the stored shape and dtype."""
        if self.numel == 0:
            return torch.empty(self.shape, dtype=self.storage.dtype)
        whole = torch.frombuffer(self.storage.data, dtype=self.storage.dtype)
        return whole.as_strided(self.shape, self.stride, self.offset).clone(memory_format=torch.contiguous_format)


class Snapshot(NamedTuple):
    """What `load` returns.

    Attributes:
        value: The pickled value: builtin containers, text and numbers, `Global`, `Record` and `StoredTensor`.
        inert: How many records there are of each class or function.
    """

    value: Any
    inert: Counter[str]


def load(path: str | os.PathLike[str]) -> Snapshot:
    """Read a pickle of protocol 0 to 5 without running any of it.

    Tensors and long byte strings stay in a memory map of the file until they are read.

    Raises:
        NetworkError: The file is refused (see above), damaged, or not a pickle.
    """
    path = Path(path)
    if not path.is_file():
        raise NetworkError(f"{path} is not a file: give an official snapshot (network-snapshot-*.pkl).")
    with path.open("rb") as file:
        if problem := _foreign(file.read(16), path.stat().st_size):
            raise NetworkError(f"{path} {problem}.")
        # Copy on write: torch warns about read-only memory, and the file must not change.
        view = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
    unpickler = _SnapshotUnpickler(Stream(view, Budget()))
    try:
        value = unpickler.load()
    except Refusal as refusal:
        raise NetworkError(f"{path} {refusal}, which no official snapshot does; nothing of it was run.") from None
    except Damage as damage:
        raise NetworkError(
            f"{path} is not a pickle, or is damaged ({damage}, at byte {unpickler.stream.position:,}): "
            "download the official snapshot again."
        ) from None
    return Snapshot(value, unpickler.inert)


def _foreign(head: bytes, size: int) -> str | None:
    """Return what another kind of file is, by its first bytes, and what to do; None if it may be a snapshot."""
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


class _SnapshotUnpickler(InertUnpickler):
    def find_global(self, name: Global) -> Global:
        standard = name.module.partition(".")[0] in sys.stdlib_module_names and name.module != "typing"
        if standard and not (name in _STANDARD_NAMES or name in _CALLS or name in _INERT_CALLS):
            raise Refusal(f"names {name}")
        return name

    def call(self, function: Global, args: tuple) -> Any:
        if function in _CALLS:
            if len(args) > _MAX_ARGUMENTS:  # a call copies its arguments, and the file may repeat it with the same ones
                raise Damage(f"it has {len(args):,} arguments for {function}")
            return _CALLS[function](self, *args)
        inert_library = any(function.module.startswith(f"{library}.") for library in _INERT_LIBRARIES)
        if function not in _INERT_CALLS and not inert_library:
            return super().call(function, args)
        return self.record(function, args)


class _StorageUnpickler(InertUnpickler):
    """Read the pickles that describe a storage: plain values, and a persistent id in place of the storage itself."""

    def find_global(self, name: Global) -> Global:
        if name.module not in ("torch", "torch.cuda") or name.name not in _STORAGE_DTYPES:
            raise Refusal(f"names {name} where the storage of a tensor is described")
        return name

    def persistent_load(self, pid: Any) -> Storage:
        match pid:
            case ("storage", Global(name=name), str(), str(), int(numel), None):
                return Storage(_STORAGE_DTYPES[name], numel)
        raise Refusal("refers to an object outside the file where the storage of a tensor is described")


def _storage(unpickler: InertUnpickler, data: bytes | memoryview) -> Storage:
    """Read what `torch.save` wrote of a storage before it used zip files: five pickles, the size, and the elements.

    `torch.load(weights_only=True)` is no substitute: its time is not bounded (a key of nested tuples), it allocates
    whatever size the file announces, it leaves memory uninitialized that no key names, and it copies the elements.
    """
    if not isinstance(data, memoryview):  # short, or encoded text; torch must not write to Python's own bytes
        unpickler.stream.budget.spend(text=len(data))
        data = memoryview(bytearray(data))
    stream = Stream(data, unpickler.stream.budget)
    magic, version, system, storage, keys = (_StorageUnpickler(stream).load() for _ in range(5))
    if magic != _STORAGE_MAGIC or version != _STORAGE_VERSION or not isinstance(storage, Storage):
        raise Damage("the storage of a tensor is not described in torch's format")
    if not isinstance(system, dict) or system.get("little_endian") is not True:
        raise Damage("it was written on a big-endian machine")
    if not isinstance(keys, list) or len(keys) != 1 or struct.unpack("<q", stream.read(8))[0] != storage.numel:
        raise Damage("the storage of a tensor differs in size from its description")
    storage.data = stream.view(storage.numel * storage.dtype.itemsize)
    return storage


def _tensor(
    _: InertUnpickler, storage: Storage, offset: int, shape: tuple, stride: tuple, *unused: Any
) -> StoredTensor:
    # The file could change the length of a list after this check.
    tuples = isinstance(shape, tuple) and isinstance(stride, tuple) and len(shape) == len(stride) <= _MAX_DIMENSIONS
    if not isinstance(storage, Storage) or not tuples:
        raise Damage("a tensor is not described in torch's format")
    if not all(isinstance(n, int) and 0 <= n < 2**63 for n in (offset, *shape, *stride)):
        raise Damage("a tensor has sizes that are not natural numbers")
    tensor = StoredTensor(storage, offset, shape, stride)
    last = offset + sum((size - 1) * step for size, step in zip(shape, stride, strict=True))
    if tensor.numel and (last >= storage.numel or tensor.numel > storage.numel):
        raise Damage("a tensor reaches beyond its storage")
    return tensor


def _scalar(unpickler: InertUnpickler, dtype: Any, data: Any) -> Any:
    """Return a numpy scalar as a Python number, or a record if it is neither integer, float nor bool."""
    match dtype:
        case Record(args=(str(name), *_), state=(_, str(order), *_)) if name in _NUMPY_FORMATS:
            layout = struct.Struct((">" if order == ">" else "<") + _NUMPY_FORMATS[name])
            data = data.encode("latin1") if isinstance(data, str) and len(data) == layout.size else data
            return layout.unpack(data)[0]
    return unpickler.record(Global("numpy", "generic"), (dtype, data))


def _mapping(unpickler: InertUnpickler, items: Any = ()) -> dict:
    if isinstance(items, Global):  # the default factory of a defaultdict
        items = ()
    return set_items({}, [part for key, value in _copied(unpickler, items) for part in (key, value)])


def _set(unpickler: InertUnpickler, items: list | tuple = ()) -> set:
    items = _copied(unpickler, items)
    check_keys(items)
    return set(items)


def _copied(unpickler: InertUnpickler, items: list | tuple = ()) -> list:
    """Return a copy of the items, charged to the budget: a few instructions could copy one list many times."""
    unpickler.stream.budget.spend(instructions=len(items))
    return list(items)


def _encoded(unpickler: InertUnpickler, text: str, encoding: str) -> bytes:
    """Return a byte string of protocols 0 to 2."""
    if not isinstance(text, str) or encoding != "latin1":
        raise Refusal("asks to encode text in a way that pickle does not")
    unpickler.stream.budget.spend(text=len(text))
    return text.encode("latin1")


def _subscripted(unpickler: InertUnpickler, origin: Any, parameters: Any) -> Record:
    """Return a record of a type such as Optional[int] in a typed configuration."""
    if not isinstance(origin, Global) or origin.module != "typing":
        raise Refusal("asks to call operator.getitem")
    return unpickler.record(origin, (parameters,))


# The unpickler, then the arguments that the file passes -> the value.
_CALLS: dict[Global, Callable[..., Any]] = {
    Global("torch.storage", "_load_from_bytes"): _storage,
    Global("torch._utils", "_rebuild_tensor_v2"): _tensor,
    Global("torch._utils", "_rebuild_parameter"): lambda unpickler, data, *unused: data,
    Global("torch._utils", "_rebuild_parameter_with_state"): lambda unpickler, data, *unused: data,
    Global("torch", "Size"): lambda *args: tuple(_copied(*args)),
    Global("numpy.core.multiarray", "scalar"): _scalar,
    Global("numpy._core.multiarray", "scalar"): _scalar,
    Global("collections", "OrderedDict"): _mapping,
    Global("collections", "defaultdict"): _mapping,
    Global("builtins", "dict"): _mapping,
    Global("builtins", "list"): _copied,
    Global("builtins", "set"): _set,
    Global("builtins", "frozenset"): lambda *args: frozenset(_set(*args)),
    Global("_codecs", "encode"): _encoded,
    Global("operator", "getitem"): _subscripted,
}
