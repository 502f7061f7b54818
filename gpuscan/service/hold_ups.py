"""How many pages one call may move, so that it holds up a process for a certain time at most.

The pages of a list that move_pages(2) migrates are unmapped together, then copied, then mapped again
(migrate_pages_batch(), mm/migrate.c, v6.12): a program that touches one of them meanwhile waits, in the worst
case for all of the list. How long a page takes depends on machine, load and memory: each call is measured.
"""

from __future__ import annotations

from gpuscan.base.histogram import Histogram
from gpuscan.migrate.steward import MOST_CALL_PAGES

_FIRST_PAGES = 64
_AIM = 0.7
"""Part of the limit that the next call is sized for."""
CALL_BOUNDS_S = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0)


class HoldUps:
    """The number of base pages of the next call.

    Args:
        limit_ns: how long one may take.
    """

    def __init__(self, limit_ns: int) -> None:
        self.limit_ns = limit_ns
        self.pages = _FIRST_PAGES
        self.n_calls = 0
        self.n_exceeded = 0
        self.longest_ns = 0
        self.took_s = Histogram(CALL_BOUNDS_S)

    def took(self, n_pages: int, n_moved: int, busy_ns: int) -> None:
        """Hear how long a call took: fewer next time where pages take long, more, step by step, where not.

        Args:
            n_pages: that it was for.
            n_moved: of these, that moved: what was refused took next to nothing.
            busy_ns: how long.
        """
        self.n_calls += 1
        self.took_s.add(busy_ns / 1e9)
        self.n_exceeded += busy_ns > self.limit_ns
        self.longest_ns = max(self.longest_ns, busy_ns)
        if not n_pages:
            return
        fits = int(_AIM * self.limit_ns * n_pages / max(1, busy_ns))
        if fits < self.pages:
            # A call of few pages says little of many: what every call costs is not spread over them.
            if busy_ns > _AIM * self.limit_ns or n_pages >= self.pages:
                self.pages = max(1, fits)
        elif n_moved >= self.pages // 2:
            self.pages = min(MOST_CALL_PAGES, 2 * self.pages, fits)
