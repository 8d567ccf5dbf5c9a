"""Reading an uncompressed member of a zip in place."""

from __future__ import annotations

import io
import os
import struct
import zipfile

_LOCAL_HEADER = struct.Struct("<4s22sHH")  # signature, fields that the directory repeats, name length, extra length


class StoredMember(io.RawIOBase):
    """A seekable, read-only view of a stored (not deflated) zip member, with its own file handle.

    `zipfile` can seek in a stored member only by reading from its start; a decoder seeks all the time.
    """

    def __init__(self, path: str | os.PathLike[str], info: zipfile.ZipInfo) -> None:
        self._file = open(path, "rb")  # noqa: SIM115 - closed in close()
        self._file.seek(info.header_offset)
        header = self._file.read(_LOCAL_HEADER.size)
        if len(header) < _LOCAL_HEADER.size or not header.startswith(b"PK\3\4"):
            self._file.close()
            raise zipfile.BadZipFile(f"no local header of {info.filename}")
        _, _, name_length, extra_length = _LOCAL_HEADER.unpack(header)
        self._start = info.header_offset + _LOCAL_HEADER.size + name_length + extra_length
        self._size = info.file_size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: memoryview) -> int:
        count = max(0, min(len(buffer), self._size - self._position))
        self._file.seek(self._start + self._position)
        data = self._file.read(count)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()
