"""Find the videos in a folder, a zip or a single file, and the split and class of each."""

from __future__ import annotations

import hashlib
import lzma
import os
import re
import struct
import zipfile
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from stat import S_ISREG
from typing import BinaryIO, cast

from digan.data.archive import InflatedMember, StoredMember, View
from digan.data.image import is_animated
from digan.errors import DataError
from digan.wording import counted, first_few, reason

VIDEO_SUFFIXES = frozenset(
    ".mp4 .m4v .mov .avi .mkv .webm .gif .apng .mpg .mpeg .ts .mts .wmv .flv .ogv .3gp .divx .y4m".split()
)
IMAGE_SUFFIXES = frozenset(".png .jpg .jpeg .bmp .webp".split())
ANIMATED_SUFFIXES = frozenset(".png .webp".split())  # pictures that may be animated
SPLITS = ("train", "val", "test")
_SUFFIXES = VIDEO_SUFFIXES | IMAGE_SUFFIXES


class DataNotFound(DataError, FileNotFoundError):
    """A path given on the command line does not exist."""


@dataclass(frozen=True)
class Entry:
    """One video as listed, before it is opened."""

    name: str  # path below the root, with "/" between parts; for a frame folder, that of the folder
    kind: str  # "video" (a file), "frames" (a folder of pictures) or "animation" (an animated picture)
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


@dataclass
class Listing:
    """The files and folders of a source, without hidden ones and without those that macOS adds to archives."""

    files: list[tuple[str, str]] = field(default_factory=list)  # (name, signature) of every video and picture
    folders: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)  # "name: reason" of each file or folder that cannot be listed
    notes: list[str] = field(default_factory=list)
    other_files: int = 0  # files that are neither videos nor pictures


class Source:
    """Something that videos are read from. Subclasses can be pickled and open nothing before the first call."""

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).expanduser().absolute()

    def listing(self) -> Listing:
        """List the source.

        Raises:
            OSError, BadZipFile: nothing of it can be read.
        """
        raise NotImplementedError

    def open(self, name: str) -> BinaryIO | str:
        """Return a file in a form that PyAV and Pillow can open: a path, or a seekable binary file to be closed.

        Raises:
            OSError: the file cannot be read.
        """
        raise NotImplementedError

    def pictures(self, folder: str) -> list[str]:
        """Return the names of the pictures directly in `folder`, in natural order (2 before 10)."""
        raise NotImplementedError


class FolderSource(Source):
    """A folder on disk; symbolic links are followed, except to a folder that contains them."""

    def listing(self) -> Listing:
        """List the folder; a signature is a file's size and modification time."""
        result = Listing()
        roots: tuple[str, ...] = (os.path.realpath(self.path),)
        waiting = [(self._children(self.path), "", roots)]
        while waiting:
            children, prefix, ancestors = waiting.pop()
            for child in children:
                name = prefix + child.name
                try:
                    if child.is_dir():
                        # Links are rare, and resolving each path would take longer than the rest.
                        real = os.path.realpath(child.path) if child.is_symlink() else f"{ancestors[-1]}/{child.name}"
                        if real not in ancestors:
                            waiting.append((self._children(child.path), f"{name}/", (*ancestors, real)))
                            result.folders.append(name)
                    elif _suffix(name) not in _SUFFIXES:
                        result.other_files += 1
                    else:
                        stat = child.stat()  # raises for a link that leads nowhere
                        if S_ISREG(stat.st_mode):  # opening a pipe would wait forever
                            result.files.append((name, f"{stat.st_size}:{stat.st_mtime_ns}"))
                        else:
                            result.problems.append(f"{name}: is not a regular file")
                except OSError as error:  # as for a link to itself
                    result.problems.append(f"{name}: {reason(error)}")
        return result

    @staticmethod
    def _children(folder: str | Path) -> list[os.DirEntry[str]]:
        with os.scandir(folder) as children:
            return sorted((c for c in children if not is_hidden(c.name)), key=lambda c: c.name)

    def open(self, name: str) -> BinaryIO | str:
        """Return the path of a file."""
        return str(self.path / name)

    def pictures(self, folder: str) -> list[str]:
        """Return the names of the pictures directly in `folder`, in natural order."""
        names = [n for n in os.listdir(self.path / folder) if is_picture(n) and not is_hidden(n)]
        return [join(folder, n) for n in sorted(names, key=natural_key)]


