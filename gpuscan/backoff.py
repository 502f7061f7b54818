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
        self._flat = np.empty(0, dtype=np.int64)  # ascending, folios with attempts
        self._attempts = np.empty(0, dtype=np.int64)

    def __len__(self) -> int:
        """Folios waiting."""
        return sum(len(flats) for parts in self._due.values() for flats, _ in parts)

    def refused(self, flats: NDArray[np.int64]) -> NDArray[np.int64]:
        """Count one more refusal of each of ``flats`` (int64[n], distinct); return the attempts so far."""
        merged = np.union1d(self._flat, flats)
        attempts = np.zeros(len(merged), dtype=np.int64)
        attempts[np.searchsorted(merged, self._flat)] = self._attempts
        positions = np.searchsorted(merged, flats)
        attempts[positions] += 1
        self._flat, self._attempts = merged, attempts
        return attempts[positions]

    def settled(self, flats: NDArray[np.int64]) -> None:
        """Forget the attempts of folios that were moved, dropped or freed."""
        if len(self._flat) and len(flats):
            keep = ~np.isin(self._flat, flats)
            self._flat, self._attempts = self._flat[keep], self._attempts[keep]

    def wait(self, flats: NDArray[np.int64], words: NDArray[Any], due_tick: int) -> None:
        """Keep claimed folios until ``due_tick``."""
        if len(flats):
            self._due.setdefault(due_tick, []).append((flats, words))

    def due(self, tick: int) -> tuple[NDArray[np.int64], NDArray[Any]]:
        """Take out the folios due at ``tick`` or before: their heads and claimed words."""
        return self._collect(part for key in sorted(self._due) if key <= tick for part in self._due.pop(key))

    def freed(self, flats: NDArray[np.int64]) -> int:
        """Take out folios that were freed while waiting; return how many there were."""
        before = len(self)
        if before:
            for parts in self._due.values():
                for index, (waiting, words) in enumerate(parts):
                    keep = ~np.isin(waiting, flats)
                    parts[index] = waiting[keep], words[keep]
        self.settled(flats)
        return before - len(self)

    def _collect(
        self, parts: Iterator[tuple[NDArray[np.int64], NDArray[Any]]]
    ) -> tuple[NDArray[np.int64], NDArray[Any]]:
        taken = list(parts)
        if not taken:
            return np.empty(0, dtype=np.int64), np.empty(0, dtype=self._dtype)
        return np.concatenate([flats for flats, _ in taken]), np.concatenate([words for _, words in taken])
