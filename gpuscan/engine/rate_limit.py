"""What each target may still take under a rate: an allowance that grows with time and shrinks with claims.

Unspent allowance is kept for one second, the window of numa_promotion_rate_limit() in
kernel/sched/fair.c. So nodes that are scanned at different intervals share the rate of
a target, and a huge page may be larger than one tick's part.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gpuscan.base.documents import pairs, table, whole
from gpuscan.base.units import PAGE_BYTES

_NS_PER_S = 1_000_000_000
_PAGE = PAGE_BYTES * _NS_PER_S
"""One page in the unit of an allowance, byte nanoseconds: whole numbers, so nothing is lost to rounding."""

_LEFT_MAX = 1 << 126
"""Of an allowance: a rate times a time, 63 bits each."""


class RateLimit:
    """Allowances of all targets.

    Args:
        bytes_per_s: of each target.
        target_nids: the targets.
        interval_ns: longest pause between two claims; allowance is kept for as long where
            that is more than a second.
    """

    def __init__(self, bytes_per_s: int, target_nids: Iterable[int], interval_ns: int) -> None:
        self._bytes_per_s = bytes_per_s
        self._window_ns = max(_NS_PER_S, interval_ns)
        self._left = dict.fromkeys(target_nids, 0)

    def pass_time(self, ns: int) -> None:
        """Let the allowances grow."""
        most = self._bytes_per_s * max(self._window_ns, ns)
        for nid, left in self._left.items():
            self._left[nid] = min(most, left + self._bytes_per_s * ns)

    def spend(self, nid: int, n_pages: int) -> None:
        """Take claimed base pages off a target's allowance, if it has one."""
        if nid in self._left:
            self._left[nid] -= n_pages * _PAGE

    def pages(self) -> dict[int, int]:
        """Return the base pages that each target may take now."""
        return {nid: left // _PAGE for nid, left in self._left.items()}

    def state(self) -> dict[str, Any]:
        """Return what is left, for :meth:`restore`."""
        return {"left": list(self._left.items())}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, a limit of the same targets.

        Raises:
            ValueError: it was of others.
        """
        left = pairs(table(state, "rate_limit", ("left",))["left"], "what is left of the rate limit")
        if {nid for nid, _ in left} != self._left.keys():
            raise ValueError("the rate limit has other targets")
        self._left = {nid: whole(value, -_LEFT_MAX, _LEFT_MAX, "an allowance") for nid, value in left}
