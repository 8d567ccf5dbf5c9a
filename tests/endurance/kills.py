"""Trials that kill a training run with SIGKILL, inside each kind of write too, and resume it.

The end must be that of an undisturbed run, bit for bit, and neither a process nor a temporary file may be left.
"""

import contextlib
import functools
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import threading
import time

import torch
from safetensors.torch import load_file

from digan.cli import train as command
from digan.data import make_demo_videos
from digan.training.logger import RunLogger
from tests.digan.training.launches import GONE, SMALL, free_port, left_after, ranks, started

CHUNK = 5  # seeds per task: a trial takes ten seconds or more
OPTIONS = f"{SMALL} --metrics rfvd4_4f --batch 8 --kimg 0.048 --tick 0.008 --snap 2 --seed 3"
WRITES = {  # the kinds of files, and what their paths contain; the main process writes all of them
    "checkpoint": "/checkpoints/",
    "snapshot": "/snapshots/",
    "samples": "/samples/",
    "statistics": "/stats.jsonl",
    "index": "/.index/",
    "results": "/metric-",
}
MOMENTS = [*WRITES, "metric", "any time"]
PLAN, COUNTS = "DIGAN_TEST_PLAN", "DIGAN_TEST_COUNTS"
_EVENTS = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"}
_LIMIT = 300  # seconds for a run, on a busy machine


