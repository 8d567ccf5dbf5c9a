"""Train twice from each seed, on the naive path and on ours, and compare the final metric and the training time.

    python -m benchmarks.learning [--seeds 0 1 2] [--outdir runs/learning] [--ours=OPTIONS] [options of digan train]

Both runs of a seed run at the same time, on one core each, so that other work on the machine slows both down; they swap
cores from seed to seed. `--ours` holds options for our path only, such as --ours="--mixed-precision bf16". Needs Linux,
where a process can be bound to a core.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import fused_inr as fi
from benchmarks.naive import NaiveTrainer
from benchmarks.records import machine, machine_text
from benchmarks.table import markdown
from digan.cli.train import parse_options
from digan.cli.train import start as start_training
from digan.run_dir import STATISTICS, list_metrics, read_records
from digan.training.trainer import Trainer

PATHS = ("naive", "ours")


def run_one(path: str, options: list[str]) -> int:
    """Train in this process as `digan train` does with these options, and return the exit status."""
    naive = path == "naive"
    with fi.backend("reference") if naive else nullcontext():
        start_training(parse_options(options), NaiveTrainer if naive else Trainer, keep_memory=not naive)
    return 0


def start(path: str, seed: int, core: int, outdir: Path, options: list[str]) -> tuple[subprocess.Popen, Path]:
    """Start a run in a new process on one core, and return the process and its log file."""
    outdir.mkdir(parents=True, exist_ok=True)
    log = outdir / f"{path}-seed{seed}.log"
    command = [sys.executable, "-m", "benchmarks.learning", "--run", path, *options, "--seed", str(seed)]
    command += ["--outdir", str(outdir / f"{path}-seed{seed}"), "--threads", "1", "--workers", "0"]
    with open(log, "w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    os.sched_setaffinity(process.pid, {core})
    return process, log


def outcome(folder: Path, path: str, seed: int) -> dict[str, str | float]:
    """Return the metric of a finished run before and after training, and the seconds of its steps."""
    statistics = read_records(folder / STATISTICS)
    clips = [0, *(record["clips"] for record in statistics)]
    ((metric, file),) = list_metrics(folder).items()
    values = [record["value"] for record in read_records(file)]
    return {
        "path": path,
        "seed": str(seed),
        "kimg": f"{clips[-1] / 1000:g}",
        f"{metric} untrained": f"{values[0]:.1f}",
        "trained": f"{values[-1]:.1f}",
        "seconds": sum(
            (after - before) / record["clips_per_second"]
            for before, after, record in zip(clips, clips[1:], statistics, strict=False)
        ),
    }


def compare(seeds: list[int], outdir: Path, options: list[str], ours: list[str]) -> list[dict[str, str]]:
    """Run everything, two runs at a time, and return a table row for each run."""
    rows = []
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        raise SystemExit("benchmarks.learning compares two runs at a time and needs two cores; this process has one.")
    for number, seed in enumerate(seeds):
        sides = cores if number % 2 == 0 else cores[::-1]
        extra = {"naive": [], "ours": ours}
        runs = [start(p, seed, c, outdir, options + extra[p]) for p, c in zip(PATHS, sides, strict=True)]
        pair = []
        for path, (process, log) in zip(PATHS, runs, strict=True):
            if process.wait() != 0:
                raise SystemExit(f"benchmarks.learning: the {path} run of seed {seed} failed; see the end of {log}.")
            (folder,) = (outdir / f"{path}-seed{seed}").glob("[0-9]*-*")
            pair.append(outcome(folder, path, seed))
        first = pair[0]["seconds"]
        for row in pair:
            seconds = row.pop("seconds")
            rows.append(row | {"training": f"{seconds:.0f} s", "speed-up": f"{first / seconds:.2f}x"})
            print(json.dumps(rows[-1]), flush=True)
    return rows


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["--run"]:
        return run_one(arguments[1], arguments[2:])
    parser = argparse.ArgumentParser(
        prog="benchmarks.learning", description="Compare training on the naive path and on ours."
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--outdir", type=Path, default=Path("runs/learning"))
    parser.add_argument("--ours", type=shlex.split, default=[], metavar="OPTIONS", help="options for our path only")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write the table to FILE, in Markdown")
    own, options = parser.parse_known_args(arguments)
    rows = compare(own.seeds, own.outdir, options, own.ours)
    text = f"`python -m benchmarks.learning {shlex.join(arguments)}`\n\n{machine_text(machine())}\n\n{markdown(rows)}\n"
    print(text)
    if own.table:
        own.table.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
