"""Divide the stream of samples among processes, load it with workers, and copy it to the device."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from multiprocessing import forkserver
from multiprocessing.context import BaseContext
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from digan.data.clips import FramePairs
from digan.data.decode import log_warning
from digan.sharding import BatchSharding


class StreamSampler(Sampler[list[int]]):
    """The endless stream of positions that one process reads, one list per micro-batch.

    Iteration `i` uses the positions `i * batch` to `(i + 1) * batch - 1`, divided by `BatchSharding`, so that a run
    can be resumed at any iteration.

    Args:
        sharding: which samples of a batch this process takes.
        start: the first iteration.
    """

    def __init__(self, sharding: BatchSharding, start: int = 0) -> None:
        self.sharding, self.start = sharding, start

    def __iter__(self) -> Iterator[list[int]]:
        """Yield the positions of one micro-batch after another."""
        iteration = self.start
        while True:
            positions = range(iteration * self.sharding.batch, (iteration + 1) * self.sharding.batch)
            for micro_batch in range(self.sharding.micro_batches):
                yield list(positions[self.sharding.indices(micro_batch)])
            iteration += 1


class MicroBatches(Dataset):
    """Micro-batches of pairs by the positions of their items, each with sentences about damage met while reading it."""

    def __init__(self, pairs: FramePairs) -> None:
        self.pairs = pairs

    def __getitem__(self, positions: list[int]) -> tuple[dict[str, torch.Tensor], list[str]]:
        notes: list[str] = []
        self.pairs.reader.report = notes.append
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            batch = default_collate(self.pairs.__getitems__(positions))
        return batch, notes + [str(warning.message) for warning in caught]


def pair_loader(
    pairs: FramePairs,
    sharding: BatchSharding,
    *,
    start: int = 0,
    workers: int = 0,
    prefetch: int = 2,
    pin_memory: bool = False,
    report: Callable[[str], None] = log_warning,
) -> Iterator[dict[str, torch.Tensor]]:
    """Return an endless iterator over the micro-batches of one process, starting at iteration `start`.

    The micro-batches do not depend on the number of workers, each of which keeps `prefetch` micro-batches ready. No
    global random state is used. `report` receives a sentence about each damaged video in the first micro-batch that met
    it.

    Returns:
        An iterator over `{"frames": uint8 [n, 2, 3, R, R], "delta_t": float32 [n], "label": int64 [n]}` with
        `n = sharding.clips`.
    """
    loader = DataLoader(
        MicroBatches(pairs),
        batch_size=None,  # the sampler yields the positions of whole micro-batches
        sampler=StreamSampler(sharding, start),
        collate_fn=_as_they_are,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        multiprocessing_context=_worker_context() if workers else None,
        worker_init_fn=_start_worker,
        generator=torch.Generator(),  # otherwise the workers' seed is drawn from the global generator
    )
    return _reported(iter(loader), report)  # the workers have started


def _reported(
    loaded: Iterator[tuple[dict[str, torch.Tensor], list[str]]], report: Callable[[str], None]
) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the micro-batches, and report each sentence the first time that any worker has it."""
    known: set[str] = set()
    for batch, notes in loaded:
        for note in notes:
            if note not in known:
                known.add(note)
                report(note)
        yield batch


def _as_they_are(batch: Any) -> Any:
    return batch


def to_device(batch: dict[str, torch.Tensor], device: torch.device) -> dict[str, torch.Tensor]:
    """Return a batch on `device`; the host does not wait for copies from pinned memory."""
    return {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}


def on_device(batches: Iterator[dict[str, torch.Tensor]], device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """Yield the batches on `device`; on a GPU, copy each while the previous one is in use.

    Copies from pinned memory run on a stream of their own. The stream that is current when a batch is yielded waits for
    its copy; the host waits only for the loader.
    """
    if device.type != "cuda":
        yield from (to_device(batch, device) for batch in batches)
        return
    copies = torch.cuda.Stream(device)

    def start_copy(batch: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.cuda.Event]:
        with torch.cuda.stream(copies):
            copy = to_device(batch, device)
            return copy, copies.record_event()

    # Yield a batch once the copy of the next one is queued.
    for (batch, copied), _ in pairwise(chain(map(start_copy, batches), [None])):
        consumer = torch.cuda.current_stream(device)
        consumer.wait_event(copied)
        for tensor in batch.values():
            tensor.record_stream(consumer)  # keeps its memory from being reused while the consumer reads it
        yield batch


def _worker_context() -> BaseContext:
    """Return a start method that forks workers, if at all, from a process without threads.

    A worker forked from the training process inherits locks held by threads that it lacks (decoders, OpenMP, log
    writers) and may wait for them forever.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["digan.data"])
    _start_fork_server()
    return context


def _start_fork_server() -> None:
    """Start the fork server, if it does not run yet, with the import path of this process.

    Before Python 3.13 the server ignores this path for what it preloads, and would load an installed `digan` where a
    script runs another one.
    """
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(path or os.getcwd() for path in sys.path)
    try:
        forkserver.ensure_running()
    finally:
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def _start_worker(worker: int) -> None:
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal interrupts all processes; the reader ends its workers
    threading.Thread(target=_end_with_parent, daemon=True, name="parent-watch").start()


def _end_with_parent() -> None:
    """End this worker when the process that reads from it ends, however it ends.

    PyTorch's workers watch their parent process, which is the fork server here. It in turn lives as long as a worker
    does: without this, both would outlive a training process that was killed.
    """
    parent = multiprocessing.parent_process()
    multiprocessing.connection.wait([parent.sentinel])
    os._exit(1)
