"""`digan info`: describe a network, latents, a checkpoint, a run or a set of videos, without writing any file."""

from __future__ import annotations

import argparse
import json
import math
import os
import shlex
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from digan.cli.options import OptionParser, training_number
from digan.config import TrainConfig
from digan.data import ClipWindows, VideoIndex, load_index
from digan.data.sources import SPLITS, scan
from digan.errors import ConfigError, DataError, NetworkNotFound
from digan.models.generator import Generator
from digan.models.hub import WEIGHTS_FILE, find_network, packaged_networks
from digan.run_dir import (
    CHECKPOINTS,
    SAMPLES,
    STATISTICS,
    TICK_FACTS,
    is_run,
    known_fields,
    list_metrics,
    list_runs,
    list_snapshots,
    read_config,
    read_records,
)
from digan.run_results import best_result, own_results
from digan.sampling.latents import are_latents, load_latents
from digan.tensor_files import is_tensor_file
from digan.training import checkpoint, summary
from digan.training.trainer import NONFINITE
from digan.wording import counted

_LISTED = 8  # maximum number of sizes, rates, codecs or classes in the text; --json has all


@dataclass
class Report:
    """Description of a path: values for JSON, and lines of text."""

    facts: dict[str, Any]
    lines: list[str]


def configure(parser: OptionParser) -> None:
    """Add the options of the command."""
    c = TrainConfig
    parser.add_argument("path", type=Path, help="network, latents, checkpoint or run; folder, zip or file of videos")
    parser.add_argument("--json", action="store_true", help="print JSON")
    cut = parser.add_argument_group("options of training, for the number of clips in the videos")
    for name, default, text in (
        ("frames", c.frames, "frames per clip"),
        ("stride", c.stride, "frame stride of the clips"),
        ("overlap", c.overlap, "raw frames shared by consecutive windows"),
    ):
        parse = training_number(name)
        cut.add_argument(f"--{name}", type=parse, default=default, help=f"{text} [{default}]")


def run(args: argparse.Namespace) -> int:
    """Print the report and return the exit status.

    Raises:
        UserError: there is nothing to report.
    """
    report = inspect(args.path, args.frames, args.stride, args.overlap)
    print(json.dumps(_strict(report.facts), indent=1) if args.json else "\n".join(report.lines))
    return 0


def inspect(
    path: Path, frames: int = TrainConfig.frames, stride: int = TrainConfig.stride, overlap: int = TrainConfig.overlap
) -> Report:
    """Determine from its content what a path holds, and describe it.

    Args:
        path: network, latents, checkpoint, run, folder of runs, or videos.
        frames: frames per clip.
        stride: frame stride of the clips.
        overlap: raw frames shared by consecutive windows.

    Raises:
        NetworkNotFound: the path does not exist.
        NetworkError, LatentsError, ConfigError, DataError: it is a damaged file or checkpoint, or holds no video.
    """
    if checkpoint.is_checkpoint(path) or (path / checkpoint.STATE).is_file():
        return _checkpoint(path)
    if path.is_file():
        if is_tensor_file(path):
            return _latents(path) if are_latents(path) else _network(path)
        with open(path, "rb") as file:
            start = file.read(2)
        if start[:1] == b"\x80" and start[1:2] in (b"\2", b"\3", b"\4", b"\5"):  # pickle: PROTO and its number
            return _pickle(path)
    elif packaged := packaged_networks().get(str(path)):
        return _network(packaged)
    elif not path.is_dir():
        raise NetworkNotFound(
            f"{path} does not exist: give a network, a checkpoint, a run, or a folder, zip or file of videos."
        )
    elif is_run(path):
        return _run(path)
    elif list_snapshots(path) or (path / WEIGHTS_FILE).is_file():
        return _network(find_network(path))
    elif checkpoints := checkpoint.list_all(path):
        return _checkpoint(checkpoints[-1])
    elif runs := [folder for folder in list_runs(path) if is_run(folder)]:
        return _runs(path, runs)
    return _data(path, frames, stride, overlap)


