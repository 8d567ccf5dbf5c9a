"""Build and cache the index of a data set: its videos, their lengths and their keyframes."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import sys
import time
import warnings
import zipfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from digan.data.image import PICTURE_ERRORS, is_animated, probe_animation, read_picture
from digan.data.sources import (
    SPLITS,
    Entry,
    Place,
    Scan,
    Source,
    list_key,
    open_source,
    opened_again,
    read_split_list,
    scan,
)
from digan.data.timing import READ_ERRORS, Timing, probe
from digan.data.video import Video, VideoIndex, damage_line
from digan.errors import DataError, UnreadableVideo
from digan.files import parse_json, seal, unseal, write_atomic
from digan.wording import counted, first_few, reason

CACHE_FOLDER = ".index"  # for indices, decoded frames and features, under --outdir
_FORMAT = 5  # version of the cache file; a file of another version is rebuilt


def load_index(
    path: str | os.PathLike[str],
    cache_dir: str | os.PathLike[str] | None,
    *,
    split: str | None = "train",
    labels: bool = False,
    split_list: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
) -> VideoIndex:
    """Find the videos of a folder, a zip or a file, and index those that are not in the cache.

    Args:
        path: the value of `--data`.
        cache_dir: a folder for the cache file, outside the data; None disables the cache. Several processes may share
            it (the file is replaced atomically), but letting one go first saves the others the work.
        split: "train", "val" or "test", several joined by "+", or None for all. Data without such folders belongs to
            every split.
        labels: number the class folders; every video must be in one.
        split_list: one or more list files of UCF-101, which select the videos in place of `split`.

    Raises:
        DataError: the data is unusable; the message is one sentence that names the flag. DataError is a ValueError, and
            for a missing path also a FileNotFoundError.
    """
    source = open_source(path)
    try:
        listing = scan(source)
    except (OSError, zipfile.BadZipFile) as error:
        raise DataError(f"--data {path} cannot be read ({reason(error)}).") from error
    if not listing.entries:
        raise DataError(
            f"--data {path} holds no video: found {counted(listing.other_files, 'other file')}, but no mp4, avi, mkv, "
            "webm, mov or gif, and no folder of png or jpg frames"
            + (f" ({first_few(listing.problems, 3, '; ')})." if listing.problems else ".")
        )
    notes = list(listing.notes)
    chosen = _select(path, listing, split, split_list, notes)
    class_names = _class_names(path, listing, chosen) if labels else []
    if not labels:
        notes += _unused_classes(chosen)
    indexed, problems = _indexed(source, [entry for entry, _ in chosen], listing.entries, cache_dir)
    numbers = {name: i for i, name in enumerate(class_names)}
    videos = [
        replace(indexed[entry.name, entry.kind], label=numbers.get(place.class_name, 0))
        for entry, place in chosen
        if (entry.name, entry.kind) in indexed
    ]
    if not videos:
        one = f"{chosen[0][0].name} cannot be read" if len(chosen) == 1 else ""
        many = f"none of the {len(chosen):,} videos can be read"
        raise DataError(f"--data {path}: {one or many}: {first_few(problems, 3, '; ')}.")
    notes += [
        f"{v.name}: {counted(v.animated, 'picture')} of {v.num_frames:,} are animated, and count as their first frame, "
        "since the first picture of the folder is not"
        for v in videos
        if v.animated
    ]
    problems = sorted([*listing.problems, *problems, *(damage_line(v) for v in videos if v.damage)])
    name = "list" if split_list is not None else split or "all"
    return VideoIndex(source, name, videos, class_names, problems, notes)


def _select(
    path: str | os.PathLike[str],
    listing: Scan,
    split: str | None,
    split_list: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None,
    notes: list[str],
) -> list[tuple[Entry, Place]]:
    """Return the entries of a split or split list, and append remarks for the user to `notes`."""
    pairs = list(zip(listing.entries, listing.places, strict=True))
    if split_list is not None:
        listed = {list_key(name) for name in read_split_list(split_list)}
        chosen = [pair for pair in pairs if list_key(pair[0].name) in listed]
        missing = sorted(listed - {list_key(entry.name) for entry, _ in chosen})
        if not chosen:
            raise DataError(f"--split-list names {counted(len(listed), 'video')}, none of which is in --data {path}.")
        if missing:
            notes.append(f"{len(missing):,} of {len(listed):,} listed videos are missing, such as {missing[0]}")
        return chosen
    if split is None:
        return pairs
    splits = split.split("+")
    if unknown := [name for name in splits if name not in SPLITS]:
        raise DataError(f"split {unknown[0]!r} is not one of {', '.join(SPLITS)}.")
    present = {place.split for place in listing.places if place.split is not None}
    if not present:
        notes.append(f"no {', '.join(SPLITS)} folders: every video is in the {split} split")
        return pairs
    chosen = [pair for pair in pairs if pair[1].split in splits]
    if not chosen:
        raise DataError(f"--data {path} has no {split} split: it has {', '.join(sorted(present))}.")
    outside = sum(place.split is None for place in listing.places)
    if outside:
        notes.append(f"{counted(outside, 'video')} outside the split folders ignored")
    return chosen


def _class_names(path: str | os.PathLike[str], listing: Scan, chosen: Iterable[tuple[Entry, Place]]) -> list[str]:
    for entry, place in chosen:
        if place.class_name is None:
            raise DataError(
                f"--cond needs every video in a class folder, but {entry.name or 'the folder of pictures'} of --data "
                f"{path} is in none: move it into one, or omit --cond."
            )
    return sorted({place.class_name for place in listing.places if place.class_name is not None})


def _unused_classes(chosen: Iterable[tuple[Entry, Place]]) -> list[str]:
    """Return a note if every video is in a class folder and there are several, although no labels are wanted."""
    names = {place.class_name for _, place in chosen}
    if None in names or len(names) < 2:
        return []
    return [f"class folders are not used as labels: {first_few(sorted(names))}; to train on them, add --cond"]


def _indexed(
    source: Source, entries: Sequence[Entry], existing: Sequence[Entry], cache_dir: str | os.PathLike[str] | None
) -> tuple[dict[tuple[str, str], Video], list[str]]:
    """Return the videos by (name, kind), and a "name: reason" for each unusable one.

    Args:
        source: where the videos are.
        entries: the videos that must be indexed.
        existing: all videos of the source; cached videos that are not among them are dropped.
        cache_dir: the folder of the cache file, or None.
    """
    cache = None
    cached: dict[tuple[str, str], Video] = {}
    if cache_dir is not None:
        cache = _cache_file(source, cache_dir)
        # Deleted or changed videos leave the cache; those of other splits stay.
        signatures = {(e.name, e.kind): e.signature for e in existing}
        cached = {k: v for k, v in _load(cache).items() if signatures.get(k) == v.signature}
    missing = [e for e in entries if (e.name, e.kind) not in cached]
    problems = []
    for entry, result in zip(missing, _probe_all(source, missing), strict=True):
        if isinstance(result, Video):
            cached[entry.name, entry.kind] = result
        else:
            problems.append(f"{entry.name or '.'}: {result}")
    if cache is not None and missing:
        _save(cache, cached.values())
    return cached, problems


def _probe_all(source: Source, entries: Sequence[Entry]) -> list[Video | str]:
    if not entries:
        return []
    workers = min(16, _cpus())  # threads suffice: demuxing and decoding release the interpreter lock
    started = time.perf_counter()
    terminal = sys.stderr.isatty()
    with ThreadPoolExecutor(workers) as pool:
        results = list(
            tqdm(
                pool.map(lambda entry: _probe(source, entry), entries),
                total=len(entries),
                desc="indexing",
                unit="video",
                disable=not terminal,
            )
        )
    if not terminal:
        seconds = time.perf_counter() - started
        print(
            f"indexed {counted(len(entries), 'video')} of {source.path} in {seconds:.1f} s", file=sys.stderr, flush=True
        )
    return results


def _cpus() -> int:
    """Return the number of processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _probe(source: Source, entry: Entry) -> Video | str:
    """Return the video, or the reason why it cannot be used."""
    facts = (entry.name, entry.kind, entry.signature)
    try:
        if entry.kind == "frames":
            pictures = source.pictures(entry.name)
            height, width = read_picture(source.open(pictures[0])).shape[:2]
            # Not those called png, of which whole data sets consist.
            animated = sum(is_animated(source.open(n)) for n in pictures if n.lower().endswith(".webp"))
            return Video(*facts, entry.num_pictures, width, height, animated=animated)
        if entry.kind == "animation":
            frames, height, width, fps = probe_animation(source.open(entry.name))
            return Video(*facts, frames, width, height, fps=fps, codec="animation")
        file = source.open(entry.name)
        with contextlib.nullcontext() if isinstance(file, str) else contextlib.closing(file):
            result = probe(lambda: opened_again(file))
    except (UnreadableVideo, *READ_ERRORS, *PICTURE_ERRORS, IndexError) as error:  # IndexError: pictures were deleted
        return reason(error)
    width, height = (result.height, result.width) if result.rotation % 180 else (result.width, result.height)
    return Video(
        *facts,
        len(result.timing.labels),
        width,
        height,
        result.rotation,
        result.pixel_aspect,
        result.fps,
        result.codec,
        result.timing,
        missing=result.missing,
        damaged=result.damaged,
    )