class FileSource(Source):
    """A single video file."""

    def listing(self) -> Listing:
        """List the file; its signature is its size and modification time."""
        stat = self.path.stat()
        return Listing([(self.path.name, f"{stat.st_size}:{stat.st_mtime_ns}")])

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
            self._state = (os.getpid(), _open_zip(self.path))
        return self._state[1]

    def listing(self) -> Listing:
        """List the archive; a signature is a member's size and checksum."""
        result = Listing()
        members = {info.filename: info for info in self.archive.infolist()}  # the last one of each name, as `getinfo`
        for name, info in members.items():
            parts = name.split("/")
            if any(map(is_hidden, parts)):
                continue
            if info.is_dir():
                result.folders.append(name.rstrip("/"))
            elif _suffix(name) in _SUFFIXES:
                result.files.append((name, f"{info.file_size}:{info.CRC:08x}"))
            else:
                result.other_files += 1
        repeated = [name for name, n in Counter(i.filename for i in self.archive.infolist()).items() if n > 1]
        if repeated:
            names = counted(len(repeated), "name occurs", "names occur")
            result.notes.append(f"{names} more than once in the zip, such as {repeated[0]}: the last member is used")
        return result

    def open(self, name: str) -> BinaryIO | str:
        """Return a stored member read in place, or a copy of a compressed one.

        Raises:
            OSError: the member is absent, damaged, encrypted or compressed by an unknown method, or the disk is full.
        """
        try:
            info = self.archive.getinfo(name)
            if info.compress_type == zipfile.ZIP_STORED and not info.flag_bits & 1:
                return cast(BinaryIO, StoredMember(self.path, info))  # a binary file, though not by its declared type
            return cast(BinaryIO, InflatedMember(self.archive, info))
        # RuntimeError: encrypted, or unknown compression; EOFError: the archive is truncated
        except (KeyError, RuntimeError, EOFError, zipfile.BadZipFile, zlib.error, lzma.LZMAError) as error:
            raise OSError(f"cannot be read from the zip ({reason(error)})") from error

    def pictures(self, folder: str) -> list[str]:
        """Return the names of the pictures directly in `folder`, in natural order."""
        if self._folders is None:
            folders: dict[str, list[str]] = {}
            for name, _ in self.listing().files:
                if is_picture(name):
                    folders.setdefault(parent(name), []).append(name)
            self._folders = folders
        return sorted(self._folders.get(folder, []), key=natural_key)


def _open_zip(path: Path) -> zipfile.ZipFile:
    """Open an archive; `BadZipFile` whatever is wrong with its directory."""
    try:
        return zipfile.ZipFile(path)
    # NotImplementedError: a version of the format yet to come; ValueError: a name that is not text
    except (NotImplementedError, ValueError, OverflowError, struct.error) as error:
        raise zipfile.BadZipFile(reason(error)) from error


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
    suffix = target.suffix.lower()
    if suffix in VIDEO_SUFFIXES or (suffix in ANIMATED_SUFFIXES and is_animated(str(target))):
        return FileSource(target)
    if zipfile.is_zipfile(target):
        return ZipSource(target)
    raise DataError(f"--data {path} is neither a folder, nor a zip, nor a video file of a known type.")