def _network(file: Path) -> Report:
    g = Generator.from_file(file, finite=False)
    rows = summary.generator_rows(g)
    config, metadata = asdict(g.config), g.metadata
    nonfinite = sum(int((~tensor.isfinite()).sum()) for tensor in g.state_dict().values())
    names = (metadata.get("data") or {}).get("class_names", [])
    size = file.stat().st_size
    facts = {
        "kind": "network",
        "file": str(file),
        "bytes": size,
        "resolution": g.config.resolution,
        "classes": g.config.num_classes,
        "parameters": sum(row.parameters for row in rows),
        "parts": [{"part": row.part, "parameters": row.parameters, "macs": row.macs} for row in rows],
        "nonfinite": nonfinite,
        "config": config,
        "metadata": metadata,
    }
    classes = f"{g.config.num_classes} classes{_listed(names, ': ')}" if g.config.num_classes else "unconditional"
    lines = [
        f"network {file} ({_size(size)})",
        f"  {'videos':<18} {g.config.resolution}x{g.config.resolution}, {classes}",
        *(f"  {name:<18} {_plain(value)}" for name, value in metadata.items()),
        *([f"  {'problem':<18} {nonfinite:,} values are not finite: training diverged"] if nonfinite else []),
        "",
        *(f"  {name:<18} {value}" for name, value in config.items()),
        "",
        summary.table(rows),
    ]
    return Report(facts, lines)


def _latents(file: Path) -> Report:
    latents, metadata = load_latents(file)
    times, size = latents.times.tolist(), file.stat().st_size
    facts = {
        "kind": "latents",
        "file": str(file),
        "bytes": size,
        "slots": len(latents.w),
        "w_dim": latents.w.shape[1],
        "z_dim": len(latents.z_motion),
        "times": times,
        "label": latents.label,
        "metadata": metadata,
    }
    lines = [
        f"latents of a clip {file} ({_size(size)})",
        f"  {'content':<18} {len(latents.w)} slots of width {latents.w.shape[1]}",
        f"  {'motion':<18} width {len(latents.z_motion)}",
        f"  {'times':<18} {counted(len(times), 'frame')} from {times[0]:g} to {times[-1]:g}",
        *([] if latents.label is None else [f"  {'class':<18} {latents.label}"]),
        *(f"  {name:<18} {_plain(value)}" for name, value in metadata.items()),
    ]
    return Report(facts, lines)


def _pickle(file: Path) -> Report:
    convert = shlex.join(["digan", "convert", str(file), str(file.with_suffix(".safetensors"))])
    size = file.stat().st_size
    facts = {"kind": "pickle", "file": str(file), "bytes": size, "convert": convert}
    lines = [
        f"pickle {file} ({_size(size)}), the format of the official snapshots; its content was not loaded",
        f"  convert it first: {convert}",
    ]
    return Report(facts, lines)


def _checkpoint(folder: Path) -> Report:
    checked = checkpoint.verify(folder)
    state = checkpoint.read_state(folder)
    config = TrainConfig(**known_fields(TrainConfig, state["config"]))
    counters = state["counters"]
    sizes = {file.name: file.lstat().st_size for file in sorted(folder.iterdir())}
    facts = {
        "kind": "checkpoint",
        "folder": str(folder),
        "counters": counters,
        "torch": state.get("torch"),
        "checked": checked,
        "files": sizes,
        "config": asdict(config),
        "resume": f"--resume {shlex.quote(str(folder))}",
    }
    lines = [
        f"checkpoint {folder} ({_size(sum(sizes.values()))})",
        f"  progress     {counters['clips_seen'] / 1000:g} of {config.kimg:g} kimg, iteration {counters['iteration']}",
        *_training(config),
        f"  files        {', '.join(f'{name} {_size(size)}' for name, size in sizes.items())}",
        f"  content      {'the checksums are right' if checked else 'unchecked: of a version without checksums'}",
        f"  software     torch {facts['torch']}",
        f"  resume with  {facts['resume']}",
    ]
    return Report(facts, lines)


def _run(folder: Path) -> Report:
    config = read_config(folder)
    problems: list[str] = []
    statistics = read_records(folder / STATISTICS, problems.append)
    last = statistics[-1] if statistics else {}
    checkpoints = checkpoint.list_all(folder / CHECKPOINTS)
    # If a run was stopped between two ticks, its checkpoint is newer than its statistics.
    clips = max([last.get("clips", 0), *_counts(checkpoints, problems)])
    samples = sorted(folder.glob(f"{SAMPLES}/*.mp4"), key=lambda file: file.lstat().st_mtime_ns)
    snapshots = list_snapshots(folder)
    results = {name: result for name in list_metrics(folder) if (result := _metric(folder, name, problems))}
    commands = (folder / "command.sh").read_text(errors="replace").splitlines()
    facts = {
        "kind": "run",
        "folder": str(folder),
        "config": asdict(config),
        "commands": commands,
        "clips": clips,
        "kimg": config.kimg,
        "finished": clips >= round(config.kimg * 1000),
        "seconds_since_last_record": _age(folder / STATISTICS),
        "statistics": last,
        "nonfinite_at": [record["clips"] for record in statistics if "clips" in record and record.get(NONFINITE)],
        "metrics": results,
        "snapshots": [str(file) for file in snapshots],
        "samples": [str(file) for file in samples],
        "checkpoints": [str(file) for file in checkpoints],
        "resume": summary.resume_options(folder, config, clips) if checkpoints else None,
        "problems": problems,
    }
    return Report(facts, [f"run {folder}", *_training(config), *_run_lines(facts)])


