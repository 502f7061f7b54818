"""The rate limit and moving threshold of NUMA balancing mode 2, for each target of a design.

kpromoted and pghot moved ``numa_promotion_rate_limit()`` and ``numa_promotion_adjust_threshold()`` from
kernel/sched/fair.c to mm/pghot.c: :mod:`gpuscan.producers.promotion`. What counts a candidate as promoted
without a limit, the free-memory bypass, is up to the caller.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from copy import copy
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.distinct import distinct
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

    def admits(self, nid: int, n_pages: int, latency: int, now_ms: int) -> tuple[bool, int]:
        """Return whether a folio may be promoted to ``nid``, and how many base pages count as candidates.

        Args:
            nid: the target.
            n_pages: base pages of the folio.
            latency: since the last access, in the unit that the caller's patch compares with milliseconds.
            now_ms: the time.
        """
        target = self._target(nid)
        before = target.n_candidates
        return target.admits(now_ms, latency, n_pages), target.n_candidates - before

    def admit_each(
        self, nid: int, n_pages: NDArray[np.int64], latencies: NDArray[np.int64], now_ms: int
    ) -> tuple[NDArray[np.bool_], int]:
        """Do :meth:`admits` for folios, one after the other; return bool[n], and base pages of all."""
        target = self._target(nid)
        before = target.n_candidates
        _, within = target.decide(np.full(len(n_pages), now_ms), latencies, n_pages)
        return within, target.n_candidates - before

    def kept(self, nid: int) -> PromotionControl:
        """Return a copy of what is kept of a target, for :meth:`put_back`."""
        return copy(self._target(nid))

    def put_back(self, nid: int, kept: PromotionControl) -> None:
        """Forget what a target was asked since :meth:`kept`."""
        self._targets[nid] = copy(kept)

    def _target(self, nid: int) -> PromotionControl:
        control = self._targets.get(nid)
        if control is None:
            control = PromotionControl(self._default, self._limit_pages, PROMOTION_THRESHOLD_WINDOW_MS)
            self._targets[nid] = control
        return control


class Asked(NamedTuple):
    """Folios that a limit is asked about, in their order.

    Attributes:
        nids, n_pages, latencies: int64[n], see :meth:`PromotionLimit.admits`.
        now_ms: the time.
        at_stake: bool[n], those that come so far; all others pass.
    """

    nids: NDArray[np.int64]
    n_pages: NDArray[np.int64]
    latencies: NDArray[np.int64]
    now_ms: int
    at_stake: NDArray[np.bool_]

    def first(self, n: int) -> Asked:
        """Return the first of them."""
        return Asked(self.nids[:n], self.n_pages[:n], self.latencies[:n], self.now_ms, self.at_stake[:n])


class Admission:
    """Asks a limit about folios ahead of the thread, which may stop at one of them.

    Args:
        limit: the limit.
        asked: the folios.
        has_room: whether a target has so much free memory that it takes all.
    """

    def __init__(self, limit: PromotionLimit, asked: Asked, has_room: Callable[[int], bool]) -> None:
        self._limit, self._asked = limit, asked
        nids = distinct(asked.nids[asked.at_stake])
        self._kept = {nid: limit.kept(nid) for nid in nids}
        self._roomy = [nid for nid in nids if has_room(nid)]
        self._n_candidates, self._n_with_room = 0, 0
        self.admitted = self._ask(len(asked.nids))
        """bool[n], whether each may be promoted."""

    def commit(self, n: int, counters: Counter[str], *, with_room: str | None = None) -> None:
        """Let it be the first ``n`` folios that were asked about, and count what the patches count.

        Args:
            n: of them.
            counters: ``pgpromote_candidate`` is counted there.
            with_room: where base pages are counted that no limit was asked about; None: nowhere.
        """
        if n < len(self._asked.nids):
            for nid, kept in self._kept.items():
                self._limit.put_back(nid, kept)
            self._ask(n)
        counters["pgpromote_candidate"] += self._n_candidates
        if with_room is not None:
            counters[with_room] += self._n_with_room

    def _ask(self, n: int) -> NDArray[np.bool_]:
        asked = self._asked
        admitted = np.ones(len(asked.nids), dtype=np.bool_)
        at_stake = asked.at_stake[:n]
        with_room = np.zeros(n, dtype=np.bool_)
        for nid in self._roomy:
            its = at_stake & (asked.nids[:n] == nid)
            if its.any():
                self._limit.bypass(nid)
                with_room |= its
        self._n_with_room, self._n_candidates = int(asked.n_pages[:n][with_room].sum()), 0
        which = np.flatnonzero(at_stake & ~with_room)
        for nid in distinct(asked.nids[which]):
            mine = which[asked.nids[which] == nid]
            admitted[mine], n_candidates = self._limit.admit_each(
                nid, asked.n_pages[mine], asked.latencies[mine], asked.now_ms
            )
            self._n_candidates += n_candidates
        return admitted
