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
from digan.cli.options import OptionParser, add_latents, add_network, number
from digan.cli.terminal import ProgressBar, plain_warnings
from digan.config import FRACTION, SEED, Range, TrainConfig
from digan.errors import ConfigError
from digan.files import atomic_path, checksum
from digan.models.generator import Generator
from digan.models.hub import find_network
from digan.sampling.clip_plan import ClipPlan, Plan, interpolation, mixture, motion_grid, videos
from digan.sampling.frame_spill import FrameSpill
from digan.sampling.grids import full_grid
from digan.sampling.latents import Latents, clip_times, read_latents
from digan.sampling.media import MAX_PIXELS
from digan.sampling.render import RENDER_MEMORY, Sampler
from digan.sampling.writers import FORMATS, Outputs
from digan.wording import counted

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# The options that select the clips of each mode, with their defaults; None where the default depends on others.
MODES: dict[str, dict[str, Any]] = {
    "videos": {"videos": 16, "indices": None},
    "motion-grid": {"contents": 4, "motions": 4, "indices": None, "motion_indices": None},
    "interpolate": {"steps": 8, "indices": None, "motion_indices": None},
    "mix": {"weights": None, "indices": None, "motion_indices": None},
}
MAX_CLIPS = 10**6
MAX_FPS = 1000.0
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

    count = number(int, Range(minimum=1, maximum=MAX_CLIPS))
    which = parser.add_argument_group("which clips")
    which.add_argument("--mode", choices=MODES, default="videos", help="what to generate [videos]")
    which.add_argument("--videos", type=count, help="number of videos [16]")
    which.add_argument("--contents", type=count, help="number of contents (rows) in a motion-grid [4]")
    which.add_argument("--motions", type=count, help="number of motions (columns) in a motion-grid [4]")
    which.add_argument(
        "--steps",
        type=number(int, Range(minimum=2, maximum=MAX_CLIPS)),
        help="videos from one content to the next, interpolated in w; both ends count [8]",
    )
    which.add_argument("--indices", type=_indices, help="samples or contents, such as 3,7,10-12 [0, 1, 2, ...]")
    which.add_argument(
        "--weights", type=float, nargs="+", help="weight in w of each content in --mode mix; their sum should be 1"
    )
    which.add_argument("--motion-indices", type=_indices, help="samples whose motions are used [0, 1, 2, ...]")
    which.add_argument("--class", dest="classes", nargs="+", help="class numbers or names, taken in turn [all]")
    which.add_argument("--psi", type=float, default=1.0, help="truncation: 1 for none, 0 for the average content [1]")
    which.add_argument("--seed", type=number(int, SEED), help="seed of the samples [0]")
    add_latents(which)
    which.add_argument("--motion", type=Path, metavar="FILE", help="a clip whose motion all clips of --latents get")

    view = parser.add_argument_group("times and window")
    view.add_argument(
        "--frames",
        type=count,
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
        type=number(float, Range(minimum=0.001, maximum=MAX_FPS)),
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
    speed.add_argument("--dtype", choices=DTYPES, default="fp32", help="type of the matrix products [fp32]")
    speed.add_argument(
        "--device",
        default="cuda" if torch.cuda.is_available() else "cpu",
        help="device of the network [cuda if available]",
    )
    speed.add_argument(
        "--memory",
        type=number(float, Range(above=0)),
        default=RENDER_MEMORY / 2**20,
        help="memory limit of rendering in MiB [%(default)g]",
    )


def run(args: argparse.Namespace) -> int:
    """Generate the clips one after the other, then their grid, and return the exit status."""
    _check(args)
    plan = _plan(args)
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


def _indices(text: str) -> list[int]:
    """Parse a list of samples such as "3,7,10-12"."""
    indices: list[int] = []
    for part in text.split(","):
        first, dash, last = part.partition("-")
        if not first.isdecimal() or (dash and not last.isdecimal()) or (dash and int(last) < int(first)):
            raise argparse.ArgumentTypeError(f"'{text}' is not a list such as 3,7,10-12")
        start, end = map(number(int, Range(minimum=0)), (first, last if dash else first))
        if len(indices) + end - start >= MAX_CLIPS:
            raise argparse.ArgumentTypeError(f"'{text}' names more than {MAX_CLIPS:,} samples")
        indices += range(start, end + 1)
    if len(set(indices)) < len(indices):
        raise argparse.ArgumentTypeError(f"'{text}' names a sample twice")
    return indices


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
    if args.motion and not args.latents:
        raise ConfigError("--motion replaces the motion of clips of --latents: give these too.")


def _plan(args: argparse.Namespace) -> Plan:
    """Return the clips that --mode and its options select."""
    plan = _plan_of_mode(args)
    if all(clip.within(len(args.latents)) for clip in plan.clips):  # never without --latents
        for name, value in {"seed": args.seed, "class": args.classes}.items():
            if value is not None:
                raise ConfigError(f"--{name} has no effect on clips of --latents; leave it out.")
    return plan


def _plan_of_mode(args: argparse.Namespace) -> Plan:
    defaults = MODES[args.mode]
    for name in {name for options in MODES.values() for name in options} - set(defaults):
        if getattr(args, name) is not None:
            modes = " or ".join(mode for mode, options in MODES.items() if name in options)
            raise ConfigError(f"--{name.replace('_', '-')} is for --mode {modes}, not {args.mode}; leave it out.")

    def samples(indices: str, count: str) -> list[int]:
        """Return the samples in the option `indices`, else the first ones, as many as the option `count` says."""
        if getattr(args, indices) is not None and getattr(args, count) is not None:
            raise ConfigError(f"--{count} and --{indices.replace('_', '-')} both set the number; leave one out.")
        default = len(args.latents) or defaults[count]
        return getattr(args, indices) or list(range(getattr(args, count) or default))

    if args.mode == "videos":
        return videos(samples("indices", "videos"))
    if args.mode == "motion-grid":
        rows, columns = samples("indices", "contents"), samples("motion_indices", "motions")
        _check_count(len(rows) * len(columns), "contents times motions")
        return motion_grid(rows, columns)
    contents = args.indices or list(range(len(args.weights or (0, 1))))
    motions = args.motion_indices or contents[:1]
    if len(motions) != 1:
        raise ConfigError(f"--motion-indices must name one sample: all videos of --mode {args.mode} share a motion.")
    if args.mode == "mix":
        return _mixture(contents, args.weights or [1 / len(contents)] * len(contents), motions[0])
    if len(contents) < 2:
        raise ConfigError("--indices must name at least two samples for --mode interpolate.")
    steps = args.steps or defaults["steps"]
    _check_count(len(contents) * steps, "--steps times samples in --indices")
    return interpolation(contents, motions[0], steps)


def _mixture(contents: list[int], weights: list[float], motion: int) -> Plan:
    if len(weights) != len(contents):
        raise ConfigError(f"--weights has {len(weights)} values, but --indices {len(contents)}; give one for each.")
    if not any(weights):
        raise ConfigError("--weights must not all be 0.")
    return mixture(contents, weights, motion)


def _check_count(count: int, what: str) -> None:
    if count > MAX_CLIPS:
        raise ConfigError(f"{what} is {count:,}, but must be at most {MAX_CLIPS:,}.")


def on_device(g: Generator, device: str) -> Generator:
    """Move a generator to the device of `--device`.

    Raises:
        ConfigError: the device cannot be used.
    """
    try:
        return g.to(torch.device(device))
    except (RuntimeError, AssertionError) as error:
        reason = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(f"--device {device} cannot be used here ({reason}); leave it out.") from error


def _latents(args: argparse.Namespace, g: Generator, digest: str) -> list[Latents]:
    """Return the clips of --latents, with the motion of --motion."""
    clips = [read_latents(path, g, digest) for path in args.latents]
    if args.motion is None:
        return clips
    z_motion = read_latents(args.motion, g, digest).z_motion
    return [replace(clip, z_motion=z_motion) for clip in clips]


def _times(args: argparse.Namespace, default: torch.Tensor) -> torch.Tensor:
    """Return the times of the frames; `default` has those that --frames, --t0 and --t1 would replace."""
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


def class_numbers(texts: list[str] | None, count: int, names: list[str]) -> list[int]:
    """Return the numbers of the classes of `--class`, which samples take in turn.

    Args:
        texts: numbers or names; None for all classes.
        count: number of classes of the network.
        names: their names, if known.

    Raises:
        ConfigError: the network has no such class.
    """
    if texts is None:
        return list(range(count))
    if not count:
        raise ConfigError("--class: this network was trained without classes; leave it out.")
    classes = []
    for text in texts:
        if text in names:
            classes.append(names.index(text))
        elif text.isdecimal() and int(text) < count:
            classes.append(int(text))
        else:
            known = f", or one of {', '.join(names)}" if names else ""
            raise ConfigError(f"--class {text} is not a class of this network: give 0 to {count - 1}{known}.")
    return classes


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
            f"--outdir {args.outdir} has {free / 2**30:.1f} GiB free, but the raw frames need "
            f"{num_bytes / 2**30:.1f} GiB; free some space, or use --only videos."
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
