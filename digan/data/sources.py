"""Finding videos: what a folder, a zip or a single file holds, which split and which class each video belongs to."""

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
from typing import BinaryIO

from digan.data.archive import StoredMember
from digan.errors import DataError

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .gif .mpg .mpeg .ts .mts .wmv .flv .ogv .3gp .divx .y4m".split()
)
IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .bmp .webp".split())
SPLITS = ("train", "val", "test")


class DataNotFound(DataError, FileNotFoundError):
    """A path that a flag names does not exist."""


@dataclass(frozen=True)
class Entry:
    """One video as found, before it is opened."""

    name: str  # path below the root, "/" between parts; of the folder, for a frame folder
    kind: str  # "video" (a file) or "frames" (a folder of pictures)
    signature: str  # changes when the content may have changed: size and time, or the zip's checksum
    num_pictures: int = 0  # of a frame folder


@dataclass(frozen=True)
class Place:
    """Where an entry belongs."""

    split: str | None  # one of SPLITS, None outside any split folder
    class_name: str | None  # the top folder below the split (else below the root), None for a video lying there itself


@dataclass
class Scan:
    """All that a data path holds. `entries` are sorted by name, `places` goes with them."""

    entries: list[Entry]
    places: list[Place]
    problems: list[str] = field(default_factory=list)  # "name: reason" of what cannot be read
    notes: list[str] = field(default_factory=list)
    other_files: int = 0  # files that are neither videos nor pictures


class Source:
    """A place that videos are read from. Subclasses are picklable and open nothing until asked to."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()

    def files(self) -> Iterator[tuple[str, str]]:
        """All files as (name, signature), hidden ones left out."""
        raise NotImplementedError

    def open(self, name: str) -> BinaryIO | str:
        """A file as something PyAV and Pillow can open: a path, or a seekable binary file. Raises OSError."""
        raise NotImplementedError

    def pictures(self, folder: str) -> list[str]:
        """Names of the pictures lying directly in `folder`, in natural order (2 before 10)."""
        raise NotImplementedError


class FolderSource(Source):
    """A folder on disk; symbolic links are followed, except into a folder above themselves."""

    def files(self) -> Iterator[tuple[str, str]]:
        yield from self._walk(self.path, "", (os.path.realpath(self.path),))

    def _walk(self, folder: Path, prefix: str, above: tuple[str, ...]) -> Iterator[tuple[str, str]]:
        with os.scandir(folder) as it:
            children = sorted((c for c in it if not c.name.startswith(".")), key=lambda c: c.name)
        for child in children:
            if child.is_dir():
                real = os.path.realpath(child.path)
                if real not in above:
                    yield from self._walk(Path(child.path), f"{prefix}{child.name}/", (*above, real))
            elif child.is_file():
                stat = child.stat()
                yield prefix + child.name, f"{stat.st_size}:{stat.st_mtime_ns}"

    def open(self, name: str) -> BinaryIO | str:
        return str(self.path / name)

    def pictures(self, folder: str) -> list[str]:
        names = [n for n in os.listdir(self.path / folder) if is_picture(n) and not n.startswith(".")]
        return [join(folder, n) for n in sorted(names, key=natural_key)]


class FileSource(Source):
    """A single video file."""

    def files(self) -> Iterator[tuple[str, str]]:
        stat = self.path.stat()
        yield self.path.name, f"{stat.st_size}:{stat.st_mtime_ns}"

    def open(self, name: str) -> BinaryIO | str:
        return str(self.path)

    def pictures(self, folder: str) -> list[str]:
        return []


class ZipSource(Source):
    """A zip archive. The archive is opened once per process, on first use."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        super().__init__(path)
        self._state: tuple[int, zipfile.ZipFile] | None = None  # process id, archive
        self._folders: dict[str, list[str]] | None = None

    def __getstate__(self) -> dict:
        return {"path": self.path, "_state": None, "_folders": None}

    @property
    def archive(self) -> zipfile.ZipFile:
        # A handle inherited through fork shares its file position with the parent: every process needs its own.
        if self._state is None or self._state[0] != os.getpid():
            self._state = (os.getpid(), zipfile.ZipFile(self.path))
        return self._state[1]

    def files(self) -> Iterator[tuple[str, str]]:
        for info in self.archive.infolist():
            parts = PurePosixPath(info.filename).parts
            if not info.is_dir() and not any(p.startswith(".") or p == "__MACOSX" for p in parts):
                yield info.filename, f"{info.file_size}:{info.CRC:08x}"

    def open(self, name: str) -> BinaryIO | str:
        try:
            info = self.archive.getinfo(name)
            if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
                return StoredMember(self.path, info)
            return BytesIO(self.archive.read(info))
        except (KeyError, RuntimeError, zipfile.BadZipFile, zlib.error) as error:  # RuntimeError: encrypted, or unknown
            raise OSError(f"cannot be taken out of the zip ({error})") from error

    def pictures(self, folder: str) -> list[str]:
        if self._folders is None:
            folders: dict[str, list[str]] = {}
            for name, _ in self.files():
                if is_picture(name):
                    folders.setdefault(parent(name), []).append(name)
            self._folders = folders
        return sorted(self._folders.get(folder, []), key=natural_key)


