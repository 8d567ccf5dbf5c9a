"""`digan sample`: generate videos, GIFs and images with a trained network."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

import fused_inr as fi
from digan.cli.clip_options import COUNT, add_clips, class_numbers, selected_clips
from digan.cli.device_options import DTYPES, add_precision, on_device
from digan.cli.options import OptionParser, add_network, number
from digan.cli.terminal import ProgressBar, plain_warnings
from digan.config import FPS, FRACTION, Range, TrainConfig
from digan.errors import ConfigError
from digan.files import atomic_path, checksum
from digan.models.generator import Generator
from digan.models.hub import find_network
from digan.sampling.clip_plan import ClipPlan, Plan
from digan.sampling.frame_spill import FrameSpill
from digan.sampling.grids import full_grid
from digan.sampling.latents import Latents, clip_times, read_latents
from digan.sampling.media import MAX_PIXELS
from digan.sampling.render import RENDER_MEMORY, Sampler
from digan.sampling.writers import FORMATS, Outputs
from digan.wording import counted

MAX_SIDE = 2**16  # pixels per side of an image
GRID_PIXELS = 2048 * 2048  # maximum size of a grid's frame: the encoder holds tens of frames

EXAMPLES = """\
examples (the frames of a training clip span the times 0 to 1):
  digan sample --network RUN --outdir out                                     16 videos, and a grid of them
  digan sample --network RUN --outdir out --frames 61 --fps 32                16-frame clips four times smoother
  digan sample --network RUN --outdir out --frames 31 --t1 2                  twice as long: beyond 1 extrapolates
  digan sample --network RUN --outdir out --resolution 512                    every layer on a denser grid
  digan sample --network RUN --outdir out --resolution 256x128 --x -2 2       beyond the edges
  digan sample --network RUN --outdir out --x -0.5 0.5 --y -0.5 0.5           zoomed in
  digan sample --network RUN --outdir out --frames 1 --t0 0.37                single frames
  digan sample --network RUN --outdir out --mode motion-grid                  4 contents x 4 motions
  digan sample --network RUN --outdir out --mode interpolate --indices 3,7    from one content to another
  digan sample --network RUN --outdir out --mode mix --indices 3,7 --weights 0.4 0.6
                                                                              one content between others
clips of digan invert, which take the place of the first samples:
  digan sample --network RUN --outdir out --latents A --frames 61             four times smoother
  digan sample --network RUN --outdir out --latents A --frames 24 --t1 1.5    beyond the end of the clip
  digan sample --network RUN --outdir out --latents A --motion B              with the motion of another clip
  digan sample --network RUN --outdir out --latents A B --mode motion-grid    every content with every motion
  digan sample --network RUN --outdir out --latents A --mode interpolate --indices 0,7
                                                                              from the clip to sample 7

