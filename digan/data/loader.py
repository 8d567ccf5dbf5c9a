"""Which items of the stream each process takes, and the workers that fetch them."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from itertools import chain, pairwise
from multiprocessing.context import BaseContext

import torch
from torch.utils.data import DataLoader, Sampler

from digan.data.clips import FramePairs
from digan.errors import DataError


class StreamSampler(Sampler[list[int]]):
    """The positions of the stream that one process takes, a list per micro-batch, without end.

    Iteration i uses positions i*batch ... (i+1)*batch - 1. They are dealt to S = world*micro_batches shards: shard s
    takes every S-th position from i*batch + s on, and micro-batch m of process r is shard r*micro_batches + m. So two
    processes with one micro-batch and one process with two see the same shards, and a run can be resumed at any
    iteration.
    """

    def __init__(self, batch: int, *, rank: int = 0, world: int = 1, micro_batches: int = 1, start: int = 0) -> None:
        shards = world * micro_batches
        if batch < 1 or batch % shards:
            raise DataError(
                f"--batch {batch} cannot be divided among {world} processes x {micro_batches} micro-batches "
                "(--batch-gpu)."
            )
        if not 0 <= rank < world:
            raise DataError(f"process {rank} is not one of {world}.")
        self.batch, self.shards, self.start = batch, shards, start
        self.own = range(rank * micro_batches, (rank + 1) * micro_batches)

    def __iter__(self) -> Iterator[list[int]]:
        iteration = self.start
        while True:
            first = iteration * self.batch
            for shard in self.own:
                yield list(range(first + shard, first + self.batch, self.shards))
            iteration += 1


def pair_loader(
    pairs: FramePairs,
    batch: int,
    *,
    rank: int = 0,
    world: int = 1,
    micro_batches: int = 1,
    start: int = 0,
    workers: int = 0,
    prefetch: int = 2,
    pin_memory: bool = False,
) -> Iterator[dict[str, torch.Tensor]]:
    """An endless iterator of micro-batches: `micro_batches` for every iteration, from iteration `start` on.

    Each is {"frames": uint8 [n,2,3,R,R], "delta_t": float32 [n], "label": int64 [n]} with
    n = batch / (world*micro_batches). The same whatever the number of workers, each of which holds `prefetch`
    micro-batches ready. Draws from no global random state.
    """
    sampler = StreamSampler(batch, rank=rank, world=world, micro_batches=micro_batches, start=start)
    loader = DataLoader(
        pairs,
        batch_sampler=sampler,
        num_workers=workers,
        prefetch_factor=prefetch if workers else None,
        pin_memory=pin_memory,
        multiprocessing_context=_worker_context() if workers else None,
        worker_init_fn=_single_thread,
        generator=torch.Generator(),  # or the loader draws its workers' seed from the global one
    )
    return iter(loader)


def on_device(batches: Iterator[dict[str, torch.Tensor]], device: torch.device) -> Iterator[dict[str, torch.Tensor]]:
    """The same batches on `device`. On a GPU each is copied, from pinned memory, while the one before is in use.

    The copies have a stream of their own, and the stream that is current where a batch is taken waits for its copy: the
    host waits for nothing but the loader.
    """
    if device.type != "cuda":
        yield from batches
        return
    copies = torch.cuda.Stream(device)

    def send(batch: dict[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], torch.cuda.Event]:
        with torch.cuda.stream(copies):
            there = {name: tensor.to(device, non_blocking=True) for name, tensor in batch.items()}
            return there, copies.record_event()

    # A pair is complete, and the first of it given away, when the copy of the second is on its way.
    for (batch, copied), _ in pairwise(chain(map(send, batches), [None])):
        user = torch.cuda.current_stream(device)
        user.wait_event(copied)
        for tensor in batch.values():
            tensor.record_stream(user)  # or its memory would be taken for the next copy while still in use
        yield batch


def _worker_context() -> BaseContext:
    """How workers start: from a process without threads.

    A worker forked from a training process inherits locks of threads that it does not have (decoders, OpenMP, log
    writers) and may wait for them for ever.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["digan.data"])
    return context


def _single_thread(worker: int) -> None:
    torch.set_num_threads(1)
