"""`python -m fused_inr.backends.triton`: compiles every kernel for every GPU, and what each needs of it.

`python -m fused_inr.backends.triton tune` times block sizes on the GPU at hand and writes them to `configs.json`.
"""

import argparse
import sys

from fused_inr.backends.triton import aot
from fused_inr.backends.triton.cases import CASES

_COLUMNS = ("registers", "shared", "local", "spills", "instructions", "matrix_instructions")


def main(arguments: list[str] | None = None) -> None:
    """Prints one line for each kernel, case and target as soon as it is compiled."""
    parser = argparse.ArgumentParser(prog="python -m fused_inr.backends.triton", description=main.__doc__)
    parser.add_argument("command", nargs="?", choices=["compile", "tune"], default="compile", help="default compile")
    parser.add_argument("--target", choices=aot.TARGETS, action="append", help="a GPU; may be repeated; default all")
    parser.add_argument("-k", metavar="TEXT", default="", help="only cases whose name contains this")
    options = parser.parse_args(arguments)
    if options.command == "tune":
        from fused_inr.backends.triton.tune import tune

        tune(case for case in CASES if options.k in case.name)
        return
    print(f"{'target':8} {'case':52} {'kernel':26} {'warps':>5}", *(f"{name:>12.12}" for name in _COLUMNS))
    for case in CASES:
        if options.k not in case.name:
            continue
        for target in options.target or aot.TARGETS:
            for launch in case.launches_on(target):
                kernel = aot.compiled(launch, target)
                needs = aot.resources(kernel)
                name = launch.kernel.__name__.removesuffix("_kernel")
                numbers = (f"{getattr(needs, column):12}" for column in _COLUMNS)
                print(f"{target:8} {case.name:52} {name:26} {launch.num_warps:5}", *numbers)
                sys.stdout.flush()


if __name__ == "__main__":
    main()
