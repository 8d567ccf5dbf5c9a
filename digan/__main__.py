"""`digan <command>` and `python -m digan <command>`."""

from __future__ import annotations

import sys
from collections.abc import Sequence

_COMMANDS = {"train": "train a model; the same as accelerate launch digan/train.py"}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a subcommand with the rest of the command line. Returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: digan <command> [options]\n")
        print("\n".join(f"  {name:<10} {text}" for name, text in _COMMANDS.items()))
        return 0
    if argv[0] == "train":
        from digan import train

        return train.main(argv[1:])
    print(f"digan: unknown command {argv[0]}; there is {', '.join(_COMMANDS)}.", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main())