def _run_lines(facts: dict[str, Any]) -> list[str]:
    last, clips, age = facts["statistics"], facts["clips"], facts["seconds_since_last_record"]
    progress = "finished" if facts["finished"] else f"{clips / 10 / facts['kimg']:.0f} %"
    lines = [
        *(f"  {'command' if i == 0 else '':<12} {line}" for i, line in enumerate(facts["commands"])),
        f"  progress     {clips / 1000:g} of {facts['kimg']:g} kimg, {progress}"
        + (f"; last record {summary.clock(age)} ago" if age is not None and not facts["finished"] else ""),
    ]
    if {"clips_per_second", "memory_gb", "seconds"} <= last.keys():
        losses = "  ".join(
            f"{name} {value:.3g}" for name, value in last.items() if name not in (*TICK_FACTS, NONFINITE)
        )
        lines += [
            f"  speed        {summary.speed(last)}, {last['memory_gb']:.1f} GiB, "
            f"elapsed {summary.clock(last['seconds'])} since the start or the last --resume",
            f"  losses       {losses}",
        ]
    for name, result in facts["metrics"].items():
        values = "; ".join(
            f"{which} {record['value']:.5g} at {record['clips'] / 1000:g} kimg" for which, record in result.items()
        )
        lines.append(f"  {name:<12} {values}")
    for name in ("snapshots", "samples", "checkpoints"):
        files = [Path(file) for file in facts[name]]
        lines.append(f"  {name:<12} {len(files)}" + (f", the last is {files[-1]}" if files else ""))
    if nonfinite := facts["nonfinite_at"]:
        lines.append(
            f"  problem      gradients were not finite in {len(nonfinite)} ticks, last at {nonfinite[-1] / 1000:g} "
            "kimg: a few are normal in fp16; otherwise lower --lr or raise --gamma in a new run"
        )
    lines += [f"  problem      {problem}" for problem in facts["problems"]]
    return [*lines, f"  resume with  {facts['resume'] or '(there is no checkpoint yet)'}"]


def _counts(checkpoints: list[Path], problems: list[str]) -> list[int]:
    """Return the number of clips of the newest checkpoint whose state can be read, and describe damaged ones."""
    for path in reversed(checkpoints):
        try:
            return [checkpoint.read_state(path)["counters"]["clips_seen"]]
        except ConfigError as error:
            problems.append(str(error))
    return []


def _metric(run: Path, name: str, problems: list[str]) -> dict[str, dict[str, Any]]:
    """Return the first, the best and the last result of a metric that the run itself computed; {} if there is none."""
    results = own_results(run, name, problems.append)
    if not results:
        return {}
    return {"first": results[0], "best": best_result(results) or results[0], "last": results[-1]}


def _runs(path: Path, folders: list[Path]) -> Report:
    lines = [f"{counted(len(folders), 'run')} in {path}"]
    runs, problems = [], []
    for folder in folders:
        try:
            facts = _run(folder).facts
        except ConfigError as error:
            problems.append(str(error))
            continue
        runs.append(facts)
        values = [f"{name} {result['last']['value']:.5g}" for name, result in facts["metrics"].items()]
        lines.append("  ".join([f"  {folder.name:<40} {facts['clips'] / 1000:g} of {facts['kimg']:g} kimg", *values]))
    lines += [f"  problem: {problem}" for problem in problems]
    return Report({"kind": "runs", "folder": str(path), "runs": runs, "problems": problems}, lines)


