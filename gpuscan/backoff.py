"""Refused folios waiting to be READY again, and how often each was refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray


class Backoff:
    """Claimed folios by the tick at which they are due; a folio is in here at most once.

    Attempts are remembered past the release, until the folio is moved, dropped or freed.
    """

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._due: dict[int, list[tuple[NDArray[np.int64], NDArray[Any]]]] = {}
        self._dtype = dtype
        # Sets by flat index: batches are small and many, so each must cost what it holds,
        # not what waits already (a full target refuses hundreds of thousands of folios).
        self._waiting: set[int] = set()
        self._attempts: dict[int, int] = {}

    def __len__(self) -> int:
        """Folios waiting."""
        return len(self._waiting)

    def refused(self, flats: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count one more refusal of each of ``flats`` (int64[n], distinct); return the attempts so far."""
        attempts = self._attempts
        for flat in flats.tolist():
            attempts[flat] = attempts.get(flat, 0) + 1
        return np.array([attempts[flat] for flat in flats.tolist()], dtype=np.int64)

    def settled(self, flats: NDArray[np.int64]) -> None:
        """Forget the attempts of folios that were moved, dropped or freed."""
        if self._attempts:
            for flat in flats.tolist():
                self._attempts.pop(flat, None)

    def wait(self, flats: NDArray[np.int64], words: NDArray[Any], due_tick: int) -> None:
        """Keep claimed folios until ``due_tick``."""
        if len(flats):
            self._due.setdefault(due_tick, []).append((flats, words))
            self._waiting.update(flats.tolist())

    def due(self, tick: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Take out the folios due at ``tick`` or before: their heads and claimed words."""
        return self._collect(part for key in sorted(self._due) if key <= tick for part in self._due.pop(key))

    def freed(self, flats: NDArray[np.int64]) -> int:
        """Take out folios that were freed while waiting; return how many there were."""
        gone = self._waiting.intersection(flats.tolist())
        if gone:
            self._waiting -= gone
            taken = np.fromiter(gone, dtype=np.int64, count=len(gone))
            for parts in self._due.values():
                for index, (waiting, words) in enumerate(parts):
                    keep = ~np.isin(waiting, taken)
                    parts[index] = waiting[keep], words[keep]
        self.settled(flats)
        return len(gone)

    def _collect(
        self, parts: Iterator[tuple[NDArray[np.int64], NDArray[Any]]]
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        taken = list(parts)
        if not taken:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=self._dtype)
        flats = np.concatenate([flats for flats, _ in taken])
        self._waiting.difference_update(flats.tolist())
        return flats, np.concatenate([words for _, words in taken])
