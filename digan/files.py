"""File writes that leave the old file, a complete new one or an `OSError`, whichever library writes."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on an error it is removed.

    A reader therefore sees either the old file or the complete new one. Missing parent folders are created. The file
    gets the default permissions of a new file, whatever permissions its writer set.

    Raises:
        OSError: the file cannot be written; `filename` is `path`, not the temporary path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    except OSError as error:
        if error.errno is not None and error.filename in (None, str(temporary)):
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise
    finally:
        temporary.unlink(missing_ok=True)


def save_tensors(tensors: Mapping[str, Tensor], path: Path, metadata: dict[str, str] | None = None) -> None:
    """Write tensors to a safetensors file.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        save_file({name: t.detach().contiguous() for name, t in tensors.items()}, path, metadata=metadata)
    except SafetensorError as error:
        code = re.search(r"\(os error (\d+)\)", str(error))
        if code is None:
            raise
        raise OSError(int(code[1]), os.strerror(int(code[1])), str(path)) from error


def save_object(value: Any, path: Path) -> None:
    """Write a value with `torch.save`.

    Raises:
        OSError: the file cannot be written.
    """
    with _ErrorKeepingFile(path, "w") as file:
        try:
            torch.save(value, file)
        except RuntimeError:  # about a file position, whatever the file's own error was
            if file.error is None:
                raise
            raise OSError(file.error.errno, file.error.strerror, str(path)) from file.error


class _ErrorKeepingFile(io.FileIO):
    """An unbuffered file that writes every block completely and keeps the error of a write that failed."""

    error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        written = 0
        try:
            while written < len(view):
                written += super().write(view[written:]) or 0
        except OSError as error:
            self.error = error
            raise
        return written


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text from a file.

    Raises:
        ValueError: the text is not JSON, or not UTF-8, or nested more deeply than Python can parse.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None