def _data(path: Path, frames: int, stride: int, overlap: int) -> Report:
    try:
        index = load_index(path, None, split=None)
        clips = _clips(index, frames, stride, overlap)
    except DataError as error:
        raise type(error)(str(error).replace("--data ", "", 1)) from None
    listing = scan(index.source)
    all_places = {(e.name, e.kind): place for e, place in zip(listing.entries, listing.places, strict=True)}
    places = [all_places[video.name, video.kind] for video in index.videos]
    videos, lengths = index.videos, np.array([video.num_frames for video in index.videos])
    timed = [video for video in videos if video.timing is not None]
    classes = Counter(place.class_name for place in places)
    facts = {
        "kind": "data",
        "path": str(path),
        "videos": len(videos),
        "frames": int(lengths.sum()),
        "lengths": _quartiles(lengths),
        "seconds": sum(video.num_frames / video.fps for video in timed),
        "frame_rates": _counted(f"{video.fps:.4g}" for video in timed),
        "sizes": _counted(f"{video.width}x{video.height}" for video in videos),
        "codecs": _counted(video.codec for video in videos),
        "splits": {
            split: {
                "videos": sum(place.split == split for place in places),
                "clips": sum(n for place, n in zip(places, clips, strict=True) if place.split == split),
            }
            for split in SPLITS
            if any(place.split == split for place in places)
        },
        "classes": {} if None in classes else dict(sorted(classes.items())),
        "clips": {
            "frames": frames,
            "stride": stride,
            "overlap": overlap,
            "count": sum(clips),
            "too_short": clips.count(0),
        },
        "fingerprint": index.fingerprint,
        "notes": index.notes,
        "problems": index.problems,
    }
    index_lines = replace(index, problems=[]).summary().splitlines()  # problems are listed in full below
    return Report(facts, [f"data {index_lines[0]}", *(f"  {line}" for line in index_lines[1:]), *_data_lines(facts)])


def _data_lines(facts: dict[str, Any]) -> list[str]:
    cut, problems = facts["clips"], facts["problems"]
    lengths = ", ".join(f"{name} {value:g}" for name, value in facts["lengths"].items())
    duration = f"; {summary.clock(facts['seconds'])} of video" if facts["seconds"] else ""
    lines = [f"  lengths      {lengths} frames{duration}"]
    for name in ("frame_rates", "sizes", "codecs", "classes"):
        if facts[name]:
            values = [f"{value} ({count})" for value, count in facts[name].items()]
            lines.append(f"  {name.replace('_', ' '):<12} {_listed(values)}")
    for name, split in facts["splits"].items():
        lines.append(f"  {name + ' split':<12} {counted(split['videos'], 'video')}, {counted(split['clips'], 'clip')}")
    short = f"; {counted(cut['too_short'], 'video is', 'videos are')} too short" if cut["too_short"] else ""
    lines.append(
        f"  clips        {cut['count']:,} at --frames {cut['frames']} --stride {cut['stride']} --overlap "
        f"{cut['overlap']}{short}"
    )
    return [*lines, f"  problems     {len(problems) or 'none'}", *(f"    {problem}" for problem in problems)]


def _clips(index: VideoIndex, frames: int, stride: int, overlap: int) -> list[int]:
    """Return the number of clips in each video."""
    if 0 < max(video.num_frames for video in index.videos) < frames * stride:
        return [0] * len(index.videos)
    windows = ClipWindows(index, frames=frames, stride=stride, overlap=overlap)
    return [len(windows.clips_of(i)) for i in range(len(index.videos))]


def _training(config: TrainConfig) -> list[str]:
    """Return lines that describe the training and the data of a configuration."""
    data = config.data or "generated demo videos"
    missing = " (not found from the current folder)" if config.data and not os.path.exists(config.data) else ""
    return [
        f"  training     {summary.task(config)}",
        f"  data         {data}{missing}, split {config.split}, stride {config.stride}, overlap {config.overlap}, "
        f"resize {config.resize}",
    ]


def _quartiles(lengths: np.ndarray) -> dict[str, float]:
    names = ("minimum", "lower quartile", "median", "upper quartile", "maximum")
    return dict(zip(names, np.percentile(lengths, [0, 25, 50, 75, 100]).tolist(), strict=True))


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _listed(values: list[str], prefix: str = "") -> str:
    text = ", ".join(values[:_LISTED]) + (f", … {len(values)} in total" if len(values) > _LISTED else "")
    return prefix + text if values else ""


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _size(count: int) -> str:
    return f"{count / 1e6:,.1f} MB" if count >= 1e6 else f"{count / 1e3:,.1f} kB"


def _age(file: Path) -> float | None:
    return time.time() - file.stat().st_mtime if file.is_file() else None


def _strict(value: Any) -> Any:
    """Replace numbers that JSON cannot represent by None, at any depth."""
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
