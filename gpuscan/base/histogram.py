"""How often a value fell into which range: in bounded memory, however many there were."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from itertools import accumulate


class Histogram:
    """Counts of values by ascending upper bounds, each of which belongs to its range.

    Args:
        bounds: ascending; what is above the last one is counted, too.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.total = 0.0
        """Sum of the values."""
        self._counts = [0] * (len(self.bounds) + 1)

    @property
    def n(self) -> int:
        """How many values there were."""
        return sum(self._counts)

    def add(self, value: float, n: int = 1) -> None:
        """Count a value, ``n`` times."""
        self._counts[bisect_left(self.bounds, value)] += n
        self.total += n * value

    def cumulative(self) -> list[tuple[float, int]]:
        """Return each bound, infinity at the end, and how many values are not above it."""
        return list(zip((*self.bounds, float("inf")), accumulate(self._counts), strict=True))
