"""Trains twice from each seed, on the naive path and on ours, and compares what was learned and how long it took.

    python -m benchmarks.learning [--seeds 0 1 2] [--outdir runs/learning] [--ours=OPTIONS] [options of digan/train.py]

Both runs of a seed go on at the same time, with a core each, so that other work on the machine slows both down; the
cores change sides from seed to seed. `--ours` holds options for our path alone, as in --ours="--mixed-precision bf16".
Needs Linux, where processes can be kept on a core.
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

import digan.train
import fused_inr as fi
from benchmarks.harness import format_table, machine
from benchmarks.naive import NaiveTrainer
from digan.run_dir import STATISTICS, list_metrics, read_records

PATHS = ("naive", "ours")


def run_one(path: str, options: list[str]) -> int:
    """A training run in this process, as `digan/train.py` with these options; its exit status."""
    if path == "naive":
        digan.train.Trainer = NaiveTrainer
        digan.train.keep_freed_memory = lambda: False
    with fi.backend("reference") if path == "naive" else nullcontext():
        return digan.train.main(options)


def start(path: str, seed: int, core: int, outdir: Path, options: list[str]) -> tuple[subprocess.Popen, Path]:
    """Starts such a run on one core, with its messages in a file beside its folder."""
    outdir.mkdir(parents=True, exist_ok=True)
    log = outdir / f"{path}-seed{seed}.log"
    command = [sys.executable, "-m", "benchmarks.learning", "--run", path, *options, "--seed", str(seed)]
    command += ["--outdir", str(outdir / f"{path}-seed{seed}"), "--threads", "1", "--workers", "0"]
    with open(log, "w") as file:
        started = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)
    os.sched_setaffinity(started.pid, {core})
    return started, log


def outcome(folder: Path, path: str, seed: int) -> dict[str, str | float]:
    """What a finished run has learned: its metric before and after, and the time that its steps took."""
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
    """All runs, two at a time; a line of the table for each."""
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
                raise SystemExit(
                    f"benchmarks.learning: the {path} run of seed {seed} failed; its last words are in {log}."
                )
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
    parser = argparse.ArgumentParser(prog="benchmarks.learning", description="Learning on the naive path and on ours.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--outdir", type=Path, default=Path("runs/learning"))
    parser.add_argument("--ours", type=shlex.split, default=[], metavar="OPTIONS", help="options for our path alone")
    parser.add_argument("--table", type=Path, metavar="FILE", help="also write the table to FILE, in Markdown")
    given, options = parser.parse_known_args(arguments)
    rows = compare(given.seeds, given.outdir, options, given.ours)
    text = f"`python -m benchmarks.learning {shlex.join(arguments)}`\n\n{machine()}\n\n{format_table(rows)}\n"
    print(text)
    if given.table:
        given.table.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
