"""Where a workload's pages are, sampled while something may move them, and what that says."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES

from .processes import Workload

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
    """

    near_nid: int
    t_s: list[float] = field(default_factory=list)
    hot_near: list[float] = field(default_factory=list)
    n_arrived: int = 0
    n_arrived_cold: int = 0

    def share_at(self, t_s: float) -> float | None:
        """Return the share of hot pages that were near at ``t_s``, or None if it ended before."""
        later = [share for at_s, share in zip(self.t_s, self.hot_near, strict=True) if at_s >= t_s]
        return later[0] if later else None

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
    was_near: NDArray[np.bool_] | None = None
    whole_s = -np.inf
    while True:
        lo, hi = (offset // PAGE_BYTES for offset in workload.hot())
        now_s = time.monotonic() - began_s
        last_hot_s[lo:hi] = now_s
        share = float((workload.nodes(lo, hi) == near_nid).mean()) if until_share is not None else 0.0
        is_last = now_s >= for_s or (until_share is not None and share >= until_share)
        if is_last or now_s - whole_s >= SAMPLE_S:
            whole_s = now_s
            near = workload.nodes() == near_nid
            if was_near is not None:
                arrived = near & ~was_near
                seen.n_arrived += int(arrived.sum())
                seen.n_arrived_cold += int((arrived & (last_hot_s < now_s - HOT_FOR_S - SAMPLE_S)).sum())
            was_near = near
            if until_share is None:
                share = float(near[lo:hi].mean())
        seen.t_s.append(now_s)
        seen.hot_near.append(share)
        if is_last:
            return seen
        time.sleep(SAMPLE_S if until_share is None else HOT_SAMPLE_S)
