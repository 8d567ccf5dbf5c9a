"""The time of a run: how many rounds a case takes, and whether there is time left to compile rivals.

Every case makes a minimum number of calls. The time left of the run is divided evenly among the remaining cases, and a
case uses its share for further rounds until the medians of its paths are known well enough.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Sequence

from benchmarks import sizes
from benchmarks.device import pick

# Seconds of a run at the default size that are shared out. It must end within 600 on two cores and within 300 on a GPU:
# the last cases, which are the slowest and compile nothing, take more than their share.
RUN = {"cpu": 420.0, "cuda": 230.0}
LONGEST_CASE = 5.0  # seconds that a case may take, however much time is left
FEWEST, MOST = 3, 9  # rounds
LEAST = 2  # rounds of a case whose time is used up
STEADY = 0.02  # half the distance of the quartiles relative to the median, over the square root of the rounds


class Budget:
    """The time that a run of a number of cases has left.

    Args:
        cases: number of cases of the run.
        seconds: time of the run; None is that of the device at the default size, and no limit at the others.
    """

    def __init__(self, cases: int, seconds: float | None = None) -> None:
        if seconds is None:
            seconds = pick(**RUN) if sizes.name() == "default" else float("inf")
        self._end = time.perf_counter() + seconds
        self._cases = max(1, cases)

    def share(self) -> float:
        """Return the seconds that the next case may take for its rounds; 0 if the time is used up."""
        left = max(0.0, self._end - time.perf_counter())
        share = left / self._cases
        self._cases = max(1, self._cases - 1)
        return min(LONGEST_CASE, share)


def enough(rounds: int, times: Iterable[Sequence[float]], left: float) -> bool:
    """Return whether a case needs no further round.

    Args:
        rounds: the rounds so far.
        times: the seconds of every path in these rounds.
        left: seconds that the case has left.
    """
    if sizes.tiny():
        return True
    if rounds < LEAST:
        return False
    if left <= 0 or rounds >= MOST:
        return True
    return rounds >= FEWEST and all(uncertainty(seconds) <= STEADY for seconds in times)


def uncertainty(seconds: Sequence[float]) -> float:
    """Return the spread of the median of repeated measurements, relative to it."""
    low, high = quartiles(seconds)
    return (high - low) / 2 / statistics.median(seconds) / len(seconds) ** 0.5


def quartiles(values: Sequence[float]) -> tuple[float, float]:
    """Return the lower and the upper quartile."""
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high
