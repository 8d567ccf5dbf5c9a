"""Comparisons of paths: no time for wrong results, the reasons of failures, and slow rivals that run once."""

import math

import pytest
import torch

from benchmarks import budget, harness
from benchmarks.limits import Limit
from fused_inr.tools.counts import Counts

X = torch.arange(6.0)
TIME = 1e6  # seconds: more than any machine needs


@pytest.fixture(autouse=True)
def few_rounds(monkeypatch):
    monkeypatch.setattr(budget, "MOST", budget.FEWEST)
    monkeypatch.setattr(harness, "SHORTEST", 1e-9)


def case(paths: dict, **options) -> harness.Case:
    options = {"truth": lambda: 2 * X, "flops": 0, **options}
    return harness.Case("doubling", torch.float32, paths, tolerance=1e-6, **options)


def measure(paths: dict, seconds: float = TIME, **options) -> dict[str, harness.Measured]:
    return {row.path: row for row in harness.measure(case(paths, **options), seconds).rows}


class Counted:
    """A path that counts its calls, and lasts as long as it claims to."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self) -> torch.Tensor:
        self.calls += 1
        return 2 * X


def out_of_memory() -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def broken() -> torch.Tensor:
    raise RuntimeError("this\nand that")


def test_a_wrong_result_is_not_timed():
    rows = measure({"naive": lambda: X + X, "naive, wrong": lambda: 2.01 * X, "ours": lambda: 2 * X})
    assert rows["naive, wrong"].seconds is None
    assert rows["naive, wrong"].failure.startswith("wrong result")
    assert len(rows["naive"].times) == len(rows["ours"].times) == budget.FEWEST
    assert measure({"ours": lambda: X * math.nan})["ours"].seconds is None


def test_failed_paths_have_the_reason():
    rows = measure({"naive": out_of_memory, "compiled": broken, "ours": lambda: 2 * X})
    assert (rows["naive"].failure, rows["compiled"].failure) == ("out of memory", "RuntimeError: this")
    assert rows["ours"].seconds > 0


def test_without_a_truth_the_first_path_that_fits_into_memory_is_the_expected_result():
    assert measure({"naive": out_of_memory, "ours": lambda: 2 * X}, truth=None)["ours"].error == 0
    with pytest.raises(RuntimeError, match="this"):
        measure({"naive": broken}, truth=None)


def test_slow_rivals_run_once(monkeypatch):
    monkeypatch.setattr(harness, "SLOW", 0.0)
    naive, compiled, ours = Counted(), Counted(), Counted()
    rows = measure({"naive": naive, "compiled": compiled, "ours": ours}, limits=[Limit("nothing", lambda: 1.0)])
    # The first call of the compiled path compiles.
    assert (naive.calls, compiled.calls, len(rows["naive"].times), len(rows["compiled"].times)) == (1, 2, 1, 1)
    assert len(rows["ours"].times) == budget.FEWEST
    assert rows["naive"].shares["nothing"] == pytest.approx(1 / rows["naive"].seconds)


def test_without_time_nothing_is_compiled():
    compiled, ours = Counted(), Counted()
    rows = measure({"compiled": compiled, "ours": ours}, seconds=0)
    assert (compiled.calls, rows["compiled"].failure) == (0, harness.NO_TIME)
    assert len(rows["ours"].times) == budget.LEAST


def test_the_roofline(monkeypatch):
    monkeypatch.setattr(harness, "gemm_ceiling", lambda dtype: 100.0)
    monkeypatch.setattr(harness, "copy_ceiling", lambda: 10.0)
    assert harness.measure(case({"ours": lambda: 2 * X}, work=Counts(flops=100, bytes=20)), 0).roofline == 2


def test_a_sequel_is_the_weighted_sum_of_its_parts():
    paths = {"naive": Counted(), "ours": Counted()}
    parts = [(case(paths, limits=[Limit("nothing", lambda: 1.0)]), weight) for weight in (1.0, 0.25)]
    first, second, whole = harness.measure_sequel(harness.Sequel("both", parts), TIME)
    assert (first.case.name, whole.case.name) == ("doubling", "both")
    for a, b, row in zip(first.rows, second.rows, whole.rows, strict=True):
        assert row.times == pytest.approx([x + y / 4 for x, y in zip(a.times, b.times, strict=True)])
        assert row.shares["nothing"] * row.seconds == pytest.approx(1.25, rel=0.5)  # medians of few rounds
    failed = [(case({"naive": broken, "ours": Counted()}), 1.0)]
    assert harness.measure_sequel(harness.Sequel("failed", failed), TIME)[-1].rows[0].seconds is None