def _cache_file(source: Source, cache_dir: str | os.PathLike[str]) -> Path:
    folder = Path(cache_dir).expanduser().absolute()
    # Not Path.resolve, which raises at a loop of links.
    if Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(source.path)):
        raise DataError(f"the cache folder {folder} lies inside --data {source.path}: choose an --outdir outside it.")
    digest = hashlib.sha256(os.fsencode(source.path)).hexdigest()[:16]
    return folder / f"index-{digest}.npz"


_ARRAYS = ("labels", "seek_frames", "seek_times")
_FACTS = (
    *("name", "kind", "signature", "num_frames", "width", "height", "rotation", "pixel_aspect", "fps", "codec"),
    *("missing", "animated", "damaged"),
)


def _save(file: Path, videos: Iterable[Video]) -> None:
    """Write the cache atomically: properties as JSON, and the frame tables of all videos concatenated."""
    videos = list(videos)
    facts = [
        {name: getattr(v, name) for name in _FACTS}
        | (
            {"clock": v.timing.clock, "keys": len(v.timing.seek_frames), "reorder": v.timing.reorder}
            if v.timing
            else {}
        )
        for v in videos
    ]
    timings = [v.timing for v in videos if v.timing]
    empty = np.zeros(0, np.int64)
    text = json.dumps({"format": _FORMAT, "name": file.stem, "videos": facts}).encode()
    buffer = io.BytesIO()
    np.savez_compressed(
        buffer,
        facts=np.frombuffer(text, np.uint8),
        labels=np.concatenate([empty, *(t.labels for t in timings)]),
        seek_frames=np.concatenate([empty, *(t.seek_frames for t in timings)]),
        seek_times=np.concatenate([empty.reshape(0, 2), *(t.seek_times for t in timings)]),
    )
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"the cache folder {file.parent} cannot be created ({reason(error)}): name another.") from error
    try:
        write_atomic(file, seal(buffer.getvalue()))
    except OSError as error:
        warnings.warn(f"the index is not kept in {file}: {reason(error)}", stacklevel=4)


def _load(file: Path) -> dict[tuple[str, str], Video]:
    """Return the cached videos by (name, kind): none if the file is absent, damaged, foreign or of another version."""
    try:
        with np.load(io.BytesIO(unseal(file.read_bytes()))) as data:
            content = parse_json(data["facts"].tobytes())
            arrays = {name: data[name] for name in _ARRAYS}
        if content["format"] != _FORMAT or content["name"] != file.stem:
            return {}
        videos: dict[tuple[str, str], Video] = {}
        frame = key = 0
        for facts in content["videos"]:
            clock, keys, reorder = facts.pop("clock", None), facts.pop("keys", 0), facts.pop("reorder", -1)
            timing = None
            if clock is not None:
                count = facts["num_frames"]
                points = slice(key, key + keys)
                timing = Timing(
                    clock,
                    arrays["labels"][frame : frame + count],
                    arrays["seek_frames"][points],
                    arrays["seek_times"][points],
                    reorder,
                )
                frame, key = frame + count, key + keys
            videos[facts["name"], facts["kind"]] = Video(timing=timing, **facts)
        return videos
    except (OSError, ValueError, KeyError, TypeError):
        return {}
