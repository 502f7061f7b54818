"""Staging segments and plan arrays, reused: first touch of fresh memory costs more than a scan."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Segment
from gpuscan.kernels.cpu.claim import GATHERED_LENGTH, STATE_LENGTH

SEGMENT_FOLIOS = 32_768
"""Claims a staging segment holds: a whole section, 256 KiB."""
LARGE_SEGMENT_FOLIOS = 8 * SEGMENT_FOLIOS
"""Of a segment where many claims are expected: each takes two calls of a kernel."""
_KEEP_SHARE = 16
"""Idle buffers of one kind are kept up to 1/16 of what a store has in memory, or the bytes below in a small
one. With 4-byte records, a 1 % dense store takes 2 % for its plan and 2 % for staging."""
_KEEP_BYTES = 16 << 20


def empty_segment(n_folios: int) -> Segment:
    """Return a segment for ``n_folios`` claims in which nothing is staged."""
    return Segment(np.empty(n_folios, dtype=np.int64), np.zeros(STATE_LENGTH, dtype=np.int64))


class Buffers:
    """The idle buffers of one store. ``deque`` operations are atomic, so no lock is needed.

    Args:
        memory_bytes: of the store's arrays in memory; of records as if each had 4 bytes, since a claim
            takes the same whatever its record's width.
    """

    def __init__(self, memory_bytes: int) -> None:
        self.keep_bytes = max(memory_bytes // _KEEP_SHARE, _KEEP_BYTES)
        self._segments: dict[int, deque[Segment]] = {
            n_folios: deque(maxlen=self.keep_bytes // (8 * n_folios))
            for n_folios in (SEGMENT_FOLIOS, LARGE_SEGMENT_FOLIOS)
        }
        self._plans: deque[NDArray[np.int64]] = deque(maxlen=1)
        self._gathered: deque[NDArray[np.int64]] = deque(maxlen=64)
        self._orders: deque[NDArray[np.int64]] = deque(maxlen=1)

    def segment(self, *, large: bool = False) -> Segment:
        """Return a segment; what is in it is to be overwritten."""
        n_folios = LARGE_SEGMENT_FOLIOS if large else SEGMENT_FOLIOS
        try:
            return self._segments[n_folios].pop()
        except IndexError:
            return empty_segment(n_folios)

    def give_segment(self, segment: Segment) -> None:
        """Take a segment back."""
        self._segments[len(segment.claims)].append(segment)

    def gathered(self) -> NDArray[np.int64]:
        """Return scratch for candidates, int64[GATHERED_LENGTH, 2]."""
        try:
            return self._gathered.pop()
        except IndexError:
            return np.empty((GATHERED_LENGTH, 2), dtype=np.int64)

    def give_gathered(self, gathered: NDArray[np.int64]) -> None:
        """Take scratch back."""
        self._gathered.append(gathered)

    def order(self, n_items: int) -> NDArray[np.int64]:
        """Return room for the order of at least so many items of a producer."""
        try:
            order = self._orders.pop()
        except IndexError:
            pass
        else:
            if len(order) >= n_items:
                return order
        return np.empty(n_items, dtype=np.int64)

    def give_order(self, order: NDArray[np.int64]) -> None:
        """Take it back, if it is not too large to keep."""
        if order.nbytes <= self.keep_bytes:
            self._orders.append(order)

    def plan(self, n_folios: int) -> NDArray[np.int64]:
        """Return room for a plan of at least ``n_folios`` claims."""
        try:
            plan = self._plans.pop()
        except IndexError:
            pass
        else:
            if len(plan) >= n_folios:
                return plan
        return np.empty(n_folios + n_folios // 8, dtype=np.int64)

    def give_plan(self, plan: NDArray[np.int64]) -> None:
        """Take it back, if it is not too large to keep."""
        if plan.nbytes <= self.keep_bytes:
            self._plans.append(plan)
