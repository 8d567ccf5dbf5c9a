"""The time of a run is shared among its cases, whose rounds depend on their noise."""

import time

import pytest

from benchmarks import budget, sizes


@pytest.fixture
def clock(monkeypatch):
    """Return a list whose only entry is the time."""
    now = [0.0]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])
    return now


def test_cases_share_what_is_left(clock):
    run = budget.Budget(cases=4, seconds=16)
    assert run.share() == 4
    clock[0] = 4
    assert run.share() == 4
    clock[0] = 12  # twice its share
    assert run.share() == 2
    clock[0] = 20
    assert run.share() == run.share() == 0
    assert budget.Budget(cases=1, seconds=1000).share() == budget.LONGEST_CASE


@pytest.mark.parametrize("size", ["tiny", "full"])
def test_other_sizes_have_no_limit(monkeypatch, size):
    monkeypatch.setattr(sizes, "_name", size)
    assert budget.Budget(cases=10**6).share() == budget.LONGEST_CASE


def test_rounds_depend_on_noise():
    quiet, noisy = [1.0, 1.01, 1.0, 1.01], [1.0, 2.0, 1.5, 3.0]
    assert not budget.enough(2, [quiet[:2]], left=9)
    assert budget.enough(4, [quiet], left=9)
    assert not budget.enough(4, [quiet, noisy], left=9)
    assert not budget.enough(1, [noisy], left=0)
    assert budget.enough(2, [noisy], left=0)
    assert budget.enough(budget.MOST, [noisy * 4], left=9)


def test_the_tiny_size_takes_one_round(monkeypatch):
    monkeypatch.setattr(sizes, "_name", "tiny")
    assert budget.enough(1, [[1.0]], left=9)


def test_quartiles():
    assert budget.quartiles([5.0]) == (5.0, 5.0)
    assert budget.quartiles([1.0, 2.0, 3.0, 4.0, 5.0]) == (2.0, 4.0)
    assert budget.uncertainty([1.0, 2.0, 3.0, 4.0]) == pytest.approx(1.5 / 2 / 2.5 / 2)
