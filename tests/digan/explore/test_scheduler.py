"""The scheduler: stale requests are dropped, urgent ones come first, pages take turns, errors are one sentence."""

import logging
import threading

import pytest

from digan.errors import ConfigError
from digan.explore.scheduler import Job, Scheduler, reason

TIMEOUT = 30


class Bench:
    """A scheduler whose steps wait until they are let go."""

    def __init__(self, patience: float = 1e9) -> None:
        self.scheduler = Scheduler(patience)
        self.log: list[str] = []
        self.gate = threading.Semaphore(0)
        self.at_work = threading.Semaphore(0)
        self.done = threading.Semaphore(0)

    def job(self, name: str, generation: int, steps: int, broken: bool = False) -> Job:
        def work():
            for step in range(steps):
                self.at_work.release()
                assert self.gate.acquire(timeout=TIMEOUT)
                if broken:
                    raise ValueError(name)
                yield f"{name}{step}"

        def deliver(text):
            self.log.append(text)
            self.done.release()

        return Job(generation, work(), deliver, lambda error: deliver(f"{error} failed"))

    def step(self, count: int = 1) -> None:
        for _ in range(count):
            assert self.at_work.acquire(timeout=TIMEOUT)
            self.gate.release()
            assert self.done.acquire(timeout=TIMEOUT)


@pytest.fixture
def bench(request):
    bench = Bench(*getattr(request, "param", ()))
    bench.scheduler.start()
    yield bench
    for _ in range(100):
        bench.gate.release()
    bench.scheduler.stop()


def test_a_job_runs_step_by_step(bench):
    page = bench.scheduler.open(lambda: True)
    bench.scheduler.submit(page, "frames", 0, bench.job("a", 1, 3))
    bench.step(3)
    assert bench.log == ["a0", "a1", "a2"]


def test_another_generation_ends_a_job_after_its_step(bench):
    page = bench.scheduler.open(lambda: True)
    bench.scheduler.submit(page, "frames", 0, bench.job("a", 1, 3))
    assert bench.at_work.acquire(timeout=TIMEOUT)  # a0 is at work
    for generation in (2, 3, 4):
        bench.scheduler.submit(page, "frames", 0, bench.job(f"{generation}.", generation, 1))
    bench.at_work.release()
    bench.step(2)
    assert bench.log == ["a0", "4.0"]


def test_of_one_generation_the_two_newest_wait(bench):
    page = bench.scheduler.open(lambda: True)
    bench.scheduler.submit(page, "frames", 0, bench.job("a", 1, 2))
    assert bench.at_work.acquire(timeout=TIMEOUT)
    for name in "bcd":
        bench.scheduler.submit(page, "frames", 0, bench.job(name, 1, 1))
    bench.at_work.release()
    bench.step(4)
    assert bench.log == ["a0", "a1", "c0", "d0"]


def test_urgent_pictures_come_first_and_pages_take_turns(bench):
    first, second = (bench.scheduler.open(lambda: True) for _ in range(2))
    bench.scheduler.submit(first, "slice", 2, bench.job("slow", 1, 2))
    assert bench.at_work.acquire(timeout=TIMEOUT)
    bench.scheduler.submit(first, "frames", 0, bench.job("a", 1, 2))
    bench.scheduler.submit(second, "frames", 0, bench.job("b", 1, 2))
    bench.at_work.release()
    bench.step(6)
    assert bench.log == ["slow0", "a0", "b0", "a1", "b1", "slow1"]


def test_calls_wait_for_pictures(bench):
    page = bench.scheduler.open(lambda: True)
    bench.scheduler.submit(page, "frames", 0, bench.job("a", 1, 1))
    assert bench.at_work.acquire(timeout=TIMEOUT)
    future = bench.scheduler.call(lambda: bench.log.append("call") or 5)
    bench.scheduler.submit(page, "slice", 2, bench.job("b", 1, 1))
    bench.at_work.release()
    bench.step(2)
    assert future.result(TIMEOUT) == 5
    assert bench.log == ["a0", "b0", "call"]


@pytest.mark.parametrize("bench", [(0.0,)], indirect=True)
def test_without_patience_all_take_turns(bench):
    page = bench.scheduler.open(lambda: True)
    bench.scheduler.submit(page, "frames", 0, bench.job("a", 1, 3))
    assert bench.at_work.acquire(timeout=TIMEOUT)
    bench.scheduler.submit(page, "slice", 2, bench.job("b", 1, 2))
    future = bench.scheduler.call(lambda: bench.log.append("call"))
    bench.at_work.release()
    bench.step(5)
    future.result(TIMEOUT)
    assert bench.log == ["a0", "call", "a1", "b0", "a2", "b1"]


def test_a_call_passes_its_error_on(bench):
    def broken():
        raise ConfigError("no.")

    with pytest.raises(ConfigError, match="no"):
        bench.scheduler.call(broken).result(TIMEOUT)


def test_an_error_ends_its_job_alone(bench):
    page = bench.scheduler.open(lambda: True)
    bench.scheduler.submit(page, "frames", 0, bench.job("a", 1, 2, broken=True))
    bench.step()
    bench.scheduler.submit(page, "frames", 0, bench.job("b", 1, 1))
    bench.step()
    assert bench.log == ["a failed", "b0"]


def test_a_page_that_is_behind_gets_nothing_more(bench):
    room = threading.Event()
    page = bench.scheduler.open(room.is_set)
    bench.scheduler.submit(page, "frames", 0, bench.job("a", 1, 1))
    bench.scheduler.call(lambda: None).result(TIMEOUT)
    assert bench.log == []
    room.set()
    bench.scheduler.wake()
    bench.step()
    assert bench.log == ["a0"]


def test_a_closed_page_gets_nothing_more(bench):
    page = bench.scheduler.open(lambda: True)
    bench.scheduler.submit(page, "frames", 0, bench.job("a", 1, 3))
    assert bench.at_work.acquire(timeout=TIMEOUT)
    bench.scheduler.close(page)
    bench.at_work.release()
    bench.step()
    bench.scheduler.call(lambda: None).result(TIMEOUT)
    assert bench.log == ["a0"]


def test_stopping_cancels_calls():
    scheduler = Scheduler()
    future = scheduler.call(lambda: 1)
    scheduler._stopping = True
    scheduler.start()
    scheduler.stop()
    assert future.cancelled()


def test_reasons_are_one_sentence(caplog):
    assert reason(ConfigError("size 3 is wrong.")) == "size 3 is wrong."
    assert not caplog.records
    text = reason(ZeroDivisionError("division by zero"))
    assert text == "this could not be rendered (ZeroDivisionError); the terminal of the server shows why."
    assert [record.levelno for record in caplog.records] == [logging.ERROR]
