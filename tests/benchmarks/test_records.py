"""The rows of a run as plain data, and their file."""

import torch

from benchmarks import records
from benchmarks.harness import Case, Measured, Report
from fused_inr.tools.counts import Counts


def measured(path: str, times: list[float], **options) -> Measured:
    return Measured(path, error=1e-6, times=times, peak=2**25, **options)


def test_a_row_for_every_path():
    work = Counts(flops=100, bytes=10)
    case = Case("case", torch.float32, {}, flops=100, truth=None, tolerance=1, work=work, scaling=("frames", 4))
    ours = measured("ours", [1.0, 2.0, 3.0], shares={"copy": 0.5})
    failed = Measured("compiled", failure="out of memory")
    first, second = records.records(Report(case, [failed, ours], roofline=0.5))
    assert (first["seconds"], first["error"], first["failure"]) == (None, None, "out of memory")
    assert (second["seconds"], second["rounds"], second["quartiles"]) == (2.0, 3, [1.5, 2.5])
    assert (second["flop_per_second"], second["of_roofline"], second["of_limits"]) == (50, 0.25, {"copy": 0.5})
    assert (second["work"], second["scaling"]) == ({"flops": 100, "bytes": 10}, ["frames", 4])
    assert "bytes_per_second" not in second
    assert records.by_case([first, second]) == [[first, second]]


def test_a_file_is_read_as_written(tmp_path, machine):
    run = records.Run("pytest benchmarks/", "default", 9, machine, [{"case": "a", "dtype": "", "seconds": 0.1}])
    run.write(tmp_path / "new" / "run.json")
    assert records.Run.read(tmp_path / "new" / "run.json") == run


def test_the_text_of_a_machine(machine):
    text = records.machine_text(machine)
    assert text == (
        "a processor, 2 threads; commit abc1234, 2026-01-02; "
        "peak of matrix products: float32 200 GFLOP/s, copies 40 GB/s"
    )
    assert "commit" not in records.machine_text(machine | {"commit": ""})
