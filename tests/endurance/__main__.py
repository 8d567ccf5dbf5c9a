"""The long version of the endurance tests.

`python -m tests.endurance` runs every kind; `python -m tests.endurance videos --count 500 --seed 7` a part of one.
"""

import argparse
import sys

from tqdm import tqdm

from tests.endurance import trials


def main() -> int:
    """Run the kinds that the command line names; return 1 if a trial failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.endurance", description="Damage things and count outcomes.")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"{', '.join(trials.KINDS)}; default: all of them")
    parser.add_argument("--count", type=int, help="number of trials; default: the long version's")
    parser.add_argument("--seed", type=int, default=0, help="the first seed")
    parser.add_argument("--jobs", type=int, default=1, help="number of processes")
    arguments = parser.parse_args()
    if unknown := set(arguments.kinds) - set(trials.KINDS):
        parser.error(f"unknown kind {', '.join(sorted(unknown))}; choose from {', '.join(trials.KINDS)}")
    failed = False
    for kind in arguments.kinds or trials.KINDS:
        count = arguments.count or trials.KINDS[kind][1]
        with tqdm(total=count, desc=kind, mininterval=1.0) as bar:
            outcomes = trials.run(kind, count, arguments.seed, arguments.jobs, progress=bar.update)
        print(f"{kind}: {count} trials in {outcomes.seconds:.0f} s\n{outcomes.table()}", flush=True)
        failed |= bool(outcomes.failures)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
