"""The command line: `digan train | sample | invert | explore | evaluate | report | convert | info`."""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from types import ModuleType

from digan.cli.options import OptionParser
from digan.errors import MissingPackages, SharedError, sentence

# Each module has configure(parser), which adds its options, and run(args), which returns the exit status.
COMMANDS = {
    "train": ("digan.cli.train", "train a generator on your videos, or on generated demo videos"),
    "sample": ("digan.cli.sample", "generate videos with a trained network"),
    "invert": ("digan.cli.invert", "find the latents of a video, so that the network can render it"),
    "explore": ("digan.cli.explore", "explore a trained network in a browser"),
    "evaluate": ("digan.cli.evaluate", "compute metrics of a network, or of two sets of videos"),
    "convert": ("digan.cli.convert", "convert an official snapshot (.pkl) to safetensors; nothing in it is executed"),
    "report": ("digan.cli.report", "compare runs on one page: options, curves and samples, as a single HTML file"),
    "info": ("digan.cli.info", "describe a network, a checkpoint, a run or a set of videos"),
}

# The packages of the extras, keyed by their import names. A command needs the extra of its name, or else `train`, which
# the others include.
EXTRAS = {
    "train": {
        "accelerate": "accelerate",
        "av": "av",
        "PIL": "pillow",
        "psutil": "psutil",
        "tensorboard": "tensorboard",
        "tqdm": "tqdm",
        "yaml": "pyyaml",
    },
    "explore": {"starlette": "starlette", "uvicorn": "uvicorn", "websockets": "websockets"},
    "report": {"jinja2": "jinja2", "matplotlib": "matplotlib"},
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command.

    Args:
        argv: the command and its options; None for those of the process.

    Returns:
        The exit status: 0; 2 after an error of the user or the machine, described in one sentence; 130 after Ctrl-C; or
        141 if the reader of the output closed it.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser("digan", description="DIGAN: videos as functions of (x, y, t).")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, (_, text) in COMMANDS.items():
        commands.add_parser(name, help=text, add_help=False)
    name = parser.parse_args(argv[:1]).command
    if hasattr(sys.stdout, "reconfigure"):
        sys.stdout.reconfigure(errors="backslashreplace")  # for names of files that the terminal's encoding lacks
    try:
        status = _run(name, argv[1:])
        sys.stdout.flush()
        return status
    except MissingPackages as error:
        print(f"digan {name} {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        _discard_output()
        return 141
    except (Exception, KeyboardInterrupt) as error:
        if _interrupted(error):
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # a further one would interrupt Python's own clean-up
            print(f"digan {name}: interrupted", file=sys.stderr)
            return 130
        text = sentence(error)
        if text is None:
            raise
        if not (isinstance(error, SharedError) and error.quiet):
            print(f"digan {name}: {text}", file=sys.stderr)
        if not _flushes():
            _discard_output()
        return 2


def _interrupted(error: BaseException | None) -> bool:
    """Return whether Ctrl-C caused an error: code that it interrupts, such as `torch.save`, may raise another."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


def _flushes() -> bool:
    """Return whether the text printed so far can be written."""
    try:
        sys.stdout.flush()
    except OSError:
        return False
    return True


def _discard_output() -> None:
    """Discard the text that cannot be written, which Python would otherwise report when it ends."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)


def _run(name: str, argv: Sequence[str]) -> int:
    if name == "train":
        # OpenMP threads that spin while they wait starve the data workers and other processes on the same cores: steps
        # took 10 to 30 times as long beside one busy process. OpenMP reads the variable once, when PyTorch is loaded.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    module = _import(name)
    text = COMMANDS[name][1]
    parser = OptionParser(
        f"digan {name}", description=text[0].upper() + text[1:] + ".", **getattr(module, "PARSER", {})
    )
    module.configure(parser)
    return module.run(parser.parse(argv))


def _import(name: str) -> ModuleType:
    """Import the module of a command.

    Raises:
        MissingPackages: the module needs packages of its extra that are not installed.
    """
    try:
        return importlib.import_module(COMMANDS[name][0])
    except ModuleNotFoundError as error:
        extra = name if name in EXTRAS else "train"
        packages = EXTRAS["train"] | EXTRAS[extra]
        if (error.name or "").partition(".")[0] not in packages:
            raise
        missing = [package for key, package in packages.items() if importlib.util.find_spec(key) is None]
        raise MissingPackages(
            f"needs packages that are not installed ({', '.join(missing)}): pip install 'digan[{extra}]'"
        ) from error
