"""Find the videos in a folder, a zip or a single file, and the split and class of each."""

from __future__ import annotations

import hashlib
import os
import re
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from digan.data.archive import StoredMember
from digan.errors import DataError

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .gif .mpg .mpeg .ts .mts .wmv .flv .ogv .3gp .divx .y4m".split()
)
IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .bmp .webp".split())
SPLITS = ("train", "val", "test")


class DataNotFound(DataError, FileNotFoundError):
    """A path given on the command line does not exist."""


@dataclass(frozen=True)
class Entry:
    """One video as listed, before it is opened."""

    name: str  # path below the root, with "/" between parts; for a frame folder, that of the folder
    kind: str  # "video" (a file) or "frames" (a folder of pictures)
    signature: str  # changes when the content may have changed: size and time, or the zip's checksum
    num_pictures: int = 0  # in a frame folder; 0 for a file


@dataclass(frozen=True)
class Place:
    """The split and class of an entry."""

    split: str | None  # one of SPLITS; None outside the split folders
    class_name: str | None  # the top folder below the split (or the root); None for a video directly in it


@dataclass
class Scan:
    """The contents of a data path: `entries` sorted by name, and the place of each in `places`."""

    entries: list[Entry]
    places: list[Place]
    problems: list[str] = field(default_factory=list)  # "name: reason" of each unreadable entry
    notes: list[str] = field(default_factory=list)
    other_files: int = 0  # files that are neither videos nor pictures


class Source:
    """Something that videos are read from. Subclasses can be pickled and open nothing before the first call."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield the (name, signature) of every file that is not hidden."""
        raise NotImplementedError

    def open(self, name: str) -> BinaryIO | str:
        """Return a file in a form that PyAV and Pillow can open: a path, or a seekable binary file.

        Raises:
            OSError: the file cannot be read.
        """
        raise NotImplementedError

    def pictures(self, folder: str) -> list[str]:
        """Return the names of the pictures directly in `folder`, in natural order (2 before 10)."""
        raise NotImplementedError


