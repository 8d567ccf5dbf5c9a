"""Reports of comparisons: no time for wrong results, and ratios to rivals and to the roofline for correct ones."""

import math

import pytest
import torch

from benchmarks import harness
from fused_inr.tools.counts import Counts

X = torch.arange(6.0)


def case(paths: dict, **options) -> harness.Case:
    options = {"truth": lambda: 2 * X, "flops": 0, "rounds": 1, **options}
    return harness.Case("doubling", torch.float32, paths, tolerance=1e-6, **options)


def rows(report: harness.Report) -> dict[str, dict[str, str]]:
    return {line["path"]: line for line in report.table()}


def out_of_memory() -> torch.Tensor:
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.")


def broken() -> torch.Tensor:
    raise RuntimeError("this\nand that")


def test_a_wrong_result_is_not_timed():
    table = rows(harness.measure(case({"naive": lambda: X + X, "wrong": lambda: 2.01 * X, "ours": lambda: 2 * X})))
    assert table["wrong"]["time"] == "-"
    assert table["wrong"]["error"].startswith("wrong result")
    assert table["naive"]["speed-up"] == "1.00x"
    assert table["ours"]["speed-up"].endswith("x")
    nan = harness.measure(case({"ours": lambda: X * math.nan}))
    assert nan.rows[0].seconds is None


def test_failed_paths_report_the_reason():
    table = rows(harness.measure(case({"naive": out_of_memory, "compiled": broken, "ours": lambda: 2 * X})))
    assert table["naive"]["error"] == "out of memory"
    assert table["compiled"]["error"] == "RuntimeError: this"
    assert table["ours"]["time"].endswith("ms")
    assert table["ours"]["speed-up"] == ""


def test_without_a_truth_the_first_path_that_fits_into_memory_is_the_expected_result():
    report = harness.measure(case({"naive": out_of_memory, "ours": lambda: 2 * X}, truth=None))
    assert [row.error for row in report.rows][1] == 0
    with pytest.raises(RuntimeError, match="this"):
        harness.measure(case({"naive": broken}, truth=None))


def test_later_paths_have_ratios_to_rivals():
    paths = {name: lambda: 2 * X for name in ("naive, float32", "naive", "compiled", "ours")}
    report = harness.measure(case(paths, rivals=("naive", "compiled")))
    for row, seconds in zip(report.rows, (8.0, 4.0, 2.0, 1.0), strict=True):
        row.seconds, row.peak = seconds, int(seconds) << 30
    table = rows(report)
    assert table["ours"]["speed-up"] == "8.00x"
    assert (table["ours"]["over naive"], table["ours"]["over compiled"]) == ("4.00x", "2.00x")
    assert (table["ours"]["of naive's"], table["ours"]["of compiled's"]) == ("25%", "50%")
    assert table["compiled"]["over naive"] == "2.00x"
    assert not table["naive"]["over naive"] + table["naive"]["over compiled"] + table["compiled"]["over compiled"]


def test_share_of_the_roofline(monkeypatch):
    monkeypatch.setattr(harness, "gemm_ceiling", lambda dtype: 100.0)
    monkeypatch.setattr(harness, "copy_ceiling", lambda: 10.0)
    report = harness.measure(case({"ours": lambda: 2 * X}, work=Counts(flops=100, bytes=20)))
    report.rows[0].seconds = 8.0
    assert rows(report)["ours"]["of roofline"] == "25%"
