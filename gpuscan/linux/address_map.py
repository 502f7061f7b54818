"""Which process and address a folio on the list of candidates stands for.

move_pages(2) takes addresses, the store knows page frames. Only candidates are in here,
not the machine.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from enum import IntFlag

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import INT64_MAX, ArraySpec, check_arrays, whole

_HEADS = (ArraySpec("heads", "int64"),)
_FOLIOS = (
    *_HEADS,
    ArraySpec("addresses", "int64", values=(0, 1 << 63)),
    ArraySpec("orders", "int64", values=(0, 64)),
)
_PUT = (*_FOLIOS, ArraySpec("traits", "int64", values=(0, 1 << 3)))


class Trait(IntFlag):
    """What moving a folio takes into account."""

    SHARED = 1
    """Several processes map it, all of them watched."""
    ALWAYS = 2
    """And it moves whoever maps it: a policy says so."""
    HUGETLB = 4
    """A page of hugetlbfs."""


@dataclass(frozen=True, slots=True, eq=False)
class Entries:
    """What folios stand for.

    Attributes:
        head: int64[n], PFN of the first page.
        address: int64[n], of a mapped page.
        order: int64[n].
        process: int64[n], its number.
        seen_tick: int64[n], when it was last seen.
        since_ns: int64[n], when it was first seen.
        traits: int64[n], bits of :class:`Trait`.
    """

    head: NDArray[np.int64]
    address: NDArray[np.int64]
    order: NDArray[np.int64]
    process: NDArray[np.int64]
    seen_tick: NDArray[np.int64]
    since_ns: NDArray[np.int64]
    traits: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.head)

    @property
    def _columns(self) -> tuple[NDArray[np.int64], ...]:
        return tuple(getattr(self, name) for name in _COLUMNS)

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Entries:
        """Return a part of them."""
        return Entries(*(column[which] for column in self._columns))

    def put(self, where: NDArray[np.intp], others: Entries) -> None:
        """Overwrite some of them."""
        for column, other in zip(self._columns, others._columns, strict=True):
            column[where] = other

    def merged(self, others: Entries) -> Entries:
        """Return both together, ascending by head."""
        columns = [np.concatenate(pair) for pair in zip(self._columns, others._columns, strict=True)]
        return Entries(*columns).take(np.argsort(columns[0], kind="stable"))


_COLUMNS = tuple(one.name for one in fields(Entries))


def _blank(n: int) -> Entries:
    return Entries(*(np.zeros(n, dtype=np.int64) for _ in _COLUMNS))


class AddressMap:
    """Folios by the PFN of their first page."""

    def __init__(self) -> None:
        self._entries = _blank(0)
        self._is_in = np.empty(0, dtype=np.bool_)
        """bool[n], false where one was dropped: each batch drops its own, and taking them out copies all."""
        self._n_in = 0
        self.planned = np.empty(0, dtype=np.int64)
        """Heads that a dry run planned to move, ascending: there is nothing more to plan for them."""

    def __len__(self) -> int:
        return self._n_in

    def put(
        self,
        heads: NDArray[np.int64],
        addresses: NDArray[np.int64],
        orders: NDArray[np.int64],
        process: int,
        tick: int,
        now_ns: int = 0,
        traits: NDArray[np.int64] | None = None,
    ) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Enter folios of one process, or enter them again.

        Args:
            heads: int64[n], distinct.
            addresses: int64[n], of any mapped page of each.
            orders: int64[n].
            process: its number.
            tick: when they were seen.
            now_ns: the same by a clock.
            traits: int64[n], bits of :class:`Trait`; None for none.

        Returns:
            bool[n], which are new; and bool[n], which stood for something else before: the frame
            was freed and given out again meanwhile.
        """
        if traits is None:
            traits = np.zeros(len(heads), dtype=np.int64)
        given = check_arrays("address map: put", _PUT, (heads, addresses, orders, traits), {})
        heads, addresses, orders, traits = given
        process, tick = whole("address map: process", process), whole("address map: tick", tick)
        now_ns = whole("address map: now_ns", now_ns)
        self._take_out()
        numbers, ticks, times = (np.full(len(heads), one, dtype=np.int64) for one in (process, tick, now_ns))
        fresh = Entries(heads, addresses, orders, numbers, ticks, times, traits)
        place, known = self._places(heads)
        reused = np.zeros(len(heads), dtype=np.bool_)
        if known.any():
            old, again = self._entries.take(place[known]), fresh.take(known)
            # Of a large folio another page may have been seen first.
            other_page = (again.order == 0) & (old.address != again.address)
            is_reused = (old.process != process) | (old.order != again.order) | other_page
            reused[known] = is_reused
            again.since_ns[~is_reused] = old.since_ns[~is_reused]
            self._entries.put(place[known], again)
        new = ~known
        if new.any():
            self._entries = self._entries.merged(fresh.take(new))
            self._keep_all()
        return new, reused

    def find(self, heads: NDArray[np.int64]) -> tuple[Entries, NDArray[np.bool_]]:
        """Return the entries of folios (those not known are not valid), and bool[n]: which are known."""
        (heads,) = check_arrays("address map: find", _HEADS, (heads,), {})
        place, known = self._places(heads)
        if not len(self._entries):
            return _blank(len(heads)), known
        return self._entries.take(place), known

    def drop(self, heads: NDArray[np.int64]) -> None:
        """Forget folios."""
        (heads,) = check_arrays("address map: drop", _HEADS, (heads,), {})
        place, known = self._places(heads)
        self._is_in[place[known]] = False
        self._n_in = int(np.count_nonzero(self._is_in))
        if self._n_in < len(self._entries) // 2:
            self._take_out()

    def _take_out(self) -> None:
        """Take out what was dropped."""
        if self._n_in < len(self._entries):
            self._entries = self._entries.take(self._is_in)
            self._keep_all()

    def _keep_all(self) -> None:
        self._n_in = len(self._entries)
        self._is_in = np.ones(self._n_in, dtype=np.bool_)

    def stale(self, before_tick: int) -> NDArray[np.int64]:
        """Return the heads of folios that were last seen before a tick."""
        before_tick = whole("address map: before_tick", before_tick, -INT64_MAX)
        return self._entries.head[self._is_in & (self._entries.seen_tick < before_tick)]

    def of_process(self, process: int) -> NDArray[np.int64]:
        """Return the heads of the folios of a process, by its number."""
        process = whole("address map: process", process)
        heads: NDArray[np.int64] = self._entries.head[self._is_in & (self._entries.process == process)]
        return heads

    def pages_by_process(self, heads: NDArray[np.int64] | None = None) -> dict[int, int]:
        """Return how many base pages the folios of each process have, by its number.

        Args:
            heads: int64[n], of those that count, as far as they are in here; None for all.
        """
        if heads is None:
            entries = self._entries.take(self._is_in)
        else:
            found, known = self.find(heads)
            entries = found.take(known)
        numbers, place = np.unique(entries.process, return_inverse=True)
        n_pages = np.bincount(place, weights=(1 << entries.order).astype(np.float64), minlength=len(numbers))
        return dict(zip(numbers.tolist(), n_pages.astype(np.int64).tolist(), strict=True))

    def plan_once(self, heads: NDArray[np.int64]) -> None:
        """Note folios that a dry run planned."""
        (heads,) = check_arrays("address map: plan_once", _HEADS, (heads,), {})
        self.planned = np.union1d(self.planned, heads)

    def _places(self, heads: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.bool_]]:
        own = self._entries.head
        if not len(own):
            return np.zeros(len(heads), dtype=np.intp), np.zeros(len(heads), dtype=np.bool_)
        place = np.minimum(np.searchsorted(own, heads), len(own) - 1)
        return place, (own[place] == heads) & self._is_in[place]
