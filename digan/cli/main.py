"""The command line: `digan sample | evaluate | convert | info`."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import sys
from collections.abc import Sequence

from digan.errors import UserError

# Each module has configure(parser), which adds its options, and run(args), which returns the exit status.
COMMANDS = {
    "sample": ("digan.cli.sample", "videos from a trained network"),
    "evaluate": ("digan.cli.evaluate", "metrics of a network, or of two sets of videos"),
    "convert": ("digan.cli.convert", "an official snapshot (.pkl) to safetensors; nothing in it is executed"),
    "info": ("digan.cli.info", "what is in a network, a run or a folder of videos"),
}

# The packages of the extra `train`, by the name under which each is imported.
TRAIN_EXTRA = {
    "accelerate": "accelerate",
    "av": "av",
    "PIL": "pillow",
    "psutil": "psutil",
    "yaml": "pyyaml",
    "tensorboard": "tensorboard",
    "tqdm": "tqdm",
}


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 2 with one sentence on what to change, or 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser("digan", description="DIGAN: videos as functions of (x, y, t).")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {}
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        if name in argv[:1]:  # the others' imports are not needed to run this one
            try:
                modules[name] = importlib.import_module(module)
            except ModuleNotFoundError as error:
                if error.name is None or error.name.partition(".")[0] not in TRAIN_EXTRA:
                    raise
                missing = [package for key, package in TRAIN_EXTRA.items() if importlib.util.find_spec(key) is None]
                needs = f"needs packages that are not installed ({', '.join(missing)}): pip install 'digan[train]'"
                print(f"digan {name} {needs}", file=sys.stderr)
                return 2
            modules[name].configure(sub)
    args = parser.parse_args([_dashed(word) for word in argv])
    try:
        return modules[args.command].run(args)
    except UserError as error:
        print(f"digan {args.command}: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"digan {args.command}: interrupted", file=sys.stderr)
        return 130


def _dashed(word: str) -> str:
    """A flag with dashes for underscores, which training takes too; its value as it is."""
    flag, equals, value = word.partition("=")
    return (flag.replace("_", "-") if flag.startswith("--") else flag) + equals + value
