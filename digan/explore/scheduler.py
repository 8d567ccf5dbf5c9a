"""One thread renders for all pages; of each kind of picture, a page has one request at work and few waiting."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import torch

from digan.errors import sentence

_MAX_WAITING = 2  # a player asks for the next frames before the thread knows that the running job has ended
Step = TypeVar("Step")
Result = TypeVar("Result")


def reason(error: BaseException) -> str:
    """Return one sentence about an error; a defect of the program is logged with its traceback."""
    text = sentence(error)
    if text is None:
        logging.getLogger(__name__).error("rendering failed", exc_info=error)
        text = f"this could not be rendered ({type(error).__name__}); the terminal of the server shows why."
    return text


@dataclass
class Job(Generic[Step]):
    """A request at work.

    Args:
        generation: that of its `Request`.
        steps: yields results, each in a short time.
        deliver: takes each result; called in the rendering thread.
        fail: takes the error that ended the job, if one did.
    """

    generation: int
    steps: Iterator[Step]
    deliver: Callable[[Step], None]
    fail: Callable[[BaseException], None]


@dataclass
class _Lane:
    """The requests of one kind from one page."""

    priority: int
    running: Job | None = None
    waiting: deque[Job] = field(default_factory=lambda: deque(maxlen=_MAX_WAITING))
    served: float = 0.0  # time.monotonic() when it was last served or began to wait


@dataclass
class Channel:
    """A page: its lanes, and whether it keeps up with what it is sent."""

    has_room: Callable[[], bool] = lambda: True
    lanes: dict[str, _Lane] = field(default_factory=dict)


class Scheduler:
    """Runs jobs step by step in one thread, the most urgent one first.

    What has waited for `patience` seconds is as urgent as anything else, so that playing does not keep the rest waiting
    on a machine that is always busy with it.

    Of each kind, the two newest requests of one generation wait. One of another generation replaces them, and ends the
    one at work after its current step: that step is still delivered, so that pictures keep coming while something is
    dragged.
    """

    def __init__(self, patience: float = 0.25) -> None:
        self._patience = patience
        self._condition = threading.Condition()
        self._channels: list[Channel] = []
        self._calls: list[tuple[float, Callable[[], Any], Future]] = []
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="explore-rendering", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread after its current step; calls that wait are cancelled."""
        with self._condition:
            self._stopping = True
            self._condition.notify()
        self._thread.join()
        for _, _, future in self._calls:
            future.cancel()

    def open(self, has_room: Callable[[], bool]) -> Channel:
        """Add a page; nothing is rendered for it while `has_room` returns False."""
        channel = Channel(has_room)
        with self._condition:
            self._channels.append(channel)
        return channel

    def close(self, channel: Channel) -> None:
        """Remove a page with all its requests."""
        with self._condition:
            self._channels.remove(channel)
            channel.lanes.clear()

    def wake(self) -> None:
        """Look at all pages again: one of them has room again."""
        with self._condition:
            self._condition.notify()

    def submit(self, channel: Channel, kind: str, priority: int, job: Job) -> None:
        """Render a job for a page, before jobs of a higher `priority` number."""
        with self._condition:
            lane = channel.lanes.setdefault(kind, _Lane(priority))
            if lane.running is None:
                lane.served = time.monotonic()
            if lane.running is not None and lane.running.generation == job.generation:
                lane.waiting.append(job)
            else:
                lane.running = job
                lane.waiting.clear()
            self._condition.notify()

    def call(self, function: Callable[[], Result]) -> Future[Result]:
        """Call a function in the rendering thread, when no page waits for a picture or the call has waited long."""
        future: Future[Result] = Future()
        with self._condition:
            self._calls.append((time.monotonic(), function, future))
            self._condition.notify()
        return future

    def _run(self) -> None:
        with torch.no_grad():
            while True:
                with self._condition:
                    self._condition.wait_for(lambda: self._stopping or self._calls or self._next() is not None)
                    if self._stopping:
                        return
                    work = self._take()
                work()

    def _take(self) -> Callable[[], None]:
        """Return what to do next: a step of the most urgent lane, or a call."""
        lane, now = self._next(), time.monotonic()
        if self._calls and (lane is None or now - self._calls[0][0] > self._patience):
            _, function, future = self._calls.pop(0)
            return lambda: _answer(function, future)
        lane.served, job = now, lane.running
        return lambda: self._step(lane, job)

    def _next(self) -> _Lane | None:
        """Return the most urgent lane; among equal ones, that which has waited longest."""
        lanes = [lane for channel in self._channels if channel.has_room() for lane in channel.lanes.values()]
        busy = [lane for lane in lanes if lane.running is not None]
        now = time.monotonic()

        def urgency(lane: _Lane) -> tuple[int, float]:
            return 0 if now - lane.served > self._patience else lane.priority, lane.served

        return min(busy, key=urgency, default=None)

    def _step(self, lane: _Lane, job: Job) -> None:
        done = False
        try:
            job.deliver(next(job.steps))
        except StopIteration:
            done = True
        except Exception as error:
            done = True
            job.fail(error)
        with self._condition:
            if done and lane.running is job:
                lane.running = lane.waiting.popleft() if lane.waiting else None


def _answer(function: Callable[[], Any], future: Future) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except Exception as error:
        future.set_exception(error)
