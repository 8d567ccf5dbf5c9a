"""Read a member of a zip as a seekable file: in place if it is uncompressed, else decompressed once."""

from __future__ import annotations

import io
import os
import shutil
import struct
import tempfile
import zipfile
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

_LOCAL_HEADER = struct.Struct("<4s22sHH")  # signature, fields repeated in the directory, name length, extra length

IN_MEMORY = 1 << 24  # bytes of a decompressed member that are kept in memory; a larger one goes to a temporary file


class View(io.RawIOBase):
    """A seekable, read-only view of part of an open file.

    Each has a position of its own, so that several decoders can read one file. Closing it leaves the file open.
    """

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file, self._start, self._size = file, start, size
        self._position = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def tell(self) -> int:
        """Return the position in the view."""
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a position in the view and return it."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer) -> int:
        """Fill `buffer` from the current position and return the number of bytes read."""
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self._size - self._position))
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class StoredMember(View):
    """A seekable, read-only view of a stored (not deflated) zip member, with its own file handle.

    `zipfile` can seek in a stored member only by reading from its start; a decoder seeks all the time.
    """

    def __init__(self, path: str | os.PathLike[str], info: zipfile.ZipInfo) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed in close()
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            self._file.close()
            raise zipfile.BadZipFile(f"{info.filename} has no local header")
        _, _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        super().__init__(self._file, start, info.file_size)

    def close(self) -> None:
        """Close the file handle."""
        self._file.close()
        super().close()


class InflatedMember(tempfile.SpooledTemporaryFile):
    """A seekable copy of a compressed zip member: in memory if it is small, else in a temporary file on disk.

    Attributes:
        spilled: the bytes that the copy occupies.
    """

    def __init__(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> None:
        super().__init__(max_size=IN_MEMORY)
        self.spilled = info.file_size
        try:
            self._check_space()
            # zipfile yields at most the size that the directory states, and checks the CRC at the end.
            with archive.open(info) as compressed:
                shutil.copyfileobj(compressed, self, 1 << 20)
        except BaseException:
            self.close()
            raise
        self.seek(0)

    def __del__(self) -> None:
        # Readers may be dropped without being closed; the base class would warn.
        self.close()

    def _check_space(self) -> None:
        folder = tempfile.gettempdir()
        free = shutil.disk_usage(folder).free
        if self.spilled > max(IN_MEMORY, free):
            raise OSError(
                f"its {self.spilled / 1e9:,.1f} GB, decompressed, do not fit into {folder}, where "
                f"{free / 1e9:,.1f} GB are free: unpack the zip"
            )
