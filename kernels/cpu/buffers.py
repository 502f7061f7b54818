"""Staging segments and plan arrays, reused: first touch of fresh memory costs more than a scan."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.claim import STATE_LENGTH

SEGMENT_FOLIOS = 32_768
"""Claims a staging segment holds: a whole section, 384 KiB with 4-byte records."""

_KEEP_SHARE = 32
"""Idle buffers of one kind are kept up to 1/32 of the records' bytes (the plan of a 1 % dense
store of 4-byte records takes 3 %), or the bytes below in a small store."""
_KEEP_BYTES = 16 << 20


class Segment:
    """Room for claims in flat order.

    Attributes:
        flats: int64[SEGMENT_FOLIOS].
        words: records of the same length.
        state: int64[STATE_LENGTH], see ``claim``.
    """

    __slots__ = ("flats", "state", "words")

    def __init__(self, record_dtype: np.dtype[Any]) -> None:
        self.flats = np.empty(SEGMENT_FOLIOS, dtype=np.int64)
        self.words = np.empty(SEGMENT_FOLIOS, dtype=record_dtype)
        self.state = np.zeros(STATE_LENGTH, dtype=np.int64)


class Buffers:
    """The idle buffers of one store. ``deque`` operations are atomic, so no lock is needed."""

    def __init__(self, record_dtype: np.dtype[Any], record_bytes: int) -> None:
        self.record_dtype = record_dtype
        self.keep_bytes = max(record_bytes // _KEEP_SHARE, _KEEP_BYTES)
        self._folio_bytes = 8 + record_dtype.itemsize
        self._segments: deque[Segment] = deque(maxlen=self.keep_bytes // (SEGMENT_FOLIOS * self._folio_bytes))
        self._plans: deque[tuple[NDArray[np.int64], NDArray[Any]]] = deque(maxlen=2)

    def segment(self) -> Segment:
        """Return an empty segment."""
        try:
            segment = self._segments.pop()
        except IndexError:
            return Segment(self.record_dtype)
        segment.state[:] = 0
        return segment

    def give_segment(self, segment: Segment) -> None:
        """Take a segment back."""
        self._segments.append(segment)

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
