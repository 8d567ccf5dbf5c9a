"""The figures of a run: ratios to the rivals, the roofline, and the scaling of time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.records import Record, Run, by_case
from benchmarks.table import rival

COLOURS = {"naive": "#b0b0b0", "compiled": "#7a9cc6", "ours": "#c44e52"}
RIVALS = ("naive", "compiled")
DPI = 120


def kind(path: str) -> str:
    """Return the beginning of a path's name: naive, compiled or ours."""
    return next((name for name in COLOURS if path.startswith(name)), "naive")


def draw(run: Run, folder: Path, stem: str) -> list[Path]:
    """Draw the figures that a run has rows for, and return their files."""
    files = []
    for name, figure in (("ratios", ratios(run)), ("roofline", roofline(run)), ("scaling", scaling(run))):
        if figure is not None:
            files.append(folder / f"{stem}-{name}.png")
            # No date or version in the file: equal results give equal files.
            figure.savefig(files[-1], dpi=DPI, bbox_inches="tight", metadata={"Software": None})
    return files


def ratios(run: Run) -> Figure | None:
    """Draw how many times faster ours is than the fastest of each kind of rival; the axis is logarithmic."""
    bars = []
    for paths in by_case(run.rows):
        ours = paths[-1]
        rivals = {name: row["seconds"] for name in RIVALS if (row := rival(paths, name, ours)) and row["seconds"]}
        if ours["seconds"] and rivals and "scaling" not in ours:
            name = f"{ours['case']} {ours['dtype']}".strip()
            bars.append((name, {name: seconds / ours["seconds"] for name, seconds in rivals.items()}))
    if not bars:
        return None
    figure = Figure(figsize=(9, 1 + 0.28 * len(bars)))
    axes = figure.subplots()
    for shift, name in zip((-0.2, 0.2), RIVALS, strict=True):
        places = [(index + shift, values[name]) for index, (_, values) in enumerate(bars) if name in values]
        widths = [ratio - 1 for _, ratio in places]  # bars begin at 1, where both are equally fast
        axes.barh([y for y, _ in places], widths, 0.4, left=1, color=COLOURS[name], label=f"over {name}")
    axes.set_yticks(range(len(bars)), [name for name, _ in bars], fontsize=7)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xlabel("times as fast as the rival")
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def roofline(run: Run) -> Figure | None:
    """Draw the speed of every path over the operations per byte of its task, below the limits of the machine."""
    rows = [row for row in run.rows if row.get("work", {}).get("flops") and row["work"]["bytes"]]
    if not rows:
        return None
    figure = Figure(figsize=(7, 5))
    axes = figure.subplots()
    intensities = [row["work"]["flops"] / row["work"]["bytes"] for row in rows]
    span = min(intensities) / 4, max(intensities) * 4
    for name, peak in run.machine["flop_per_second"].items():
        bandwidth = run.machine["bytes_per_second"]
        ridge = min(max(peak / bandwidth, span[0]), span[1])
        heights = [min(peak, bandwidth * x) / 1e9 for x in (span[0], ridge, span[1])]
        axes.plot([span[0], ridge, span[1]], heights, color="black", linewidth=0.8)
        axes.annotate(name, (span[1], heights[-1]), fontsize=7, ha="right", va="bottom")
    marks = {"float32": "o", "bfloat16": "s", "float16": "^", "tf32": "D"}
    shown = set()
    for row, x in zip(rows, intensities, strict=True):
        label = f"{kind(row['path'])}, {row['dtype']}"
        axes.plot(
            x,
            row["work"]["flops"] / row["seconds"] / 1e9,
            marks.get(row["dtype"], "x"),
            color=COLOURS[kind(row["path"])],
            label=None if label in shown else label,
        )
        shown.add(label)
    axes.set(
        xscale="log", yscale="log", xlabel="FLOP per byte that the task needs", ylabel="GFLOP/s that the task needs"
    )
    axes.legend(fontsize=7, loc="upper left", bbox_to_anchor=(1.01, 1))
    return figure


def scaling(run: Run) -> Figure | None:
    """Draw time and memory over each size that a series of cases varies; a grey line is linear in pixels, or in it."""
    rows = [row for row in run.rows if "scaling" in row]
    axes_names = list(dict.fromkeys(row["scaling"][0] for row in rows))
    if not axes_names:
        return None
    figure = Figure(figsize=(3.2 * len(axes_names), 6))
    grid = figure.subplots(2, len(axes_names), squeeze=False)
    for column, name in enumerate(axes_names):
        series = [row for row in rows if row["scaling"][0] == name]
        power = 2 if name == "resolution" else 1
        _lines(grid[0, column], series, [row["seconds"] * 1e3 for row in series], power)
        _lines(grid[1, column], series, [max(row["peak_bytes"], 1) / 2**20 for row in series], power)
        grid[1, column].set_xlabel(name)
    grid[0, 0].set_ylabel("ms")
    grid[1, 0].set_ylabel("peak MB")
    grid[0, 0].legend(fontsize=7)
    figure.tight_layout()
    return figure


def _lines(axes: Axes, rows: Sequence[Record], values: Sequence[float], power: int) -> None:
    """Draw the values of every path over the size that varies."""
    for path in dict.fromkeys(row["path"] for row in rows):
        points = [(row["scaling"][1], value) for row, value in zip(rows, values, strict=True) if row["path"] == path]
        axes.plot(*zip(*points, strict=True), "o-", markersize=3, color=COLOURS[kind(path)], label=path)
    ours = [(row["scaling"][1], v) for row, v in zip(rows, values, strict=True) if kind(row["path"]) == "ours"]
    if ours:
        x, y = ours[-1]
        axes.plot([x0 for x0, _ in ours], [y * (x0 / x) ** power for x0, _ in ours], ":", color="grey", label="linear")
    axes.set(xscale="log", yscale="log")
    sizes = sorted({row["scaling"][1] for row in rows})
    axes.set_xticks(sizes, [f"{size:g}" for size in sizes])
    axes.minorticks_off()