Sample i depends only on --seed and i, bit for bit on one machine: other samples do not affect it. With N files of
--latents, samples 0 to N-1 are their clips instead.
sample.json records all settings. Existing files of the same names are overwritten.
"""


def configure(parser: OptionParser) -> None:
    """Add the options of the command."""
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = EXAMPLES
    add_network(parser)
    parser.add_argument("--outdir", required=True, type=Path, help="folder for the results")

    add_clips(parser)
    view = parser.add_argument_group("times and window")
    view.add_argument(
        "--frames",
        type=COUNT,
        help="frames, evenly spaced from --t0 to --t1 [a training clip's, or 16; those of --latents]",
    )
    view.add_argument("--t0", type=float, help="time of the first frame [0; that of --latents]")
    view.add_argument("--t1", type=float, help="time of the last frame; beyond 1 extrapolates [1; that of --latents]")
    view.add_argument("--resolution", type=_size, help="pixels per side, or WIDTHxHEIGHT [the network's]")
    view.add_argument("--x", type=float, nargs=2, default=(-1.0, 1.0), help="left and right edge [-1 1]")
    view.add_argument("--y", type=float, nargs=2, default=(-1.0, 1.0), help="lower and upper edge [-1 1]")

    files = parser.add_argument_group("files", "\n".join(f"{name:<5} {text}" for name, text in FORMATS.items()))
    files.add_argument(
        "--format", type=_formats, help=f"any of {','.join(FORMATS)} [mp4,gif,png; png for single frames]"
    )
    files.add_argument("--only", choices=("videos", "grid"), help="write only the single videos, or only their grid")
    files.add_argument(
        "--fps",
        type=number(float, FPS),
        default=8.0,
        help="frames per second of playback [8]",
    )
    files.add_argument(
        "--slice-row", type=number(float, FRACTION), default=0.5, help="row of a slice: 0 top, 1 bottom [0.5]"
    )

    files.add_argument(
        "--slice-line",
        type=float,
        nargs=4,
        metavar=("X0", "Y0", "X1", "Y1"),
        help="line that a slice shows instead of a row, in coordinates of the plane, at the width of --resolution",
    )

    speed = parser.add_argument_group("speed")
    add_precision(speed)
    speed.add_argument(
        "--memory",
        type=number(float, Range(above=0)),
        default=RENDER_MEMORY / 2**20,
        help="memory limit of rendering in MiB [%(default)g]",
    )


def run(args: argparse.Namespace) -> int:
    """Generate the clips one after the other, then their grid, and return the exit status."""
    _check(args)
    plan = selected_clips(args)
    network = find_network(args.network, args.which)
    digest = checksum(network)
    g = Generator.from_pretrained(network)
    with plain_warnings():
        sampler = _sampler(args, g, _latents(args, g, digest))
    args.format = args.format or _default_formats(args, len(sampler.times))
    _check_sides(args, *sampler.size)
    in_grid, columns = _layout(args, plan, *sampler.size)
    requested = len(plan.clips)
    if args.only == "grid":
        plan = replace(plan, clips=plan.clips[:in_grid])
    try:
        files, grid = _make(args, plan, sampler, in_grid, columns)
        with atomic_path(args.outdir / "sample.json") as path:
            path.write_text(json.dumps(_record(args, plan, sampler, network, digest, files + grid), indent=1))
    except OSError as error:
        raise ConfigError(f"--outdir {args.outdir} cannot be written: {error.strerror or error}.") from error
    height, width = sampler.size
    what = f"{counted(len(plan.clips), 'clip')} of {counted(len(sampler.times), 'frame')}, {width}x{height} pixels"
    print(f"{what}: {args.outdir}")
    if in_grid:
        first = "" if in_grid == requested else f" of the first {in_grid} of {requested}"
        print(f"  grid{first}: {', '.join(file.name for file in grid)}")
    print("  all settings: sample.json")
    return 0


def _default_formats(args: argparse.Namespace, frames: int) -> list[str]:
    if args.slice_line:
        return ["slice"]
    return ["png"] if frames == 1 else ["mp4", "gif", "png"]


def _make(
    args: argparse.Namespace, plan: Plan, sampler: Sampler, in_grid: int, columns: int
) -> tuple[list[Path], list[Path]]:
    """Render every clip and write the files.

    Args:
        args: the options of the command.
        plan: the clips.
        sampler: renders the clips.
        in_grid: number of clips in the grid, the first ones.
        columns: number of columns of the grid.

    Returns:
        The files of single clips, and the files of the grid.
    """
    outputs = Outputs(args.outdir, args.format, args.fps, args.slice_row)
    args.outdir.mkdir(parents=True, exist_ok=True)
    count, frames = len(plan.clips), len(sampler.times)
    height, width = sampler.size
    height = 1 if args.slice_line else height
    _check_disk_space(args, min(in_grid + 1, count) * frames * height * width * 3)
    files: list[Path] = []
    grid_clips = []
    with FrameSpill(args.outdir, frames, height, width) as spill, ProgressBar("rendering", True, "frame") as progress:
        for index, clip in enumerate(plan.clips):
            rendered = _with_progress(_frames(args, sampler, clip), progress, index * frames, count * frames)
            # Clips of the grid keep their slots on disk; all others share the slot behind them.
            on_disk = spill.write(min(index, in_grid), rendered)
            if args.only != "grid":
                files += outputs.write(clip.name, [on_disk])
            if index < in_grid:
                grid_clips.append(on_disk)
        grid = outputs.write("grid", grid_clips, columns) if in_grid else []
    return files, grid


def _frames(args: argparse.Namespace, sampler: Sampler, clip: ClipPlan) -> Iterator[torch.Tensor]:
    if args.slice_line:
        return sampler.slice(clip, tuple(args.slice_line))
    try:
        return sampler.frames(clip)
    except ValueError as error:
        raise ConfigError(f"--memory {args.memory:g}: {error}") from error


def _with_progress(
    frames: Iterator[torch.Tensor], progress: ProgressBar, done: int, total: int
) -> Iterator[torch.Tensor]:
    """Yield the frames and report progress."""
    for index, frame in enumerate(frames):
        yield frame
        progress(done + index + 1, total)


def _size(text: str) -> tuple[int, int]:
    """Parse a width and height such as "128" or "256x128"."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdecimal() for part in parts):
        raise argparse.ArgumentTypeError(f"'{text}' is neither a number of pixels nor WIDTHxHEIGHT")
    side = number(int, Range(minimum=1, maximum=MAX_SIDE))
    return side(parts[0]), side(parts[-1])


def _formats(text: str) -> list[str]:
    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    for name in names:
        if name not in FORMATS:
            raise argparse.ArgumentTypeError(f"'{name}' is not one of {', '.join(FORMATS)}")
    return names


def _check(args: argparse.Namespace) -> None:
    """Raise `ConfigError` for a window or line without extent, or options that do not go with others."""
    for name in ("x", "y"):
        start, end = getattr(args, name)
        if start == end:
            raise ConfigError(f"--{name} {start:g} {end:g} must be two different numbers.")
    if args.slice_line:
        if args.format not in (None, ["slice"]):
            raise ConfigError("--slice-line is for --format slice; leave one of them out.")
        if args.slice_line[:2] == args.slice_line[2:]:
            raise ConfigError("--slice-line must lead from one point to another.")


