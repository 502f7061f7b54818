"""Where a workload's pages are, sampled while something may move them, and what that says."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES

from .processes import Pair, Workload

SAMPLE_S = 0.2
HOT_SAMPLE_S = 0.05
"""Where an end is waited for, the hot pages alone are looked at so often: that takes 6 ms in the guest, all
128 MiB take 22 ms, of the CPU that gpuscan and kdamond have."""
HOT_FOR_S = 1.0
"""A page that moved counts as cold when it was not hot in the second before, a sample's length aside."""


@dataclass
class Observed:
    """Samples of one workload.

    Attributes:
        near_nid: the node that hot pages belong on.
        t_s: seconds from the beginning, per sample.
        hot_near: share of the hot pages that are near, per sample.
        n_arrived: pages that came near between two samples, in all.
        n_arrived_cold: those of them that were not hot.
        n_arrived_elsewhere: pages that came onto any other node, likewise.
    """

    near_nid: int
    t_s: list[float] = field(default_factory=list)
    hot_near: list[float] = field(default_factory=list)
    n_arrived: int = 0
    n_arrived_cold: int = 0
    n_arrived_elsewhere: int = 0

    def share_at(self, t_s: float) -> float | None:
        """Return the share of hot pages that were near at ``t_s``, or None if it ended before."""
        later = [share for at_s, share in zip(self.t_s, self.hot_near, strict=True) if at_s >= t_s]
        return later[0] if later else None

    def share_each_s(self) -> list[float]:
        """Return the share after each whole second that was observed."""
        shares = (self.share_at(second) for second in range(1, int(self.t_s[-1]) + 1))
        return [round(share, 4) for share in shares if share is not None]

    def time_to(self, share: float) -> float | None:
        """Return when so much of the hot set was near for the first time."""
        reached = [at_s for at_s, seen in zip(self.t_s, self.hot_near, strict=True) if seen >= share]
        return reached[0] if reached else None


def observe(
    workload: Workload, near_nid: int, for_s: float, *, began_s: float, until_share: float | None = None
) -> Observed:
    """Sample until ``for_s`` seconds after ``began_s`` (of the monotonic clock), or until a share is near."""
    seen = Observed(near_nid)
    last_hot_s = np.full(workload.n_bytes // PAGE_BYTES, -np.inf)
    before: NDArray[np.int64] | None = None
    whole_s = -np.inf
    while True:
        lo, hi = (offset // PAGE_BYTES for offset in workload.hot())
        now_s = time.monotonic() - began_s
        last_hot_s[lo:hi] = now_s
        share = float((workload.nodes(lo, hi) == near_nid).mean()) if until_share is not None else 0.0
        is_last = now_s >= for_s or (until_share is not None and share >= until_share)
        if is_last or now_s - whole_s >= SAMPLE_S:
            whole_s = now_s
            nodes = workload.nodes()
            near = nodes == near_nid
            if before is not None:
                moved = (nodes != before) & (nodes >= 0) & (before >= 0)
                arrived = near & moved
                seen.n_arrived += int(arrived.sum())
                seen.n_arrived_cold += int((arrived & (last_hot_s < now_s - HOT_FOR_S - SAMPLE_S)).sum())
                seen.n_arrived_elsewhere += int((moved & ~near).sum())
            before = nodes
            if until_share is None:
                share = float(near[lo:hi].mean())
        seen.t_s.append(now_s)
        seen.hot_near.append(share)
        if is_last:
            return seen
        time.sleep(SAMPLE_S if until_share is None else HOT_SAMPLE_S)


@dataclass
class PairObserved:
    """Samples of two processes.

    Attributes:
        t_s: seconds from the beginning, per sample.
        right: share of all their pages that are on the node of their process, per sample.
        n_right, n_wrong: pages that came onto a node between two samples, that of their process or another.
    """

    t_s: list[float] = field(default_factory=list)
    right: list[float] = field(default_factory=list)
    n_right: int = 0
    n_wrong: int = 0


def observe_pair(pair: Pair, for_s: float, *, began_s: float) -> PairObserved:
    """Sample where the pages of two processes are, until ``for_s`` seconds after ``began_s``.

    A process belongs on the node of its CPU, which in the guest has the same number.
    """
    seen = PairObserved()
    before: list[NDArray[np.int64]] = []
    while True:
        now_s = time.monotonic() - began_s
        nodes = [pair.nodes(which) for which in range(len(pair.pids))]
        right = [found == nid for found, nid in zip(nodes, pair.cpus, strict=True)]
        for now, was, at_home in zip(nodes, before, right, strict=False):
            moved = (now != was) & (now >= 0) & (was >= 0)
            seen.n_right += int((moved & at_home).sum())
            seen.n_wrong += int((moved & ~at_home).sum())
        before = nodes
        seen.t_s.append(now_s)
        seen.right.append(float(np.concatenate(right).mean()))
        if now_s >= for_s:
            return seen
        time.sleep(SAMPLE_S)
