"""The peak memory of a call, and paths whose process keeps the memory that it frees."""

from __future__ import annotations

import ctypes
import gc
import platform
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import psutil
from torch import Tensor

from benchmarks.device import on_cuda, peak_allocated, timed
from benchmarks.sizes import scaled
from digan.training.allocator import keep_freed_memory

Result = TypeVar("Result")
Path = Callable[[], Tensor | tuple[Tensor, ...]]

# Calls to warm up a path that keeps memory, and the number of successive calls without new pages after which it stops.
WARMING, SETTLED = 60, 12
PAGES = 2**20  # bytes; smaller changes are not tensors
SHORT = 0.5  # seconds


@dataclass(frozen=True)
class Kept:
    """A path whose process keeps freed memory, as `digan train` does on a CPU; other paths return it to the system."""

    path: Path

    def __call__(self) -> Tensor | tuple[Tensor, ...]:
        return self.path()


class Allocator:
    """The C library's way of freeing memory: that of the path which was prepared last."""

    def __init__(self) -> None:
        self._last: Path | None = None

    def ready(self, path: Path, seconds: float) -> bool:
        """Return whether a path that takes some seconds can be timed now.

        Another path leaves its memory behind, which one call replaces; that matters to short calls only.
        """
        alike = isinstance(path, Kept) == isinstance(self._last, Kept)
        return path is self._last or on_cuda() or (alike and seconds > SHORT)

    def prepare(self, path: Path) -> float:
        """Free memory as the path does, call it until its memory use is that of a long run, and return its seconds."""
        kept = isinstance(path, Kept) and not on_cuda()
        if kept and not isinstance(self._last, Kept):
            keep_freed_memory()
        elif not kept:
            self.restore()
        self._last = path
        return _settle(path) if kept else timed(path)

    def restore(self) -> None:
        """Return freed memory to the system, as processes do by default."""
        if isinstance(self._last, Kept):
            keep_freed_memory(False)
        self._last = None


def _settle(path: Path) -> float:
    """Call a path that keeps freed memory until it takes no new pages, within limits of calls and time.

    It takes new pages in some of its first calls, until every block has a place that it returns to.
    """
    process, start, calm = psutil.Process(), time.perf_counter(), 0
    for _ in range(WARMING):
        before = process.memory_info().rss
        seconds = timed(path)
        calm = calm + 1 if process.memory_info().rss - before < PAGES else 0
        if calm == SETTLED or time.perf_counter() - start > scaled(tiny=0.0, default=0.5, full=2.0):
            break
    return seconds


def observed(call: Callable[[], Result]) -> tuple[Result, int, float]:
    """Return the result of a call, its peak bytes beyond those of the process before it, and its seconds."""
    results: list[Result] = []
    gc.collect()
    if on_cuda():
        peak, seconds = peak_allocated(lambda: results.append(call()))
        return results[0], peak, seconds
    _trim()
    with _watch_memory() as peaks:
        seconds = timed(lambda: results.append(call()))
    return results[0], peaks[0], seconds


@contextmanager
def _watch_memory() -> Iterator[list[int]]:
    process, done, peak = psutil.Process(), threading.Event(), [0]
    before, start = process.memory_info().rss, time.perf_counter()

    def watch() -> None:
        while not done.is_set():
            peak[0] = max(peak[0], process.memory_info().rss - before)
            done.wait(max(0.0005, (time.perf_counter() - start) / 200))  # peaks of longer calls last longer

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield peak
    finally:
        done.set()
        thread.join()


def _trim() -> None:
    """Return the free memory of the C library to the system, so that the memory of a call is visible."""
    if platform.system() == "Linux":
        ctypes.CDLL(None).malloc_trim(0)