def _latents(args: argparse.Namespace, g: Generator, digest: str) -> list[Latents]:
    """Return the clips of --latents, with the motion of --motion."""
    clips = [read_latents(path, g, digest) for path in args.latents]
    if args.motion is None:
        return clips
    z_motion = read_latents(args.motion, g, digest).z_motion
    return [replace(clip, z_motion=z_motion) for clip in clips]


def _times(args: argparse.Namespace, default: torch.Tensor) -> torch.Tensor:
    """Return the times of the frames; `default` has those that --frames, --t0 and --t1 would replace."""
    if args.frames is None and args.t0 is None and args.t1 is None:
        return default
    t0 = default[0].item() if args.t0 is None else args.t0
    t1 = default[-1].item() if args.t1 is None else args.t1
    return clip_times(args.frames or len(default), t0, t1)


def _sampler(args: argparse.Namespace, g: Generator, latents: list[Latents]) -> Sampler:
    """Return the sampler that renders the clips.

    Raises:
        ConfigError: options do not fit the network or the machine.
    """
    g = on_device(g, args.device)
    data = g.metadata.get("data")
    data = data if isinstance(data, dict) else {}
    return Sampler(
        g,
        _times(args, latents[0].times if latents else clip_times(data.get("frames") or TrainConfig.frames)),
        _grid(args, g),
        seed=args.seed or 0,
        latents=latents,
        classes=class_numbers(args.classes, g.config.num_classes, data.get("class_names") or []),
        psi=args.psi,
        dtype=DTYPES[args.dtype],
        memory=int(args.memory * 2**20),
    )


def _grid(args: argparse.Namespace, g: Generator) -> fi.Grid:
    """Return the base grid of the window."""
    width, height = args.resolution or (g.config.resolution,) * 2
    scale = g.config.resolution // g.config.base_resolution
    for side in (width, height):
        if side < 1 or side % scale:
            below = side // scale * scale
            near = f"{below} or {below + scale}" if below else f"{scale}"
            raise ConfigError(f"--resolution {side}: this network renders multiples of {scale} pixels; give {near}.")
    return fi.Grid(height // scale, width // scale, x=tuple(args.x), y=tuple(args.y))


def _check_sides(args: argparse.Namespace, height: int, width: int) -> None:
    if max(height, width) > MAX_PIXELS and {"mp4", "gif"} & set(args.format):
        raise ConfigError(
            f"--resolution {width}x{height}: videos are at most {MAX_PIXELS} pixels wide and high; lower it, or use "
            "--format png."
        )


def _layout(args: argparse.Namespace, plan: Plan, height: int, width: int) -> tuple[int, int]:
    """Return the number of clips in the grid, 0 for no grid, and its number of columns."""
    count = len(plan.clips)
    if args.only == "videos" or (count == 1 and args.only is None):
        return 0, 1
    capacity = max(1, GRID_PIXELS // (height * width))
    if plan.columns is None:
        in_grid, columns = full_grid(min(count, capacity), MAX_PIXELS // width or 1)
        return (in_grid, columns) if in_grid > 1 or args.only else (0, 1)
    if count > capacity or plan.columns * width > MAX_PIXELS:
        raise ConfigError(
            f"--resolution {width}x{height}: a grid of {count} such videos in {plan.columns} columns is larger than "
            f"{GRID_PIXELS} pixels or wider than {MAX_PIXELS}; lower the resolution, or use --only videos."
        )
    return count, plan.columns


def _check_disk_space(args: argparse.Namespace, num_bytes: int) -> None:
    """Raise `ConfigError` if the raw frames do not fit on the disk."""
    free = shutil.disk_usage(args.outdir).free
    if num_bytes > free:
        raise ConfigError(
            f"--outdir {args.outdir} has {free / 1e6:,.1f} MB free, but the raw frames need {num_bytes / 1e6:,.1f} MB; "
            "free some space, or use --only videos."
        )


def _record(
    args: argparse.Namespace, plan: Plan, sampler: Sampler, network: Path, digest: str, files: list[Path]
) -> dict[str, Any]:
    """Return the settings that reproduce the files."""
    options = {name: value for name, value in vars(args).items() if name not in ("network", "command")}
    options |= {"outdir": str(args.outdir), "resolution": sampler.size[::-1], "frames": len(sampler.times)}
    options |= {"seed": sampler.seed, "latents": [str(path) for path in args.latents]}
    options |= {"motion": args.motion and str(args.motion)}
    clips = [asdict(clip) | {"classes": [sampler.label(i) for i in clip.contents]} for clip in plan.clips]
    return {
        "network": {"file": str(network), "sha256": digest, "clips_seen": sampler.g.metadata.get("clips_seen")},
        "options": options,
        "times": sampler.times.tolist(),
        "clips": clips,
        "files": [file.name for file in files],
        "software": {"torch": torch.__version__, "fused_inr": fi.__version__, "backends": fi.backends()},
    }