class FolderSource(Source):
    """A folder on disk; symbolic links are followed, except to a folder that contains them."""

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield every file's name with its size and modification time."""
        yield from self._walk(self.path, "", (os.path.realpath(self.path),))

    def _walk(self, folder: Path, prefix: str, ancestors: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        with os.scandir(folder) as listing:
            children = sorted((c for c in listing if not c.name.startswith(".")), key=lambda c: c.name)
        for child in children:
            if child.is_dir():
                real = os.path.realpath(child.path)
                if real not in ancestors:
                    yield from self._walk(Path(child.path), f"{prefix}{child.name}/", (*ancestors, real))
            elif child.is_file():
                stat = child.stat()
                yield prefix + child.name, f"{stat.st_size}:{stat.st_mtime_ns}"

    def open(self, name: str) -> BinaryIO | str:
        """Return the path of a file."""
        return str(self.path / name)

    def pictures(self, folder: str) -> list[str]:
        """Return the names of the pictures directly in `folder`, in natural order."""
        names = [n for n in os.listdir(self.path / folder) if is_picture(n) and not n.startswith(".")]
        return [join(folder, n) for n in sorted(names, key=natural_key)]


class FileSource(Source):
    """A single video file."""

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield the file's name with its size and modification time."""
        stat = self.path.stat()
        yield self.path.name, f"{stat.st_size}:{stat.st_mtime_ns}"

    def open(self, name: str) -> BinaryIO | str:
        """Return the path of the file."""
        return str(self.path)

    def pictures(self, folder: str) -> list[str]:
        """Return nothing: a video file holds no pictures."""
        return []


class ZipSource(Source):
    """A zip archive, opened once per process on first use."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._state: tuple[int, zipfile.ZipFile] | None = None  # process id, archive
        self._folders: dict[str, list[str]] | None = None

    def __getstate__(self) -> dict:
        return {"path": self.path, "_state": None, "_folders": None}

    @property
    def archive(self) -> zipfile.ZipFile:
        """The archive opened by this process."""
        # A handle inherited through fork shares its file position with the parent, so every process opens its own.
        if self._state is None or self._state[0] != os.getpid():
            self._state = (os.getpid(), zipfile.ZipFile(self.path))
        return self._state[1]

    def files(self) -> Iterator[tuple[str, str]]:
        """Yield every file's name with its size and checksum."""
        for info in self.archive.infolist():
            parts = PurePosixPath(info.filename).parts
            if not info.is_dir() and not any(p.startswith(".") or p == "__MACOSX" for p in parts):
                yield info.filename, f"{info.file_size}:{info.CRC:08x}"

    def open(self, name: str) -> BinaryIO | str:
        """Return a stored member read in place, or a compressed one decompressed into memory.

        Raises:
            OSError: the member is absent, damaged, encrypted or compressed by an unknown method.
        """
        try:
            info = self.archive.getinfo(name)
            if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
                return cast(BinaryIO, StoredMember(self.path, info))  # a binary file, though not by its declared type
            return BytesIO(self.archive.read(info))
        except (
            KeyError,
            RuntimeError,
            zipfile.BadZipFile,
            zlib.error,
        ) as error:  # RuntimeError: encrypted, or unknown compression
            raise OSError(f"cannot be read from the zip ({error})") from error

    def pictures(self, folder: str) -> list[str]:
        """Return the names of the pictures directly in `folder`, in natural order."""
        if self._folders is None:
            folders: dict[str, list[str]] = {}
            for name, _ in self.files():
                if is_picture(name):
                    folders.setdefault(parent(name), []).append(name)
            self._folders = folders
        return sorted(self._folders.get(folder, []), key=natural_key)


def open_source(path: str | os.PathLike[str]) -> Source:
    """Return the source for a `--data` path.

    Raises:
        DataError: the path does not exist or is of an unknown kind.
    """
    target = Path(path).expanduser()
    if not target.exists():
        raise DataNotFound(f"--data {path} does not exist: give a folder, a zip or a video file.")
    if target.is_dir():
        return FolderSource(target)
    if target.suffix.lower() in VIDEO_SUFFIXES:
        return FileSource(target)
    if zipfile.is_zipfile(target):
        return ZipSource(target)
    raise DataError(f"--data {path} is neither a folder, nor a zip, nor a video file of a known type.")


def scan(source: Source) -> Scan:
    """List the videos and frame folders of a source with the split and class of each, without opening any video."""
    entries: list[Entry] = []
    folders: dict[str, list[tuple[str, str]]] = {}
    other = 0
    for name, signature in source.files():
        suffix = PurePosixPath(name).suffix.lower()
        if suffix in VIDEO_SUFFIXES:
            entries.append(Entry(name, "video", signature))
        elif suffix in IMAGE_SUFFIXES:
            folders.setdefault(parent(name), []).append((name, signature))
        else:
            other += 1
    for folder, files in folders.items():
        digest = hashlib.sha256(repr(sorted(files)).encode()).hexdigest()[:32]
        entries.append(Entry(folder, "frames", digest, len(files)))
    entries.sort(key=lambda e: (e.name, e.kind))
    result = Scan(entries, [], other_files=other)
    wrapper = _wrapper(entries)
    if wrapper:
        result.notes.append(f"everything is in the folder {wrapper!r}: its subfolders are taken as splits and classes")
    result.places = [_place(entry, 1 if wrapper else 0) for entry in entries]
    return result


def _parts(entry: Entry) -> tuple[str, ...]:
    return PurePosixPath(entry.name).parts  # () for pictures at the root


def _wrapper(entries: Sequence[Entry]) -> str | None:
    """Return the single folder that contains everything, as archives often have; None without one.

    A class folder that happens to be the only one does not count.
    """
    tops = {_parts(e)[0] if len(_parts(e)) > 1 else None for e in entries}
    if len(tops) != 1 or None in tops:
        return None
    (top,) = tops
    if top.lower() in SPLITS:
        return None
    below_is_split = any(_parts(e)[1].lower() in SPLITS for e in entries)
    return top if below_is_split or all(len(_parts(e)) > 2 for e in entries) else None


def _place(entry: Entry, skip: int) -> Place:
    parts = _parts(entry)[skip:]
    split = None
    # A frame folder named "train" is a split whose pictures are one video; a file's own name never names a split.
    if parts and parts[0].lower() in SPLITS and (len(parts) > 1 or entry.kind == "frames"):
        split, parts = parts[0].lower(), parts[1:]
    return Place(split, parts[0] if len(parts) > 1 else None)


def read_split_list(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Read the video names in split lists of UCF-101, one `Class/file.avi [label]` per line, joining several lists.

    The labels in the lists are ignored: the class is the folder, so that the training and test lists number it alike.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    names: list[str] = []
    for path in paths:
        if not Path(path).is_file():
            raise DataNotFound(f"--split-list {path} does not exist.")
        try:
            lines = Path(path).read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise DataError(f"--split-list {path} is not UTF-8 text: give a list such as trainlist01.txt.") from None
        names += [re.sub(r"\s+\d+$", "", line.strip()) for line in lines if line.strip()]
    if not names:
        raise DataError(f"--split-list {', '.join(map(str, paths))} holds no line `Class/file.avi [label]`.")
    return names


def list_key(name: str) -> str:
    """Return the key that matches a split-list line to an entry: the last two parts without the video suffix."""
    path = PurePosixPath(name)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        path = path.with_suffix("")
    return "/".join(path.parts[-2:])


def is_picture(name: str) -> bool:
    """Return whether a file name has the suffix of a picture."""
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def parent(name: str) -> str:
    """Return the folder of a name, "" at the root."""
    return name.rpartition("/")[0]


def join(folder: str, name: str) -> str:
    """Return the name of a file in a folder; "" is the root."""
    return f"{folder}/{name}" if folder else name


def natural_key(name: str) -> list:
    """Return a sort key that puts `frame_2` before `frame_10` and breaks ties (`01`, `1`) by spelling."""
    return [(int(p), p) if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]
