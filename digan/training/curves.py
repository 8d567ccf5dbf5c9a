"""Curves of training runs from their records: losses, metrics, speed and memory, as SVG or PNG."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from digan.files import atomic_path
from digan.run_dir import STATISTICS, TICK_FACTS, list_metrics, read_records
from digan.run_results import own_results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CURVES = "curves.png"
# Colours of runs that can be told apart on white and on black, also by the colour-blind.
COLOURS = ("#3b82d6", "#e0752d", "#2fa572", "#c850a0", "#a08a1c", "#8d6fd1", "#d0454c", "#5a9aa8")
_FACTS = {"clips_per_second": "clips/s", "memory_gb": "memory, GiB", "gpu_memory_gb": "GPU memory, GiB"}
_SIZE = (4.4, 2.7)  # inches
_SMOOTHED = 60  # more points than this are drawn faintly, below their moving average
_WINDOW = 25  # moving averages of a curve span a fraction 1 / _WINDOW of it
_MARGIN = 0.07  # above the largest value, as a fraction of it
_LOG_RATIO = 20  # positive values whose 5th and 95th percentiles differ by more than this get a logarithmic axis
_INK = "#010203"  # stands for the colour of the text where an SVG is drawn

Points = tuple[list[float], list[float]]  # kimg, values


@dataclass
class Chart:
    """Curves of one quantity.

    Attributes:
        title: the quantity.
        curves: the points of each run that has any, keyed by the run's position.
        sampled: whether the points are measurements of single snapshots, rather than means of a stretch of training.
        from_zero: whether the value axis starts at zero.
    """

    title: str
    sampled: bool = False
    from_zero: bool = False
    curves: dict[int, Points] = field(default_factory=dict)

    def has_nonzero_values(self) -> bool:
        """Return whether a value differs from zero, unlike most counts of non-finite gradients."""
        return any(any(values) for _, values in self.curves.values())


def read_charts(runs: Sequence[Path], report: Callable[[str], None] | None = None) -> list[Chart]:
    """Return the charts of some runs: metrics, then losses, then speed and memory.

    Args:
        runs: run folders.
        report: called with a sentence about lines that hold no record, which are skipped.
    """
    metrics: dict[str, Chart] = {}
    ticks: dict[str, Chart] = {}
    for position, run in enumerate(runs):
        for name in list_metrics(run):
            results = own_results(run, name, report)
            _add(metrics.setdefault(name, Chart(name, sampled=True)), position, results, "value")
        records = [record for record in read_records(run / STATISTICS, report) if "clips" in record]
        for name in dict.fromkeys(name for record in records for name in record):
            if name not in TICK_FACTS or name in _FACTS:
                empty = Chart(_FACTS.get(name, name), from_zero=name in _FACTS)
                _add(ticks.setdefault(name, empty), position, records, name)
    losses = [chart for name, chart in ticks.items() if name not in _FACTS]
    facts = [ticks[name] for name in _FACTS if name in ticks]
    return [chart for chart in (*metrics.values(), *losses, *facts) if chart.has_nonzero_values()]


def _add(chart: Chart, position: int, records: Sequence[Mapping[str, Any]], name: str) -> None:
    """Add the numbers of this name in some records to a chart."""
    points = [(r["clips"] / 1000, r[name]) for r in records if is_finite(r["clips"]) and is_finite(r.get(name))]
    if points:
        kimg, values = map(list, zip(*sorted(points), strict=True))
        chart.curves[position] = kimg, values


def is_finite(value: Any) -> bool:
    """Return whether a value from a record is a finite number that charts can hold."""
    return type(value) in (int, float) and abs(value) < 2**63


def svg(chart: Chart) -> str:
    """Return a chart as an `<svg>` element, in the text colour of the page around it."""
    from matplotlib import rc_context

    figure = _figure(1, 1)
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": chart.title}):
        _draw(figure.add_subplot(), chart, _INK)
        text = io.StringIO()
        metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(text, format="svg", transparent=True, metadata=metadata)
    content = text.getvalue()
    return content[content.index("<svg") :].replace(_INK, "currentColor")


def write_png(run: Path) -> None:
    """Draw the curves of one run into its folder, as curves.png, if it has any records.

    Raises:
        ImportError: matplotlib is not installed.
    """
    charts = read_charts([run])
    if not charts:
        return
    columns = min(3, len(charts))
    rows = math.ceil(len(charts) / columns)
    figure = _figure(rows, columns)
    for position, chart in enumerate(charts, 1):
        _draw(figure.add_subplot(rows, columns, position), chart, "#222222")
    with atomic_path(run / CURVES) as draft:
        figure.savefig(draft, format="png", dpi=110)


def _figure(rows: int, columns: int) -> Figure:
    from matplotlib.figure import Figure  # not pyplot, which would choose a backend for the whole process

    return Figure(figsize=(_SIZE[0] * columns, _SIZE[1] * rows), layout="constrained")


def _draw(axes: Axes, chart: Chart, ink: str) -> None:
    axes.set_title(chart.title, color=ink, fontsize=10, loc="left")
    axes.set_xlabel("kimg", color=ink, fontsize=8)
    for position, (kimg, values) in chart.curves.items():
        colour = COLOURS[position % len(COLOURS)]
        few = len(kimg) <= _SMOOTHED
        if not chart.sampled and not few:
            axes.plot(kimg, values, color=colour, linewidth=0.6, alpha=0.3)
            values = _smoothed(values)
        axes.plot(kimg, values, color=colour, linewidth=1.6, marker="o" if few else "", markersize=3)
    _scale(axes, chart)
    axes.grid(color=ink, alpha=0.15, linewidth=0.6)
    axes.tick_params(which="both", colors=ink, labelsize=8, length=0)
    for name, spine in axes.spines.items():
        spine.set_visible(name == "bottom")
        spine.set_edgecolor(ink)
        spine.set_alpha(0.5)


def _scale(axes: Axes, chart: Chart) -> None:
    values = sorted(value for _, points in chart.curves.values() for value in points)
    low, high = values[0], values[-1]
    tail = len(values) // 20
    if low > 0 and values[-1 - tail] > _LOG_RATIO * values[tail] and not chart.from_zero:
        axes.set_yscale("log")
    elif chart.from_zero or 0 <= low <= high / 2:
        axes.set_ylim(0, (high or 1) * (1 + _MARGIN))


def _smoothed(values: Sequence[float]) -> list[float]:
    """Return the centred moving average, over fewer values towards the ends."""
    half = max(1, len(values) // (2 * _WINDOW))
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    ends = [(max(0, i - half), min(len(values), i + half + 1)) for i in range(len(values))]
    return [(sums[end] - sums[start]) / (end - start) for start, end in ends]


class CurveWriter:
    """Draws the curves of a run while it trains; what goes wrong is reported once and never ends the run.

    Args:
        run: the run folder.
        report: called with a sentence.
    """

    def __init__(self, run: Path, report: Callable[[str], None]) -> None:
        self._run, self._report = run, report
        self._failed = False

    def write(self) -> None:
        """Draw the records so far, unless an earlier attempt failed."""
        if self._failed:
            return
        try:
            write_png(self._run)
        except ImportError:
            self._fail("pip install 'digan[report]' to have the curves of a run drawn")
        except Exception as error:  # of the drawing library or the machine
            self._fail(str(error) or type(error).__name__)

    def _fail(self, reason: str) -> None:
        self._failed = True
        self._report(f"{self._run / CURVES} is not drawn: {reason.rstrip('.')}.")
