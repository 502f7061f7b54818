"""Thresholds that find themselves: ``hot = "auto"`` and ``cold_after = "auto"``.

As the kernel's own promotion does (numa_promotion_adjust_threshold(), kernel/sched/fair.c, v6.12): where more
is found than may move, only what is hotter is taken, and less strictly again where budget is left over.
"""

from __future__ import annotations

PERIOD_NS = 1_000_000_000
_CALM_PERIODS = 5


class HotLooks:
    """How many looks must find a page accessed.

    Args:
        least, most: bounds.
    """

    def __init__(self, least: int, most: int) -> None:
        self._least, self._most = least, most
        self.looks = least
        self._moved = self._held = self._calm = 0
        self._elapsed_ns = 0

    def heard(self, n_moved: int, n_held: int) -> None:
        """Hear how many base pages moved, and how many a budget held back."""
        self._moved += n_moved
        self._held += n_held

    def pass_time(self, ns: int) -> None:
        """Let time pass; once a period is over, take in what was heard in it."""
        self._elapsed_ns += ns
        if self._elapsed_ns < PERIOD_NS:
            return
        if self._held > self._moved:
            self.looks, self._calm = min(self._most, self.looks + 1), 0
        elif not self._held:
            self._calm += 1
            if self._calm >= _CALM_PERIODS:
                self.looks, self._calm = max(self._least, self.looks - 1), 0
        self._elapsed_ns = self._moved = self._held = 0


class ColdAfter:
    """How long a page must not have been accessed to be cold.

    Args:
        least_ns, most_ns: bounds; it begins in their middle, as factors go.
    """

    def __init__(self, least_ns: int, most_ns: int) -> None:
        self._least_ns, self._most_ns = least_ns, most_ns
        self.ns = int((least_ns * most_ns) ** 0.5)
        self._is_short = False
        self._elapsed_ns = 0

    def heard_short(self) -> None:
        """Hear that hot pages found no room above."""
        self._is_short = True

    def pass_time(self, ns: int) -> None:
        """Let time pass; after each period without room it is halved, after each other one a bit longer."""
        self._elapsed_ns += ns
        if self._elapsed_ns < PERIOD_NS:
            return
        factor = 0.5 if self._is_short else 1.02
        self.ns = int(min(self._most_ns, max(self._least_ns, self.ns * factor)))
        self._elapsed_ns, self._is_short = 0, False
