"""The options that say which clips `digan sample` makes, and the clips that they select."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from digan.cli.options import OptionParser, add_latents, number
from digan.config import SEED, Range
from digan.errors import ConfigError
from digan.sampling.clip_plan import Plan, interpolation, mixture, motion_grid, videos

# The options that select the clips of each mode, with their defaults; None where the default depends on others.
MODES: dict[str, dict[str, Any]] = {
    "videos": {"videos": 16, "indices": None},
    "motion-grid": {"contents": 4, "motions": 4, "indices": None, "motion_indices": None},
    "interpolate": {"steps": 8, "indices": None, "motion_indices": None},
    "mix": {"weights": None, "indices": None, "motion_indices": None},
}
MAX_CLIPS = 10**6
COUNT = number(int, Range(minimum=1, maximum=MAX_CLIPS))


def add_clips(parser: OptionParser) -> None:
    """Add the group of these options."""
    which = parser.add_argument_group("which clips")
    which.add_argument("--mode", choices=MODES, default="videos", help="what to generate [videos]")
    which.add_argument("--videos", type=COUNT, help="number of videos [16]")
    which.add_argument("--contents", type=COUNT, help="number of contents (rows) in a motion-grid [4]")
    which.add_argument("--motions", type=COUNT, help="number of motions (columns) in a motion-grid [4]")
    which.add_argument(
        "--steps",
        type=number(int, Range(minimum=2, maximum=MAX_CLIPS)),
        help="number of videos from one content to the next, both included, interpolated in w [8]",
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
    which.add_argument(
        "--motion", type=Path, metavar="FILE", help="latents file whose motion replaces that of every clip"
    )


def selected_clips(args: argparse.Namespace) -> Plan:
    """Return the clips that --mode and its options select.

    Raises:
        ConfigError: an option has no effect with the others, or contradicts them.
    """
    if args.motion and not args.latents:
        raise ConfigError("--motion replaces the motion of clips of --latents: give these too.")
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
