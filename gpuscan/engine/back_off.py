"""Refused folios waiting to be READY again, and how often each was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.documents import array, table, wholes


class Backoff:
    """Claimed folios by the tick at which they are due.

    A folio is in here once per refused request: one that was marked anew while it waited
    may be claimed and refused again. Attempts are remembered past the release, until the
    folio is moved, dropped or freed.
    """

    def __init__(self) -> None:
        self._due: dict[int, list[tuple[NDArray[np.int64], NDArray[Any]]]] = {}
        # By flat index: batches are small and many, so each must cost what it holds,
        # not what waits already (a full target refuses hundreds of thousands of folios).
        self._waiting: Counter[int] = Counter()
        self._attempts: dict[int, int] = {}

    def __len__(self) -> int:
        """Requests waiting."""
        return self._waiting.total()

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
        """Keep claimed folios until ``due_tick``, for which each is kept at most once."""
        if len(flats):
            self._due.setdefault(due_tick, []).append((flats, words))
            self._waiting.update(flats.tolist())

    def due(self, tick: int) -> list[tuple[NDArray[np.int64], NDArray[Any]]]:
        """Take out the folios due at ``tick`` or before.

        Returns:
            Heads and claimed words for each tick at which some were due, the last tick first:
            put back in this order, the newest request of a folio is the one that stands.
        """
        taken = []
        for key in sorted((key for key in self._due if key <= tick), reverse=True):
            parts = self._due.pop(key)
            flats = np.concatenate([flats for flats, _ in parts])
            for flat in flats.tolist():
                self._waiting[flat] -= 1
                if not self._waiting[flat]:
                    del self._waiting[flat]
            taken.append((flats, np.concatenate([words for _, words in parts])))
        return taken

    def freed(self, flats: NDArray[np.int64]) -> int:
        """Take out folios that were freed while waiting; return how many requests end with that."""
        gone = [flat for flat in flats.tolist() if flat in self._waiting]
        if gone:
            taken = np.array(gone, dtype=np.int64)
            for parts in self._due.values():
                for index, (waiting, words) in enumerate(parts):
                    keep = ~np.isin(waiting, taken)
                    parts[index] = waiting[keep], words[keep]
        self.settled(flats)
        return sum(self._waiting.pop(flat) for flat in gone)

    def state(self) -> dict[str, Any]:
        """Return all there is to know, for :meth:`restore`."""
        ticks = sorted(self._due)
        parts = [part for tick in ticks for part in self._due[tick]]
        return {
            "due_ticks": ticks,
            "n_due": [sum(len(flats) for flats, _ in self._due[tick]) for tick in ticks],
            "flats": np.concatenate([np.empty(0, dtype=np.int64), *(flats for flats, _ in parts)]),
            "words": np.concatenate([words for _, words in parts]) if parts else np.empty(0, dtype=np.uint32),
            "refused": np.fromiter(self._attempts, dtype=np.int64, count=len(self._attempts)),
            "attempts": np.fromiter(self._attempts.values(), dtype=np.int64, count=len(self._attempts)),
        }

    def restore(self, state: Mapping[str, Any], n_pages: int, word: Any) -> None:
        """Become what :meth:`state` was taken of.

        Args:
            state: see above.
            n_pages: flat pages of the store.
            word: dtype of its records.

        Raises:
            ValueError: it was of another store.
        """
        names = ("due_ticks", "n_due", "flats", "words", "refused", "attempts")
        found = table(state, "the back-off", names)
        flats = array(found["flats"], np.int64, "flats", lowest=0, end=n_pages)
        words = array(found["words"], word if len(flats) else np.uint32, "words", n=len(flats))
        refused = array(found["refused"], np.int64, "refused", lowest=0, end=n_pages)
        attempts = array(found["attempts"], np.int64, "attempts", n=len(refused), lowest=1)
        ticks = wholes(found["due_ticks"], 0, INT64_MAX, "due_ticks")
        n_due = wholes(found["n_due"], 1, len(flats), "n_due", len(ticks))
        if sorted(set(ticks)) != ticks or sum(n_due) != len(flats):
            raise ValueError("the folios that back off are not due at different ticks, each of them once")
        self._due = {}
        end = 0
        for tick, n in zip(ticks, n_due, strict=True):
            part = slice(end, end + n)
            self._due[tick] = [(flats[part], words[part])]
            end += n
        self._waiting = Counter(flats.tolist())
        self._attempts = dict(zip(refused.tolist(), attempts.tolist(), strict=True))
