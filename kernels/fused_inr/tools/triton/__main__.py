"""Compile the Triton kernels for every GPU and print the resources of each: `python -m fused_inr.tools.triton`.

`python -m fused_inr.tools.triton tune` times block sizes on the local GPU and writes the best to `configs.json`.
"""

import argparse
import sys

from fused_inr.tools.triton import ahead_of_time
from fused_inr.tools.triton.cases import CASES

_COLUMNS = ("registers", "shared", "local", "spills", "instructions", "matrix_instructions")


def main(arguments: list[str] | None = None) -> None:
    """Print one line for each kernel, case and target as soon as it is compiled."""
    parser = argparse.ArgumentParser(prog="python -m fused_inr.tools.triton", description=main.__doc__)
    parser.add_argument("command", nargs="?", choices=["compile", "tune"], default="compile", help="default: compile")
    parser.add_argument(
        "--target", choices=ahead_of_time.TARGETS, action="append", help="GPU architecture; repeatable (default: all)"
    )
    parser.add_argument("-k", metavar="TEXT", default="", help="only cases whose names contain this text")
    options = parser.parse_args(arguments)
    if options.command == "tune":
        from fused_inr.tools.triton.tuning import tune

        tune(case for case in CASES if options.k in case.name)
        return
    print(f"{'target':8} {'case':52} {'kernel':26} {'warps':>5}", *(f"{name:>12.12}" for name in _COLUMNS))
    for case in CASES:
        if options.k not in case.name:
            continue
        for target in options.target or ahead_of_time.TARGETS:
            for launch in case.launches_on(target):
                kernel = ahead_of_time.compiled(launch, target)
                needs = ahead_of_time.resources(kernel)
                name = launch.kernel.__name__.removesuffix("_kernel")
                numbers = (f"{getattr(needs, column):12}" for column in _COLUMNS)
                print(f"{target:8} {case.name:52} {name:26} {launch.num_warps:5}", *numbers)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
