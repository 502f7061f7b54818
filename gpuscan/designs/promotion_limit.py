"""The rate limit and moving threshold of NUMA balancing mode 2, for each target of a design.

kpromoted and pghot moved ``numa_promotion_rate_limit()`` and ``numa_promotion_adjust_threshold()`` from
kernel/sched/fair.c to mm/pghot.c: :mod:`gpuscan.producers.promotion`. What counts a candidate as promoted
without a limit, the free-memory bypass, is up to the caller.
"""

from __future__ import annotations

from collections import Counter

from gpuscan.producers.promotion import PromotionControl

PROMOTION_THRESHOLD_WINDOW_MS = 60_000
_PAGES_PER_MIB = 256
"""With 4 KiB pages: MB_TO_PAGES."""


class PromotionLimit:
    """The limits of all targets.

    Args:
        rate_limit_mbps: MiB per second and target; 0 lets nothing through.
        default_threshold: the threshold to begin with, in ms.
    """

    def __init__(self, rate_limit_mbps: int, default_threshold: int) -> None:
        self._limit_pages = rate_limit_mbps * _PAGES_PER_MIB
        self._default = default_threshold
        self._targets: dict[int, PromotionControl] = {}

    def bypass(self, nid: int) -> None:
        """Forget the threshold of a target that has free memory to spare: the workload changed."""
        self._target(nid).bypass()

    def admits(self, nid: int, n_pages: int, latency: int, now_ms: int, counters: Counter[str]) -> bool:
        """Return whether a folio may be promoted to ``nid``.

        Args:
            nid: the target.
            n_pages: base pages of the folio.
            latency: since the last access, in the unit that the caller's patch compares with milliseconds.
            now_ms: the time.
            counters: ``pgpromote_candidate`` is counted there.
        """
        target = self._target(nid)
        n_candidates = target.n_candidates
        admitted = target.admits(now_ms, latency, n_pages)
        counters["pgpromote_candidate"] += target.n_candidates - n_candidates
        return admitted

    def _target(self, nid: int) -> PromotionControl:
        control = self._targets.get(nid)
        if control is None:
            control = PromotionControl(self._default, self._limit_pages, PROMOTION_THRESHOLD_WINDOW_MS)
            self._targets[nid] = control
        return control
