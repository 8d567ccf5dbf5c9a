"""Start several processes of a training run as launchers, `srun` and two machines do; used by tests and trials."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
import uuid
from functools import partial
from pathlib import Path

import psutil

from digan.cli import train as command
from digan.training.trainer import Trainer

ROOT = Path(__file__).parents[3]
SMALL = "--resolution 32 --z-dim 8 --w-dim 8 --fourier-dim 4 --fmm-rank 2 --channel-base 128 --channel-max 8 "
SMALL += "--samples 2 --metrics none --report-to none --r1-interval 2"
LAUNCH = "DIGAN_TEST_LAUNCH"  # marks all processes of a launch: children inherit it, and orphans keep it
GONE = 30  # seconds until nothing may be left: 10, but for a busy machine
KILLED = "DIGAN_TEST_KILLED"  # "<rank> <iteration>": that process of the first attempt kills itself there


class Mortal(Trainer):
    """A trainer whose process kills itself before an iteration, as the environment says."""

    def step(self, reals):
        here = f"{self.accelerator.process_index} {self.iteration}"
        if os.environ.get(KILLED) == here and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") == "0":
            os.kill(os.getpid(), signal.SIGKILL)
        super().step(reals)


def environment(**variables) -> dict[str, str]:
    """Return the environment of a process that imports this checkout."""
    paths = os.pathsep.join(map(str, (ROOT, ROOT / "kernels")))
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("TORCHELASTIC", "ACCELERATE", "SLURM"))}
    return {**inherited, "PYTHONPATH": paths, "OMP_WAIT_POLICY": "PASSIVE", "OMP_NUM_THREADS": "1", **variables}


def free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def ranks(world: int, port: int) -> list[dict[str, str]]:
    """Return the variables of `torch.distributed` for each of `world` processes of this machine."""
    common = {"WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [{k: str(v) for k, v in {**common, "RANK": r, "LOCAL_RANK": r}.items()} for r in range(world)]


@contextlib.contextmanager
def started(commands, folder: Path, variables=None):
    """Start commands, each with its output in `folder`; at the end, kill what is left of them.

    Yields:
        The processes, and a function that returns those of them and their descendants, orphans too, that are alive.
    """
    processes, mark = [], uuid.uuid4().hex
    try:
        for number, words in enumerate(commands):
            with open(folder / f"out-{number}.txt", "w") as out:
                env = environment(**(variables[number] if variables else {}))
                words = [sys.executable, *map(str, words)]
                options = dict(env={**env, LAUNCH: mark}, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
                processes.append(subprocess.Popen(words, **options))
        yield processes, partial(_alive, mark)
    finally:
        for left in _alive(mark):
            with contextlib.suppress(psutil.NoSuchProcess):
                left.kill()
        for process in processes:
            process.wait()


def run(commands, folder: Path, variables=None, limit: float = 240) -> tuple[list[int], list[str]]:
    """Run commands side by side to their ends; return their exit statuses and outputs."""
    with started(commands, folder, variables) as (processes, _):
        statuses = [process.wait(limit) for process in processes]
    return statuses, [(folder / f"out-{number}.txt").read_text() for number in range(len(commands))]


def left_after(seconds: float, alive) -> list[list[str]]:
    """Wait until no process of a launch is alive, and return the commands of those that are after some seconds."""
    deadline = time.monotonic() + seconds
    while (left := alive()) and time.monotonic() < deadline:
        time.sleep(0.2)
    commands = []
    for process in left:
        with contextlib.suppress(psutil.NoSuchProcess):
            commands.append([process.status(), *process.cmdline()[:4]])
    return commands


def _alive(mark: str) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            if process.status() != psutil.STATUS_ZOMBIE and process.environ().get(LAUNCH) == mark:
                found.append(process)
    return found


if __name__ == "__main__":
    command.start(command.parse_options(sys.argv[1:]), Mortal, keep_memory=False)