def open_source(path: str | os.PathLike[str]) -> Source:
    """The source for a `--data` path. Raises DataError with one sentence."""
    target = Path(path).expanduser()
    if not target.exists():
        raise DataNotFound(f"--data {path} does not exist: give a folder, a zip or a video file.")
    if target.is_dir():
        return FolderSource(target)
    if target.suffix.lower() in VIDEO_SUFFIXES:
        return FileSource(target)
    if zipfile.is_zipfile(target):
        return ZipSource(target)
    raise DataError(f"--data {path} is neither a folder, nor a zip, nor a video file of a known kind.")


def scan(source: Source) -> Scan:
    """Lists the videos and frame folders of a source and places each in its split and class. Opens no video."""
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
        result.notes.append(f"everything lies in the folder {wrapper!r}: splits and classes are looked for inside it")
    result.places = [_place(entry, 1 if wrapper else 0) for entry in entries]
    return result


def _parts(entry: Entry) -> tuple[str, ...]:
    return PurePosixPath(entry.name).parts  # () for pictures at the root


def _wrapper(entries: Sequence[Entry]) -> str | None:
    """The one folder around everything that archives often have. A lone class folder is not one."""
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
    # A frame folder that is called "train" is a split whose pictures are one video; a file never names a split.
    if parts and parts[0].lower() in SPLITS and (len(parts) > 1 or entry.kind == "frames"):
        split, parts = parts[0].lower(), parts[1:]
    return Place(split, parts[0] if len(parts) > 1 else None)


def read_split_list(paths: str | os.PathLike[str] | Sequence[str | os.PathLike[str]]) -> list[str]:
    """Video names of UCF-101's split lists, one `Class/file.avi [label]` a line; several files are joined.

    Labels in the list are not used: the class is the folder, and both lists must agree on its number.
    """
    if isinstance(paths, (str, os.PathLike)):
        paths = [paths]
    names: list[str] = []
    for path in paths:
        if not Path(path).is_file():
            raise DataNotFound(f"--split-list {path} does not exist.")
        lines = Path(path).read_text(encoding="utf-8").splitlines()
        names += [re.sub(r"\s+\d+$", "", line.strip()) for line in lines if line.strip()]
    if not names:
        raise DataError(f"--split-list {', '.join(map(str, paths))} holds no line `Class/file.avi [label]`.")
    return names


def list_key(name: str) -> str:
    """What a line of a split list and an entry are compared by: the last two parts, without a video's suffix."""
    path = PurePosixPath(name)
    if path.suffix.lower() in VIDEO_SUFFIXES:
        path = path.with_suffix("")
    return "/".join(path.parts[-2:])


def is_picture(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in IMAGE_SUFFIXES


def parent(name: str) -> str:
    """The folder of a name, "" at the root."""
    return name.rpartition("/")[0]


def join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def natural_key(name: str) -> list:
    """Sorts `frame_2` before `frame_10`; ties (`01`, `1`) by spelling."""
    return [(int(p), p) if p.isdigit() else (-1, p) for p in re.split(r"(\d+)", name)]
