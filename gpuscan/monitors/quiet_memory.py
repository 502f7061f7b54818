"""Which memory had no access for long, by the ages of its regions and by the clock."""

from __future__ import annotations

import numpy as np

from gpuscan.linux.damon import Intervals, Regions
from gpuscan.linux.ranges import Ranges, as_ranges, intersect
from gpuscan.monitors.damon_regions import cold_regions, merged

_KEPT_UP = 0.9


class QuietMemory:
    """Which memory of a process had no access for long, while one kdamond watches it.

    A region's age counts aggregations, and the kdamonds of a busy machine lag behind the clock. So what had
    no access from the start on counts by the clock, and what was cold once is cold until it has one.

    Args:
        intervals: how finely DAMON looks.
        cold_after_ns: when memory is cold.
        started_ns: when the kdamond was on; of the time before nothing is known.
    """

    def __init__(self, intervals: Intervals, cold_after_ns: int, started_ns: int) -> None:
        self._intervals = intervals
        self._cold_after_ns = cold_after_ns
        self._started_ns = self._looked_ns = started_ns
        self._since_start: Ranges | None = None
        self._cold = as_ranges([])

    def look(self, regions: Regions, now_ns: int) -> Ranges:
        """Take in one look and return the memory that is cold.

        Args:
            regions: all that the kdamond reports, also those without an access; none say nothing.
            now_ns: the time.
        """
        if not len(regions):
            return regions.ranges
        aggregation_ns = self._intervals.aggregation_us * 1000
        # Kdamonds of a busy machine lag, so ages tell of less time than has passed.
        least_ns = (now_ns - self._looked_ns) * _KEPT_UP - 2 * aggregation_ns
        is_quiet = (regions.n_accesses == 0) & (regions.age * aggregation_ns >= least_ns)
        quiet = merged(regions.ranges[is_quiet])
        self._looked_ns = now_ns
        self._since_start = quiet if self._since_start is None else intersect(self._since_start, quiet)
        parts = [
            regions.ranges[cold_regions(regions, self._intervals, self._cold_after_ns)],
            intersect(self._cold, quiet),
        ]
        if now_ns - self._started_ns >= self._cold_after_ns:
            parts.append(self._since_start)
        self._cold = as_ranges(np.concatenate(parts).tolist())
        return self._cold
