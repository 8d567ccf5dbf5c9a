"""Run one trial many times with different seeds, in child processes that may crash or hang, and count what happened."""

import collections
import dataclasses
import importlib
import multiprocessing
import pathlib
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool

KINDS = {  # name: (module with `trial`, number of trials in the long version)
    "calls": ("tests.endurance.calls", 6000),
    "videos": ("tests.endurance.videos", 20_000),
    "kills": ("tests.endurance.kills", 100),
    "run-files": ("tests.endurance.run_files", 10_000),
}


@dataclasses.dataclass
class Outcomes:
    """What the trials of one kind came to."""

    counts: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    failures: list[str] = dataclasses.field(default_factory=list)  # a sentence each, with the seed that repeats it
    seconds: float = 0.0

    def table(self) -> str:
        """Return one line per outcome, the most frequent first."""
        lines = [f"{count:8d}  {name}" for name, count in self.counts.most_common()]
        return "\n".join([*lines, *(f"  FAILED  {failure}" for failure in self.failures)])


def run_seeds(module: str, seeds: list[int]) -> list[tuple[int, str, str]]:
    """Run the trial of `module` for each seed.

    A trial is a function `trial(seed, folder)` that returns the outcome's short name and raises `AssertionError`, or
    anything else, where the software did what it must not do.

    Returns:
        One tuple (seed, outcome, error) per seed; `error` is empty where the trial passed.
    """
    trial = importlib.import_module(module).trial
    results = []
    for seed in seeds:
        with tempfile.TemporaryDirectory(prefix="endurance-") as folder:
            try:
                results.append((seed, trial(seed, pathlib.Path(folder)), ""))
            except Exception as error:
                results.append((seed, "failed", f"{type(error).__name__}: {error}"))
    return results


def run(
    kind: str, count: int, seed: int = 0, jobs: int = 1, chunk: int | None = None, limit: float = 900, progress=None
):
    """Run `count` trials of a kind with the seeds from `seed` on.

    Args:
        kind: A name of `KINDS`.
        count: Number of trials.
        seed: The first seed.
        jobs: Number of processes.
        chunk: Seeds per task of a process, by default the module's `CHUNK`, or else 50. A crash or a hang is reported
            with the seeds of its task.
        limit: Seconds that one task may take before it counts as a hang.
        progress: Called with the number of finished trials.

    Returns:
        `Outcomes`.
    """
    module = KINDS[kind][0]
    chunk = chunk or getattr(importlib.import_module(module), "CHUNK", 50)
    outcomes = Outcomes()
    start = time.perf_counter()
    tasks = [list(range(s, min(s + chunk, seed + count))) for s in range(seed, seed + count, chunk)]
    while tasks:
        tasks = _run_tasks(module, tasks, outcomes, jobs, limit, progress)
    outcomes.seconds = time.perf_counter() - start
    return outcomes


def _run_tasks(module, tasks, outcomes, jobs, limit, progress):
    """Run tasks until all are done or a process crashes or hangs; return the tasks that are left."""
    pool = ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
    try:
        for first in range(0, len(tasks), jobs):
            together = tasks[first : first + jobs]
            futures = [pool.submit(run_seeds, module, seeds) for seeds in together]
            lost = False
            for seeds, future in zip(together, futures, strict=True):
                try:
                    results = future.result(limit)
                except (BrokenProcessPool, TimeoutError) as error:
                    lost = True
                    what = "a process hung" if isinstance(error, TimeoutError) else "a process died"
                    outcomes.failures.append(f"seeds {seeds[0]}-{seeds[-1]}: {what}")
                    continue
                for seed, outcome, failure in results:
                    outcomes.counts[outcome] += 1
                    if failure:
                        outcomes.failures.append(f"seed {seed}: {failure}")
                if progress:
                    progress(len(seeds))
            if lost:
                for process in list(pool._processes.values()):
                    process.kill()
                return tasks[first + jobs :]
        return []
    finally:
        pool.shutdown(wait=False, cancel_futures=True)
