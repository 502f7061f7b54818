"""Which memory had no access for long, over restarts of what watches it."""

from __future__ import annotations

import numpy as np

from gpuscan.linux.damon import Intervals, Regions
from gpuscan.linux.ranges import Ranges, as_ranges, intersect
from gpuscan.monitors.damon_regions import cold_regions, merged

_KEPT_UP = 0.9
_MOST_MOMENTS = 16
"""How finely memory is told apart by its last access: so many moments in the time after which it is cold."""


class QuietMemory:
    """Which memory of a process had no access, and since when, also over restarts of its kdamond.

    A region's age begins at 0 when a kdamond starts, which somebody may have switched off meanwhile.

    Args:
        intervals: how finely DAMON looks.
        cold_after_ns: when memory is cold.
    """

    def __init__(self, intervals: Intervals, cold_after_ns: int) -> None:
        self._intervals = intervals
        self._cold_after_ns = cold_after_ns
        self._since: list[tuple[int, Ranges]] = []
        """Moments, ascending, and the memory that had no access from then on."""
        self._started_ns = self._looked_ns = 0
        self._is_new = True

    def start_anew(self, now_ns: int) -> None:
        """Note that a kdamond starts: until its next look its regions tell of nothing before this."""
        self._started_ns = self._looked_ns = now_ns
        self._is_new = True

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
        since = [(at_ns, intersect(ranges, quiet)) for at_ns, ranges in self._since]
        if self._is_new and (
            not since or self._started_ns - since[-1][0] >= self._cold_after_ns // _MOST_MOMENTS
        ):
            since.append((self._started_ns, quiet))
        self._is_new = False
        limit_ns = now_ns - self._cold_after_ns
        by_age = regions.ranges[cold_regions(regions, self._intervals, self._cold_after_ns)]
        before = [ranges for at_ns, ranges in since if at_ns <= limit_ns]
        cold = as_ranges(np.concatenate([by_age, *before]).tolist())
        self._since = [(limit_ns, cold), *(one for one in since if one[0] > limit_ns)]
        return cold