def scan(source: Source) -> Scan:
    """List the videos and frame folders of a source with the split and class of each, without opening any video.

    A folder whose first webp or png is animated holds a video in each picture; other pictures are frames.
    """
    listing = source.listing()
    entries: list[Entry] = []
    pictures: dict[str, list[tuple[str, str]]] = {}
    for name, signature in listing.files:
        if is_picture(name):
            pictures.setdefault(parent(name), []).append((name, signature))
        else:
            entries.append(Entry(name, "video", signature))
    for folder, files in pictures.items():
        if _holds_animations(source, files):
            entries += [Entry(name, "animation", signature) for name, signature in files]
        else:
            digest = hashlib.sha256(repr(sorted(files)).encode()).hexdigest()[:32]
            entries.append(Entry(folder, "frames", digest, len(files)))
    entries.sort(key=lambda e: (e.name, e.kind))
    result = Scan(entries, [], listing.problems, listing.notes, listing.other_files)
    wrapper = _wrapper(entries)
    skip = 1 if wrapper else 0
    if wrapper:
        result.notes.append(f"everything is in the folder {wrapper!r}: its subfolders are taken as splits and classes")
    result.places = [_place(entry, skip) for entry in entries]
    result.notes += _empty_classes(listing.folders, result.places, skip)
    return result


def _holds_animations(source: Source, files: Sequence[tuple[str, str]]) -> bool:
    candidates = [name for name, _ in files if _suffix(name) in ANIMATED_SUFFIXES]
    if not candidates:
        return False
    try:
        return is_animated(source.open(min(candidates, key=natural_key)))
    except OSError:  # the index reports what cannot be read
        return False


def _empty_classes(folders: Sequence[str], places: Sequence[Place], skip: int) -> list[str]:
    """Return a note on the class folders that hold no video, if others do."""
    used = {(place.split, place.class_name) for place in places if place.class_name is not None}
    splits = {split for split, _ in used}
    empty = []
    for folder in folders:
        place = _place(Entry(f"{folder}/video", "video", ""), skip)
        depth = skip + (place.split is not None) + (place.class_name is not None)
        is_class = place.class_name is not None and place.split in splits and folder.count("/") + 1 == depth
        if is_class and (place.split, place.class_name) not in used:
            empty.append(folder)
    if not empty:
        return []
    return [f"{counted(len(empty), 'class folder holds', 'class folders hold')} no video: {first_few(sorted(empty))}"]


def _parts(entry: Entry) -> tuple[str, ...]:
    return tuple(entry.name.split("/")) if entry.name else ()  # () for pictures at the root


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


def opened_again(file: BinaryIO | str) -> BinaryIO | str:
    """Return a file of `Source.open` at its start, independent of other readers of the same file."""
    if isinstance(file, str):
        return file
    return cast(BinaryIO, View(file, 0, file.seek(0, os.SEEK_END)))


def is_hidden(name: str) -> bool:
    """Return whether a file or folder is not user data: its name begins with a dot, or macOS created it."""
    return name.startswith(".") or name == "__MACOSX"


def is_picture(name: str) -> bool:
    """Return whether a file name has the suffix of a picture."""
    return _suffix(name) in IMAGE_SUFFIXES


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def parent(name: str) -> str:
    """Return the folder of a name, "" at the root."""
    return name.rpartition("/")[0]


def join(folder: str, name: str) -> str:
    """Return the name of a file in a folder; "" is the root."""
    return f"{folder}/{name}" if folder else name


def natural_key(name: str) -> list:
    """Return a sort key that puts `frame_2` before `frame_10` and breaks ties (`01`, `1`) by spelling."""
    return [(*_magnitude(p), p) if p.isdecimal() else (-1, "", p) for p in re.split(r"(\d+)", name)]


def _magnitude(digits: str) -> tuple[int, str]:
    """Return a key in the order of the numbers that digits spell, which may be too long for `int`."""
    plain = digits if digits.isascii() else "".join(str(int(digit)) for digit in digits)
    plain = plain.lstrip("0")
    return len(plain), plain
