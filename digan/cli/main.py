"""The command line: `digan sample | evaluate | convert | info`."""

from __future__ import annotations

import argparse
import importlib
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


def main(argv: Sequence[str] | None = None) -> int:
    """The exit status: 0, 2 with one sentence on what to change, or 130 after Ctrl-C."""
    argv = list(sys.argv[1:] if argv is None else argv)
    parser = argparse.ArgumentParser("digan", description="DIGAN: videos as functions of (x, y, t).")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    modules = {}
    for name, (module, text) in COMMANDS.items():
        sub = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".", allow_abbrev=False)
        if name in argv[:1]:  # the others' imports are not needed to run this one
            modules[name] = importlib.import_module(module)
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