def trial(seed: int, folder: pathlib.Path) -> str:
    """Kill a run at a moment drawn from the seed, resume it, and compare its end with that of an undisturbed run."""
    rng = random.Random(seed)
    moment, world, workers = MOMENTS[seed % len(MOMENTS)], 1 + (seed // len(MOMENTS)) % 2, rng.randrange(2)
    undisturbed, counts, seconds = _undisturbed(world)
    plan = {"moment": moment, "rank": rng.randrange(world) if moment in ("metric", "any time") else 0}
    plan |= {"event": rng.randrange(counts.get(moment, 1)), "delay": rng.choice([0, rng.uniform(0, 0.02)])}
    if moment == "metric":
        plan["delay"] = rng.uniform(0, 0.3)
    if moment == "any time":
        plan["delay"] = rng.uniform(0, seconds)
    statuses = _run(world, folder, workers, plan)
    was_killed = statuses[plan["rank"]] == -signal.SIGKILL
    expected = [-signal.SIGKILL if r == plan["rank"] else 1 for r in range(world)] if was_killed else [0] * world
    # A process that is killed while the others still start makes them end with a sentence, as an error of the user; one
    # that is killed while Python ends leaves a complete run.
    also = {(1, 2), (1, 0)} if moment == "any time" else {(1, 2)}
    assert all(got == want or (want, got) in also for got, want in zip(statuses, expected, strict=True)), statuses
    _age_drafts(folder / "runs" / ".index")
    assert _run(world, folder, workers, None) == [0] * world, (folder / "out-0.txt").read_text()
    end = _end(folder / "runs")
    assert end.keys() == undisturbed.keys(), sorted(end.keys() ^ undisturbed.keys())
    differing = [name for name, value in undisturbed.items() if end[name] != value]
    assert not differing, f"{plan}: {differing[:5]} differ"
    return f"{moment}, {world} process(es)" if was_killed else "ended before it was killed"


@functools.cache
def _undisturbed(world: int):
    """Return the end of a run that is not killed, the number of events of each kind, and its seconds."""
    with tempfile.TemporaryDirectory(prefix="endurance-kills-") as name:
        folder, start = pathlib.Path(name), time.monotonic()
        assert _run(world, folder, 1, None) == [0] * world, (folder / "out-0.txt").read_text()
        return _end(folder / "runs"), json.loads((folder / "counts-0.json").read_text()), time.monotonic() - start


def _run(world: int, folder: pathlib.Path, workers: int, plan: dict | None) -> list[int]:
    """Run the training to its end, planned or not, and return the exit statuses; fail if a process is left."""
    words = [pathlib.Path(__file__), *OPTIONS.split(), "--workers", workers, "--outdir", folder / "runs"]
    words += ["--data", _videos(), "--resume", "latest"]
    launch = ranks(world, free_port()) if world > 1 else [{"RANK": "0"}]
    variables = [
        {**v, COUNTS: str(folder / f"counts-{r}.json"), PLAN: json.dumps(plan if plan and plan["rank"] == r else None)}
        for r, v in enumerate(launch)
    ]
    with started([words] * world, folder, variables) as (processes, alive):
        statuses = [process.wait(_LIMIT) for process in processes]
        left = left_after(GONE, alive)
        assert not left, f"left {GONE} s after {plan}: {left}"
    return statuses


def _age_drafts(cache: pathlib.Path) -> None:
    """Make drafts two days old: in the folder that all runs share, younger ones may be those of another run."""
    old = time.time() - 2 * 86400
    for draft in cache.glob(".*"):
        os.utime(draft, (old, old))


@functools.cache
def _videos() -> pathlib.Path:
    return make_demo_videos(pathlib.Path(tempfile.gettempdir()) / "endurance-kills-videos", videos=8)


def _end(outdir: pathlib.Path) -> dict[str, object]:
    """Return what must be the same: names of all files, and the contents of those that a run determines."""
    run = max(outdir.glob("0*"))
    end: dict[str, object] = {}
    for path in sorted([*run.rglob("*"), *(outdir / ".index").iterdir()]):
        name = str(path.relative_to(run if path.is_relative_to(run) else outdir))
        if name.startswith("events"):
            continue  # one file for each start
        end[name] = None
        if path.suffix == ".safetensors":
            end[name] = {key: _bits(tensor) for key, tensor in load_file(path).items()}
        elif path.name == "optimizers.pt":
            end[name] = _bits_of_all(torch.load(path, weights_only=True))
        elif path.suffix == ".png" and path.name != "curves.png":  # which also shows the speed
            end[name] = path.read_bytes()
        elif path.name == "stats.jsonl" or path.name.startswith("metric-"):
            kept = ("clips", "iteration", "loss_g", "loss_d", "r1", "nonfinite", "value", "snapshot")
            records = [json.loads(line) for line in path.read_text().splitlines()]
            end[name] = [{key: record[key] for key in kept if key in record} for record in records]
    return end


def _bits(tensor: torch.Tensor) -> tuple:
    return tensor.dtype, tuple(tensor.shape), tensor.contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()


def _bits_of_all(state: object) -> object:
    if isinstance(state, torch.Tensor):
        return _bits(state)
    if isinstance(state, dict):
        return {key: _bits_of_all(value) for key, value in state.items()}
    return [_bits_of_all(value) for value in state] if isinstance(state, (list, tuple)) else state


class _Killer:
    """Counts the events of each kind in this process, and kills it at or shortly after the planned one."""

    def __init__(self, plan: dict | None) -> None:
        self.plan = plan
        self.counts = dict.fromkeys([*WRITES, "metric"], 0)

    def hook(self, event: str, arguments: tuple) -> None:
        if event not in _EVENTS:
            return
        if event == "open" and not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)):
            return
        for path in arguments[:2]:
            if isinstance(path, (str, os.PathLike)):
                for kind, part in WRITES.items():
                    if part in os.fspath(path):
                        self.happened(kind)
                        return

    def happened(self, kind: str) -> None:
        number = self.counts[kind]
        self.counts[kind] += 1
        if self.plan and (kind, number) == (self.plan["moment"], self.plan["event"]):
            self.kill_after(self.plan["delay"])

    def kill_after(self, seconds: float) -> None:
        if not seconds:
            os.kill(os.getpid(), signal.SIGKILL)
        timer = threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL))
        timer.daemon = True
        timer.start()


def _main() -> None:
    killer = _Killer(json.loads(os.environ.pop(PLAN)))
    counts = pathlib.Path(os.environ.pop(COUNTS))
    compute = RunLogger._compute

    def counted(*arguments):
        killer.happened("metric")
        return compute(*arguments)

    RunLogger._compute = counted
    sys.addaudithook(killer.hook)
    if killer.plan and killer.plan["moment"] == "any time":
        killer.kill_after(killer.plan["delay"])
    command.start(command.parse_options(sys.argv[1:]), keep_memory=False)
    with contextlib.suppress(OSError):
        counts.write_text(json.dumps(killer.counts))


if __name__ == "__main__":
    from digan.errors import UserError

    try:
        _main()
    except UserError as error:
        print(error, file=sys.stderr)
        sys.exit(2)
