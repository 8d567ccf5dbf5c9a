"""Files and folders that appear whole or not at all, the names of their drafts, checksums, and JSON from files."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Names of drafts, also those of earlier versions and of the safetensors library.
_DRAFT = re.compile(r"\.tmp.*|\..+\.[0-9a-f]{8}(\.\w+)?|\..+\.partial")


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a temporary path beside `path`; on success it replaces `path`, on an error it is removed.

    A reader therefore sees either the old file or the complete new one, even after a power failure. Missing parent
    folders are created. The file gets the default permissions of a new file, whatever permissions its writer set.

    Raises:
        OSError: the file cannot be written; `filename` is `path`, not the temporary path.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = _draft_of(path)
    try:
        with _errors_renamed(path, draft):
            yield draft
            mask = os.umask(0)
            os.umask(mask)
            draft.chmod(0o666 & ~mask)
            _sync(draft)
            os.replace(draft, path)
            _sync_folder(path.parent)
    finally:
        draft.unlink(missing_ok=True)


@contextlib.contextmanager
def atomic_folder(path: str | os.PathLike) -> Iterator[Path]:
    """Yield a new temporary folder beside `path` for files; on success it replaces `path`, whatever stood there.

    On an error it is removed, and `path` stays as it was.

    Raises:
        OSError: it cannot be written; `filename` is `path` or the file in it, not a temporary path.
    """
    path = Path(path)
    draft = _draft_of(path)
    try:
        with _errors_renamed(path, draft):
            draft.mkdir(parents=True)
            yield draft
            for file in draft.iterdir():
                _sync(file)
            _sync_folder(draft)
            if os.path.lexists(path):
                old = _draft_of(path)
                os.replace(path, old)
                os.replace(draft, path)
                remove(old)
            else:
                os.replace(draft, path)
            _sync_folder(path.parent)
    finally:
        remove(draft)


@contextlib.contextmanager
def _errors_renamed(path: Path, draft: Path) -> Iterator[None]:
    """Replace the draft's path by `path` in system errors, and add `path` to those that name no file."""
    try:
        yield
    except OSError as error:
        named = draft if error.filename is None else Path(os.fsdecode(error.filename))
        if error.errno is None or not named.is_relative_to(draft):
            raise
        raise OSError(error.errno, error.strerror, str(path / named.relative_to(draft))) from error


def write_atomic(path: str | os.PathLike, content: str | bytes) -> None:
    """Write a file atomically; text is encoded as UTF-8, and the bytes of names that are no text as escapes."""
    with atomic_path(path) as draft:
        draft.write_bytes(content.encode(errors="backslashreplace") if isinstance(content, str) else content)


def remove(path: Path) -> None:
    """Remove a file, a link or a folder with its content, if it is there and can be removed."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):
            path.unlink()


def remove_drafts(folder: Path, age: float = 0) -> list[Path]:
    """Remove drafts that killed processes left in a folder.

    Args:
        folder: the folder; it need not exist.
        age: seconds for which a draft must be unchanged, where other processes may be writing.

    Returns:
        The removed paths.
    """
    removed = []
    with contextlib.suppress(OSError):
        for path in sorted(folder.iterdir()):
            if _DRAFT.fullmatch(path.name) and path.lstat().st_mtime <= time.time() - age:
                remove(path)
                removed.append(path)
    return removed


def checksum(path: str | os.PathLike) -> str:
    """Return the SHA-256 of a file, 64 hex digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def seal(content: bytes) -> bytes:
    """Return the content followed by its SHA-256, for `unseal`."""
    return content + hashlib.sha256(content).digest()


def unseal(sealed: bytes) -> bytes:
    """Return the content of a result of `seal`.

    Raises:
        ValueError: it is damaged, or something else.
    """
    content = sealed[: -hashlib.sha256().digest_size]
    if seal(content) != sealed:
        raise ValueError("the checksum differs")
    return content


def parse_json(text: str | bytes) -> Any:
    """Return the value of a JSON text from a file.

    Raises:
        ValueError: the text is not JSON, or not UTF-8, or nested more deeply than Python can parse.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("the JSON is nested too deeply") from None


def _draft_of(path: Path) -> Path:
    return path.with_name(f".{path.stem}.{uuid.uuid4().hex[:8]}{path.suffix}")


def _sync(file: Path) -> None:
    """Wait until the content of a file is on the disk."""
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, on systems that can."""
    with contextlib.suppress(OSError):
        _sync(folder)
