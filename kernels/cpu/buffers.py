"""Staging segments and plan arrays, reused: first touch of fresh memory costs more than a scan."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Segment
from gpuscan.kernels.cpu.claim import GATHERED_LENGTH, N_RUNS, N_STAGED, STATE_LENGTH

SEGMENT_FOLIOS = 32_768
"""Claims a staging segment holds, 6 bytes each with 4-byte records: a whole section, 192 KiB."""
LARGE_SEGMENT_FOLIOS = 8 * SEGMENT_FOLIOS
"""Of a segment where many claims are expected: each takes two calls of a kernel."""
SEGMENT_RUNS = 4096
"""Sections that the claims of a segment are in."""

_KEEP_SHARE = 16
"""Idle buffers of one kind are kept up to 1/16 of the records' bytes, or the bytes below in a small
store. With 4-byte records, a 1 % dense store takes 3 % for its plan and 1.5 % for staging."""
_KEEP_BYTES = 16 << 20


def empty_segment(record_dtype: np.dtype[Any], n_folios: int) -> Segment:
    """Return a segment for ``n_folios`` claims in which nothing is staged."""
    return Segment(
        lows=np.empty(n_folios, dtype=np.uint16),
        words=np.empty(n_folios, dtype=record_dtype),
        runs=np.empty((SEGMENT_RUNS, 2), dtype=np.int64),
        state=np.zeros(STATE_LENGTH, dtype=np.int64),
    )


def claimed_flats(segment: Segment) -> NDArray[np.int64]:
    """Return int64[n], the pages whose claims are staged."""
    runs = segment.runs[: segment.state[N_RUNS]]
    section = np.repeat(runs[:, 0], np.diff(runs[:, 1], prepend=0))
    return (section << 15) + segment.lows[: segment.state[N_STAGED]].astype(np.int64)


class Buffers:
    """The idle buffers of one store. ``deque`` operations are atomic, so no lock is needed."""

    def __init__(self, record_dtype: np.dtype[Any], record_bytes: int) -> None:
        self.record_dtype = record_dtype
        self.keep_bytes = max(record_bytes // _KEEP_SHARE, _KEEP_BYTES)
        self._folio_bytes = 8 + record_dtype.itemsize
        self._segments: dict[int, deque[Segment]] = {}
        for n_folios in (SEGMENT_FOLIOS, LARGE_SEGMENT_FOLIOS):
            segment_bytes = n_folios * (2 + record_dtype.itemsize) + SEGMENT_RUNS * 16
            self._segments[n_folios] = deque(maxlen=self.keep_bytes // segment_bytes)
        self._plans: deque[tuple[NDArray[np.int64], NDArray[Any]]] = deque(maxlen=1)
        self._gathered: deque[NDArray[np.int64]] = deque(maxlen=64)
        self._orders: deque[NDArray[np.int64]] = deque(maxlen=1)

    def segment(self, *, large: bool = False) -> Segment:
        """Return a segment; what is in it is to be overwritten."""
        n_folios = LARGE_SEGMENT_FOLIOS if large else SEGMENT_FOLIOS
        try:
            return self._segments[n_folios].pop()
        except IndexError:
            return empty_segment(self.record_dtype, n_folios)

    def give_segment(self, segment: Segment) -> None:
        """Take a segment back."""
        self._segments[len(segment.words)].append(segment)

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

    def plan(self, n_folios: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Return flat and word arrays of at least ``n_folios``."""
        try:
            flats, words = self._plans.pop()
        except IndexError:
            pass
        else:
            if len(flats) >= n_folios:
                return flats, words
        room = n_folios + n_folios // 8
        return np.empty(room, dtype=np.int64), np.empty(room, dtype=self.record_dtype)

    def give_plan(self, flats: NDArray[np.int64], words: NDArray[Any]) -> None:
        """Take plan arrays back, if they are not too large to keep."""
        if len(flats) * self._folio_bytes <= self.keep_bytes:
            self._plans.append((flats, words))
