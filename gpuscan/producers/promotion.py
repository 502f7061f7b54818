"""Which hot candidates NUMA balancing lets through: the moving threshold and the rate limit of a target node.

Of kernel/sched/fair.c: should_numa_migrate_memory() for memory tiering mode,
numa_promotion_adjust_threshold() and numa_promotion_rate_limit() (all since Linux 6.1). kpromoted and pghot
moved them to mm/pghot.c as they were, so :mod:`gpuscan.designs` decides with this, too. A tick's
faults come as arrays, one element per fault; the answer is that of the kernel's code run once for each.

The threshold begins at ``hot_threshold_ms``. The first fault more than a minute (scan_period_max)
after the last change moves it by an eighth of that: down, when the minute saw over 11/10 of the candidates
the rate limit has room for, up, to twice that at most, when it saw less than 9/10. The limit counts
candidates, not moves, in windows of a second that begin with the first candidate after the last one ended.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.documents import TIME_NS_MAX, table, whole

NUMA_MIGRATION_ADJUST_STEPS = 16
_MS_PER_S = 1000
_U32 = 0xFFFF_FFFF
"""The kernel's milliseconds are unsigned ints."""


class PromotionControl:
    """What ``pglist_data`` keeps of one promotion target; times in ms, sizes in base pages.

    Args:
        hot_threshold_ms: the threshold to begin with; None: every fault is hot, and the threshold stays.
        pages_per_s: the rate limit; None: there is none, and the threshold stays.
        adjust_every_ms: how often the threshold moves at most (numa_balancing_scan_period_max_ms).

    Attributes:
        n_candidates: base pages that were hot (PGPROMOTE_CANDIDATE).
    """

    def __init__(self, hot_threshold_ms: int | None, pages_per_s: int | None, adjust_every_ms: int) -> None:
        self._default_ms = hot_threshold_ms or 0
        self._all_hot = hot_threshold_ms is None
        self._pages_per_s = pages_per_s
        self._adjust_every_ms = adjust_every_ms
        self._moved_ms = 0
        self._adjusted_at_ms = 0
        self._adjusted_at_candidates = 0
        self._window_at_ms = 0
        self._window_at_candidates = 0
        self.n_candidates = 0

    @property
    def threshold_ms(self) -> int:
        """The threshold in force; 0 where every fault is hot."""
        return self._moved_ms or self._default_ms

    def bypass(self) -> None:
        """Let a fault pass while the target has plenty of free memory: the threshold starts over."""
        self._moved_ms = 0

    def admits(self, at_ms: int, latency_ms: int, n_pages: int) -> bool:
        """Take one fault, see :meth:`decide`, and return whether it is hot and within the rate."""
        self._adjust_if_due(at_ms)
        if not self._all_hot and latency_ms >= self.threshold_ms:
            return False
        self.n_candidates += n_pages
        if self._pages_per_s is None:
            return True
        self._open_window_if_due(at_ms, self.n_candidates)
        return self.n_candidates - self._window_at_candidates < self._pages_per_s

    def decide(
        self, at_ms: NDArray[np.int64], latency_ms: NDArray[np.int64], n_pages: NDArray[np.int64]
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Take faults on pages below the top tier.

        Args:
            at_ms: int64[n], when, ascending.
            latency_ms: int64[n], since the unmapping.
            n_pages: int64[n], base pages of the folios.

        Returns:
            bool[n] each: hot, and hot and within the rate.
        """
        n_faults = len(at_ms)
        hot = np.ones(n_faults, dtype=np.bool_)
        within = np.zeros(n_faults, dtype=np.bool_)
        first = 0
        while first < n_faults:
            end = n_faults
            if self._adjust_if_due(int(at_ms[first])):
                end = int(np.searchsorted(at_ms, self._adjusted_at_ms + self._adjust_every_ms, side="right"))
            part = slice(first, end)
            if not self._all_hot:
                hot[part] = latency_ms[part] < self.threshold_ms
            which = first + np.flatnonzero(hot[part])
            within[which] = self._within_rate(at_ms[which], n_pages[which])
            first = end
        return hot, within

    def state(self) -> dict[str, Any]:
        """Return all that time has changed, for :meth:`restore`."""
        return {
            "moved_ms": self._moved_ms,
            "adjusted_at_ms": self._adjusted_at_ms,
            "adjusted_at_candidates": self._adjusted_at_candidates,
            "window_at_ms": self._window_at_ms,
            "window_at_candidates": self._window_at_candidates,
            "n_candidates": self.n_candidates,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, the control of an equal target.

        Raises:
            ValueError: it was of nothing like this.
        """
        found = table(state, "a promotion control", tuple(self.state()))
        numbers = {name: whole(value, 0, TIME_NS_MAX, name) for name, value in found.items()}
        self._moved_ms = numbers["moved_ms"]
        self._adjusted_at_ms = numbers["adjusted_at_ms"]
        self._adjusted_at_candidates = numbers["adjusted_at_candidates"]
        self._window_at_ms = numbers["window_at_ms"]
        self._window_at_candidates = numbers["window_at_candidates"]
        self.n_candidates = numbers["n_candidates"]

    def _adjust_if_due(self, now_ms: int) -> bool:
        """Move the threshold if it is time; return whether it moves at all."""
        if self._all_hot or self._pages_per_s is None:
            return False
        if (now_ms - self._adjusted_at_ms) & _U32 <= self._adjust_every_ms:
            return True
        self._adjusted_at_ms = now_ms
        room = self._pages_per_s * self._adjust_every_ms // _MS_PER_S
        seen = self.n_candidates - self._adjusted_at_candidates
        step_ms = self._default_ms * 2 // NUMA_MIGRATION_ADJUST_STEPS
        threshold_ms = self.threshold_ms
        if seen > room * 11 // 10:
            threshold_ms = max(threshold_ms - step_ms, step_ms)
        elif seen < room * 9 // 10:
            threshold_ms = min(threshold_ms + step_ms, self._default_ms * 2)
        self._adjusted_at_candidates = self.n_candidates
        self._moved_ms = threshold_ms
        return True

    def _open_window_if_due(self, now_ms: int, n_candidates: int) -> None:
        """Begin a window with a candidate, which is counted in ``n_candidates``, if the last one is over."""
        if (now_ms - self._window_at_ms) & _U32 > _MS_PER_S:
            self._window_at_ms, self._window_at_candidates = now_ms, n_candidates

    def _within_rate(self, at_ms: NDArray[np.int64], n_pages: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Count candidates and return which of them the rate limit lets through."""
        counts = self.n_candidates + np.cumsum(n_pages)
        within = np.ones(len(at_ms), dtype=np.bool_)
        first = 0
        while self._pages_per_s is not None and first < len(at_ms):
            self._open_window_if_due(int(at_ms[first]), int(counts[first]))
            end = int(np.searchsorted(at_ms, self._window_at_ms + _MS_PER_S, side="right"))
            within[first:end] = counts[first:end] - self._window_at_candidates < self._pages_per_s
            first = end
        if len(counts):
            self.n_candidates = int(counts[-1])
        return within
