"""Terminal output of the commands: tables of results, progress and warnings."""

from __future__ import annotations

import contextlib
import math
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

_REPORT_INTERVAL = 10.0  # seconds between lines of progress where there is no terminal


class ResultTable:
    """A table of results of `digan.metrics.compute`, printed row by row.

    Args:
        metric_names: all metrics that will be printed, for the width of their column.
        rows: all names of rows that will be printed, for the width of their column.
    """

    def __init__(self, metric_names: Sequence[str], rows: Sequence[str]) -> None:
        self._metric = max(map(len, ["metric", *metric_names]))
        self._row = max(map(len, ["clips", *rows]))

    def print_head(self) -> None:
        """Print the names of the columns."""
        self._print("metric", "clips", "value", "reals", "fakes", "features", "seconds")

    def print_row(self, name: str, result: dict[str, Any]) -> None:
        """Print a result under the name of its row."""
        deviation = result.get("std_of_splits") if result.get("std") is None else result["std"]
        value = f"{result['value']:.5g}" + ("" if deviation is None else f" ± {deviation:.2g}")
        reals, fakes = (str(result[key] or "-") for key in ("n_real", "n_fake"))
        self._print(result["metric"], name, value, reals, fakes, result["features"], f"{result['seconds']:.0f}")

    def _print(self, metric: str, row: str, value: str, reals: str, fakes: str, features: str, seconds: str) -> None:
        names = f"{metric:<{self._metric}}  {row:<{self._row}}"
        print(f"{names}  {value:>18}  {reals:>6}  {fakes:>6}  {features:<22}  {seconds:>7}", flush=True)


def value_bars(values: Sequence[float], width: int = 40) -> list[str]:
    """Return a bar for each value, whose length is proportional to it; none for values that are not finite."""
    longest = max((value for value in values if math.isfinite(value)), default=0.0)
    scale = width / longest if longest > 0 else 0.0
    return ["#" * round(max(value, 0.0) * scale) if math.isfinite(value) else "" for value in values]


class ProgressBar(contextlib.AbstractContextManager):
    """Progress on a bar or, where there is no terminal, in a line every ten seconds.

    Args:
        title: what is in progress.
        shown: False shows nothing.
        unit: what is counted, in the singular.
    """

    def __init__(self, title: str, shown: bool, unit: str = "clip") -> None:
        self._title, self._shown, self._unit = title, shown, unit
        self._bar: tqdm | None = None
        self._last_report = time.monotonic()

    def __call__(self, done: int, total: int, note: str = "") -> None:
        """Show that `done` of the `total` units of this process are done, and a note, such as the result."""
        if not self._shown:
            return
        if sys.stderr.isatty():
            self._bar = self._bar or tqdm(desc=self._title, unit=self._unit, dynamic_ncols=True, leave=False)
            self._bar.total = total
            self._bar.set_postfix_str(note, refresh=False)
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._last_report >= _REPORT_INTERVAL:
            self._last_report = time.monotonic()
            text = f"{self._title}: {done} of {total} {self._unit}s" + (f", {note}" if note else "")
            print(text, file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Show every distinct warning once, as one line without its location in the code."""
    reported: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in reported:
            reported.add(str(message))
            tqdm.write(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
