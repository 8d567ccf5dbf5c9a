"""Run by test_launches.py in two processes: what each of several disagreements ends with, one after the other."""

import json
import os
import shutil
import sys
from pathlib import Path

from accelerate.state import AcceleratorState

from digan.cli import train as command
from digan.errors import UserError
from tests.digan.training.launches import SMALL


def scenarios(folder: Path) -> dict[str, tuple[str, str]]:
    """Return the options of process 0 and of process 1, by name; process 1 runs in a folder of its own."""
    data = folder / "videos"
    both = f"{SMALL} --data {data} --workers 0 --batch 8 --tick 0.008 --snap 1 --kimg 0.016"
    resumed = "--resume latest --kimg 0.024"
    return {
        "options": (both, f"{both} --seed 1 --lr 0.5"),
        "data": (both, f"{both} --data {folder / 'other'}"),
        "no data": (both, f"{both} --data {folder / 'nowhere'}"),
        "group": (f"{both} --batch 4", f"{both} --batch 4"),
        "nothing": (both, both),
        "unreadable": (resumed, resumed),
        "older": (resumed, resumed),
    }


def main(folder: Path) -> None:
    rank, port = int(os.environ["SLURM_PROCID"]), int(os.environ["MASTER_PORT"])
    place = folder / f"machine-{rank}"
    place.mkdir()
    os.chdir(place)
    results = {}
    for number, (name, options) in enumerate(scenarios(folder).items()):
        os.environ["MASTER_PORT"] = str(port + number)
        if name == "older" and rank:
            # This machine has another checkpoint under the name of the newest.
            shutil.copytree(folder / "machine-0" / "runs", "runs", dirs_exist_ok=True)
            (run,) = Path("runs").glob("0*")
            older, newer = sorted((run / "checkpoints").iterdir())
            shutil.rmtree(newer)
            older.rename(newer)
        try:
            results[name] = [str(command.start(command.parse_options(options[rank].split()), keep_memory=False)), False]
        except UserError as error:
            results[name] = [str(error), error.quiet]
        AcceleratorState._reset_state(reset_partial_state=True)
    (place / "results.json").write_text(json.dumps(results))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
