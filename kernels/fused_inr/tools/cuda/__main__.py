"""Compile the CUDA kernels for every GPU and print the resources of each: `python -m fused_inr.tools.cuda`."""

import argparse
import sys
import tempfile
from pathlib import Path

from fused_inr._backends.cuda import nvcc
from fused_inr.tools.cuda import ahead_of_time

_LAYERS = 5


def main(arguments: list[str] | None = None) -> None:
    """Print one line for each kernel and target; needs nvcc and the sources, and no GPU."""
    parser = argparse.ArgumentParser(prog="python -m fused_inr.tools.cuda", description=main.__doc__)
    parser.add_argument(
        "--target",
        choices=ahead_of_time.MAX_SHARED,
        action="append",
        help="GPU architecture; repeatable (default: all)",
    )
    parser.add_argument("--library", type=Path, help="read this compiled library instead of compiling the sources")
    options = parser.parse_args(arguments)
    targets = options.target or list(ahead_of_time.MAX_SHARED)
    try:
        if options.library:
            table = [needs for needs in ahead_of_time.resources(options.library) if needs.target in targets]
        else:
            with tempfile.TemporaryDirectory() as folder:
                table = ahead_of_time.compiled(targets, Path(folder))
    except (RuntimeError, nvcc.CompileError) as error:
        sys.exit(str(error))
    print(
        f"Shared memory and warps are per block, for {_LAYERS} layers and 2 coordinates; 0 means that it does not fit."
    )
    columns = ("registers", "local", "spills", "instructions", "matrix_instructions")
    heads = ["target", "kernel", "type", "width", "shared", "warps", *columns]
    print(f"{heads[0]:6} {heads[1]:17} {heads[2]:9}", *(f"{name:>12.12}" for name in heads[3:]))
    for needs in sorted(table, key=lambda row: (row.target, row.kernel, row.type, row.width)):
        numbers = (needs.width, *needs.shared(_LAYERS), *(getattr(needs, name) for name in columns))
        print(f"{needs.target:6} {needs.kernel:17} {needs.type:9}", *(f"{number:12}" for number in numbers))


if __name__ == "__main__":
    main()
