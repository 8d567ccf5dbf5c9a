"""What a command shows on the terminal while it works."""

from __future__ import annotations

import contextlib
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

from tqdm import tqdm

_TOLD_EVERY = 10.0  # seconds between lines of progress where there is no terminal


class ResultTable:
    """Results of `digan.metrics.compute`, each as soon as it is known.

    Args:
        metric_names, rows: what will be printed, so that the columns are wide enough.
    """

    def __init__(self, metric_names: Sequence[str], rows: Sequence[str]) -> None:
        self._metric = max(map(len, ["metric", *metric_names]))
        self._row = max(map(len, ["clips", *rows]))

    def print_head(self) -> None:
        self._print("metric", "clips", "value", "reals", "fakes", "features", "seconds")

    def print_row(self, name: str, result: dict[str, Any]) -> None:
        deviation = result["std"] if result["std"] is not None else result.get("std_of_splits")
        value = f"{result['value']:.5g}" + ("" if deviation is None else f" ± {deviation:.2g}")
        counts = [str(result[key] or "-") for key in ("n_real", "n_fake")]
        self._print(result["metric"], name, value, *counts, result["features"], f"{result['seconds']:.0f}")

    def _print(self, metric: str, row: str, value: str, reals: str, fakes: str, features: str, seconds: str) -> None:
        names = f"{metric:<{self._metric}}  {row:<{self._row}}"
        print(f"{names}  {value:>18}  {reals:>6}  {fakes:>6}  {features:<22}  {seconds:>7}", flush=True)


class Progress(contextlib.AbstractContextManager):
    """Clips done (or `unit`), on a bar or, where there is no terminal, in a line every ten seconds.

    Nothing is shown unless `shown`.
    """

    def __init__(self, title: str, shown: bool, unit: str = "clip") -> None:
        self._title, self._shown, self._unit = title, shown, unit
        self._bar: tqdm | None = None
        self._told = time.monotonic()

    def __call__(self, done: int, total: int) -> None:
        """Called with the number done and to do, of this process."""
        if not self._shown:
            return
        if sys.stderr.isatty():
            self._bar = self._bar or tqdm(desc=self._title, unit=self._unit, dynamic_ncols=True, leave=False)
            self._bar.total = total
            self._bar.update(done - self._bar.n)
        elif time.monotonic() - self._told >= _TOLD_EVERY:
            self._told = time.monotonic()
            print(f"{self._title}: {done} of {total} {self._unit}s", file=sys.stderr, flush=True)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()


@contextlib.contextmanager
def plain_warnings() -> Iterator[None]:
    """Shows every warning once, as a line without the place in the code that it came from."""
    told: set[str] = set()

    def show(message: Warning | str, *_: object, **__: object) -> None:
        if str(message) not in told:
            told.add(str(message))
            tqdm.write(f"warning: {message}", file=sys.stderr)

    with warnings.catch_warnings():
        warnings.simplefilter("always", UserWarning)
        warnings.showwarning = show
        yield
