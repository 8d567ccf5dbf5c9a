"""The figures of a run."""

import pytest

from benchmarks import figures
from benchmarks.records import Run


def row(path: str, seconds: float | None, **options) -> dict:
    return {"case": "case", "dtype": "float32", "path": path, "seconds": seconds, "peak_bytes": 2**20, **options}


@pytest.fixture
def run(machine):
    """Return a function that returns a run of rows."""
    return lambda *rows: Run("pytest", "default", 1, machine, list(rows))


def test_figures_are_drawn_for_rows_that_have_them(tmp_path, run):
    assert figures.draw(run(), tmp_path, "cpu") == []
    work = {"work": {"flops": 1e9, "bytes": 1e6}}
    series = [row(p, t, case=f"frames {t}", scaling=["frames", t]) for p in ("naive", "ours") for t in (1, 2)]
    rows = [row("naive", 2.0, **work), row("compiled", None), row("ours", 1.0, **work), *series]
    files = figures.draw(run(*rows), tmp_path, "cpu")
    assert [file.name for file in files] == ["cpu-ratios.png", "cpu-roofline.png", "cpu-scaling.png"]
    again = tmp_path / "again"
    again.mkdir()
    assert [f.read_bytes() for f in figures.draw(run(*rows), again, "cpu")] == [f.read_bytes() for f in files]


def test_bars_are_the_ratios_to_the_rivals(run):
    figure = figures.ratios(run(row("naive", 8.0), row("compiled", 4.0), row("ours", 2.0)))
    assert sorted(bar.get_width() for bar in figure.axes[0].patches) == [1.0, 3.0]  # from 1 to 2 and to 4


def test_bars_are_the_ratios_to_the_fastest_rivals(run):
    rows = [row("naive", 8.0), row("naive jvp", 4.0), row("naive, kept", 6.0), row("compiled", None), row("ours", 2.0)]
    assert [bar.get_width() for bar in figures.ratios(run(*rows)).axes[0].patches] == [1.0]  # from 1 to 2


@pytest.mark.parametrize(
    ("path", "kind"), [("ours, bfloat16", "ours"), ("compiled jvp", "compiled"), ("naive", "naive")]
)
def test_kinds_of_paths(path, kind):
    assert figures.kind(path) == kind
