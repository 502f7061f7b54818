"""Staging segments and scratch, reused: first touch of fresh memory costs more than a scan."""

from __future__ import annotations

from collections import deque

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Segment
from gpuscan.kernels.cpu.claim import GATHERED_LENGTH, WAITING_LENGTH
from gpuscan.kernels.cpu.staging import N_STAGED, N_STRIPS, STRIP_CLAIMS, empty_segment, strips_for

_LARGE = 8
"""Times as large are segments where many claims are expected: each takes a call of a kernel."""
_KEEP_SHARE = 16
"""Idle buffers of one kind are kept up to 1/16 of what a store has in memory, or the bytes below in a small
one. With 4-byte records, the plan of a store of which 1 % is READY takes 2 %."""
_KEEP_BYTES = 16 << 20


Scratch = tuple[NDArray[np.int64], NDArray[np.int64]]


class Buffers:
    """The idle buffers of one store. ``deque`` operations are atomic, so no lock is needed.

    Args:
        memory_bytes: of the store's arrays in memory; of records as if each had 4 bytes, since a claim
            takes the same whatever its record's width.
        n_targets, nid_max: targets of the store, and the highest that a record may have.

    Attributes:
        segment_claims: claims for which a segment has memory.
    """

    def __init__(self, memory_bytes: int, n_targets: int, nid_max: int) -> None:
        self.keep_bytes = max(memory_bytes // _KEEP_SHARE, _KEEP_BYTES)
        self._n_targets, self._nid_max = n_targets, nid_max
        self.segment_claims = strips_for(n_targets) * STRIP_CLAIMS
        self._segments: dict[int, deque[Segment]] = {
            n_claims: deque(maxlen=self.keep_bytes // (8 * n_claims))
            for n_claims in (self.segment_claims, _LARGE * self.segment_claims)
        }
        self._scratch: deque[Scratch] = deque(maxlen=64)
        self._orders: deque[NDArray[np.int64]] = deque(maxlen=1)

    def segment(self, *, large: bool = False) -> Segment:
        """Return a segment in which nothing is staged."""
        n_claims = _LARGE * self.segment_claims if large else self.segment_claims
        try:
            segment = self._segments[n_claims].pop()
        except IndexError:
            return empty_segment(n_claims // STRIP_CLAIMS, self._n_targets, self._nid_max)
        # Until a kernel has begun with it there is nothing to be put back.
        segment.state[N_STAGED] = segment.state[N_STRIPS] = 0
        return segment

    def give_segment(self, segment: Segment) -> None:
        """Take a segment back."""
        self._segments[len(segment.claims)].append(segment)

    def scratch(self) -> Scratch:
        """Return scratch for candidates, int64[GATHERED_LENGTH, 2], and for claims, int64[WAITING_LENGTH]."""
        try:
            return self._scratch.pop()
        except IndexError:
            return np.empty((GATHERED_LENGTH, 2), dtype=np.int64), np.empty(WAITING_LENGTH, dtype=np.int64)

    def give_scratch(self, scratch: Scratch) -> None:
        """Take scratch back."""
        self._scratch.append(scratch)

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
