"""Run by test_processes.py in two processes: what each of several disagreements ends with, one after the other."""

import json
import os
import shutil
import sys
from pathlib import Path

from accelerate.state import AcceleratorState

from digan.cli import train as command
from digan.errors import UserError

SMALL = "--resolution 32 --batch 8 --z-dim 8 --w-dim 8 --fourier-dim 4 --fmm-rank 2 --channel-base 256 --channel-max 8 "
SMALL += "--samples 2 --metrics none --tick 0.008 --snap 1 --workers 0 --report-to none --kimg 0.016"


def scenarios(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the options of process 0 and of process 1, by name."""
    data, other, runs, local = (folder / name for name in ("videos", "other", "runs", "local"))
    both = f"{SMALL} --data {data} --outdir {runs}"
    return {
        "nothing": (both, both),
        "options": (both, f"{both} --seed 1 --lr 0.5"),
        "data": (both, f"{both} --data {other}"),
        "no data": (both, f"{both} --data {folder / 'nowhere'}"),
        "group": (f"{both} --batch 4", f"{both} --batch 4"),
        "resume": (f"{both} --resume latest --kimg 0.024", f"{both} --outdir {local} --kimg 0.024"),
        "older copy": (f"{both} --resume latest --kimg 0.032", f"{both} --resume latest --kimg 0.032"),
        "unreadable": ("--resume latest --outdir runs --kimg 0.032", "--resume latest --outdir runs --kimg 0.032"),
    }


def main(folder: Path) -> None:
    rank, first_port = int(os.environ["SLURM_PROCID"]), int(os.environ["MASTER_PORT"])
    results = {}
    for number, (name, options) in enumerate(scenarios(folder).items()):
        os.environ["MASTER_PORT"] = str(first_port + number)
        os.chdir(folder)
        if name == "older copy" and rank == 1:
            # A machine of its own: a folder of the same name that holds an older checkpoint under the newest's name.
            copy = folder / "machine"
            shutil.copytree(folder / "runs", copy / "runs")
            checkpoints = next((copy / "runs").glob("0*")) / "checkpoints"
            older, newer = sorted(checkpoints.iterdir())[-2:]
            shutil.rmtree(newer)
            older.rename(newer)
        if name in ("older copy", "unreadable") and rank == 1:
            os.chdir(folder / ("machine" if name == "older copy" else "other"))
        argv = [
            word.replace(str(folder / "runs"), "runs") if name == "older copy" else word
            for word in options[rank].split()
        ]
        try:
            run = command.start(command.parse_options(argv), keep_memory=False)
            results[name] = [str(run), None]
        except UserError as error:
            results[name] = [str(error), error.quiet]
        AcceleratorState._reset_state(reset_partial_state=True)
    (folder / f"results-{rank}.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
