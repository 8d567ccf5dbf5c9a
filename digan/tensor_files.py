"""Safetensors files whose bytes depend on their content alone, with a checksum that reading compares; `torch.save`."""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from digan.files import atomic_path, parse_json, write_atomic

LATENTS = "digan-latents-1"  # the format in the metadata of latents; networks state none
_METADATA = "__metadata__"
_CHECKSUM = "sha256"  # key of the metadata: SHA-256 of the header without this key, and of the tensors
_CHECKED = "checksum"  # key that records that there is a checksum, so that damage to either key is noticed


class DamagedFile(ValueError):
    """A file is not a safetensors file, or does not hold what was written; the message is the reason."""


def write_tensors(path: str | os.PathLike, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and metadata atomically.

    The library writes the metadata in an order that varies from process to process; here it is sorted.

    Raises:
        OSError: the file cannot be written.
    """
    content = save({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, dict(metadata))
    header, data = _split(content)
    header[_METADATA] |= {**metadata, _CHECKED: _CHECKSUM}
    header[_METADATA][_CHECKSUM] = _checksum(header, data)
    text = _canonical(header)
    text += b" " * (-len(text) % 8)  # the tensors start at a multiple of 8 bytes
    write_atomic(path, b"".join([len(text).to_bytes(8, "little"), text, data]))


def read_tensors(path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors and the metadata of a file. If it has no checksum, another program or version wrote it.

    Raises:
        DamagedFile: the file is damaged or of another type.
        OSError: it cannot be read.
    """
    content = Path(path).read_bytes()
    header, data = _split(content)
    metadata = header[_METADATA]
    expected = metadata.pop(_CHECKSUM, None)
    if (_CHECKED in metadata or expected is not None) and expected != _checksum(header, data):
        raise DamagedFile("its checksum differs")
    metadata.pop(_CHECKED, None)
    try:
        return load(content), metadata
    except (SafetensorError, ValueError, KeyError, RuntimeError) as error:
        raise DamagedFile(str(error).splitlines()[0]) from None


def is_tensor_file(path: Path) -> bool:
    """Return whether a file starts as a safetensors file does: the length of the header, 8 bytes, then JSON."""
    with open(path, "rb") as file:
        start = file.read(9)
    return start[8:] == b"{" and int.from_bytes(start[:8], "little") < path.stat().st_size


def write_object(path: str | os.PathLike, value: Any) -> None:
    """Write a value atomically with `torch.save`.

    Raises:
        OSError: the file cannot be written.
    """
    with atomic_path(path) as draft, _ErrorKeepingFile(draft, "w") as file:
        try:
            torch.save(value, file)
        except RuntimeError:  # about a file position, whatever the file's own error was
            if file.error is None:
                raise
        # Not in the handler: an error that leads to the frames of torch.save would keep its writer alive, which may
        # crash when Python ends.
        if file.error is not None:
            raise file.error


class _ErrorKeepingFile(io.FileIO):
    """An unbuffered file that writes every block completely and keeps the error of a failed write, without frames."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                written += super().write(view[written:]) or 0
        except OSError as error:
            self.error = OSError(error.errno, error.strerror)
            raise
        return written


def _split(content: bytes) -> tuple[dict[str, Any], memoryview]:
    """Return the header and the bytes of the tensors."""
    end = 8 + int.from_bytes(content[:8], "little")
    try:
        if end > len(content):
            raise ValueError
        header = parse_json(content[8:end])
        if not isinstance(header, dict) or not isinstance(header.setdefault(_METADATA, {}), dict):
            raise ValueError
    except ValueError:
        raise DamagedFile("it has no header of a safetensors file") from None
    return header, memoryview(content)[end:]


def _canonical(header: dict[str, Any]) -> bytes:
    return json.dumps(header, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode(errors="surrogatepass")


def _checksum(header: dict[str, Any], data: memoryview) -> str:
    digest = hashlib.sha256(_canonical(header))
    digest.update(data)
    return digest.hexdigest()
