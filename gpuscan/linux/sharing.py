"""Pages that several processes map, and whether all who map them are watched.

/proc/kpagecount says how often each page is mapped, not by whom (Documentation/admin-guide/mm/pagemap.rst,
fs/proc/page.c). So the page tables of the processes that are watched are looked through: where as many
mappings are found as the kernel counts, nobody else maps the page. Tables of others are not looked at.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.linux.capabilities import Right, effective
from gpuscan.linux.process import Process
from gpuscan.linux.resident import FrameWords, pages_in, pfns_at, words_for
from gpuscan.linux.system import HERE, System

ALL = Right("CAP_SYS_NICE", "to move pages that several processes map")
"""move_pages(2) with MPOL_MF_MOVE_ALL (kernel_move_pages(), mm/migrate.c, v6.12)."""
_READ_NS = 1_000_000_000
_READ_SHARE = 20
"""The tables are read again after as many times as long as reading them took, and not before ``_READ_NS``.
What is looked for between waits as many times as long as that took."""
_MOST_AGAIN = 1 << 16
"""Words of pagemaps that one look may read between: 65 ns each, so 4 ms."""
_NONE = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Mappings:
    """Where watched processes map pages, ascending by PFN, then by the process's number.

    Attributes:
        pfn, process, address: int64[n].
    """

    pfn: NDArray[np.int64]
    process: NDArray[np.int64]
    address: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.pfn)

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Mappings:
        """Return a part of them."""
        return Mappings(self.pfn[which], self.process[which], self.address[which])

    def bounds(
        self, heads: NDArray[np.int64], orders: NDArray[np.int64]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return intp[n] twice: of each folio its first mapping, and the one after its last."""
        ends = heads + (np.int64(1) << orders)
        return np.searchsorted(self.pfn, heads), np.searchsorted(self.pfn, ends)


_NO_MAPPINGS = Mappings(_NONE, _NONE, _NONE)


def _in_order(parts: Sequence[Mappings]) -> Mappings:
    """Return mappings of several as one."""
    if not parts:
        return _NO_MAPPINGS
    found = Mappings(
        np.concatenate([part.pfn for part in parts]),
        np.concatenate([part.process for part in parts]),
        np.concatenate([part.address for part in parts]),
    )
    return found.take(np.lexsort((found.process, found.pfn)))


def rows(first: NDArray[np.intp], end: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return, of ranges ``[first, end)``, which range each of their rows is of, and the rows."""
    lengths = end - first
    starts = np.cumsum(lengths) - lengths
    return np.repeat(np.arange(len(first)), lengths), np.repeat(first - starts, lengths) + np.arange(
        int(lengths.sum())
    )


def _pages(
    heads: NDArray[np.int64], orders: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the PFNs of all pages of folios, and where each folio begins among them."""
    sizes = np.int64(1) << orders
    starts = np.cumsum(sizes) - sizes
    return np.repeat(heads - starts, sizes) + np.arange(int(sizes.sum()), dtype=np.int64), starts


def _all_equal(
    n_found: NDArray[np.int64], n_mapped: NDArray[np.int64], starts: NDArray[np.int64]
) -> NDArray[np.bool_]:
    """Return bool per folio: whether of each page all mappings were found, and there are any."""
    if not len(starts):
        return np.empty(0, dtype=np.bool_)
    equal: NDArray[np.bool_] = np.logical_and.reduceat(n_found == n_mapped, starts)
    return equal & np.logical_or.reduceat(n_found > 0, starts)


def counts_all(n_mapped: NDArray[np.int64], is_hugetlb: NDArray[np.bool_] | bool) -> NDArray[np.bool_]:
    """Return bool[n]: of which shared folios the count is of all who map them.

    Processes share page tables of hugetlbfs, and a page is counted once for each table, not for each
    process (huge_pmd_share(), mm/hugetlb.c, v6.12). A page that several map and that counts as one is in
    such a table.

    Args:
        n_mapped: int64[n], how often the first page of each is mapped.
        is_hugetlb: bool[n], whether they are of hugetlbfs.
    """
    told: NDArray[np.bool_] = ~(is_hugetlb & (n_mapped == 1))
    return told


class Sharing:
    """What is known of who maps shared pages.

    Args:
        system: where they run.
    """

    def __init__(self, system: System = HERE) -> None:
        self._system = system
        self._counts: FrameWords | None = None
        self._is_tried = False
        self._why_not = ""
        self._mappings = _NO_MAPPINGS
        self._processes: dict[int, Process] = {}
        self._read_again_ns = self._look_again_ns = 0
        self._looked_from = 0
        self._looked_in: frozenset[int] = frozenset()
        self._in_vain = _NONE

    def why_not(self) -> str:
        """Return why no shared page can be moved; empty where they can. What it takes is opened."""
        if not self._is_tried:
            self._is_tried = True
            if ALL.name not in effective(self._system):
                self._why_not = f"{ALL.name} is missing"
            else:
                try:
                    self._counts = FrameWords(self._system.root / "proc/kpagecount", self._system)
                except OSError as error:
                    self._why_not = f"/proc/kpagecount cannot be opened ({error.strerror})"
        return self._why_not

    def read(self, processes: Iterable[tuple[int, Process, NDArray[np.int64]]]) -> None:
        """Begin a look: go through the tables of processes, if that is due.

        Args:
            processes: their numbers, and where mappings begin that have shared pages, int64[n], ascending.
        """
        started_ns = self._system.monotonic_ns()
        if started_ns < self._read_again_ns:
            return
        self._processes = {}
        self._in_vain = _NONE
        parts: list[Mappings] = []
        for number, process, starts in processes:
            if not len(starts):
                continue
            known = frozenset(starts.tolist())
            pages = pages_in(process, [(at.start, at.end) for at in process.mappings() if at.start in known])
            pages = pages.take(~pages.exclusive)
            parts.append(Mappings(pages.pfn, np.full(len(pages), number, dtype=np.int64), pages.address))
            self._processes[number] = process
        self._mappings = _in_order(parts)
        ended_ns = self._system.monotonic_ns()
        self._read_again_ns = ended_ns + max(_READ_NS, _READ_SHARE * (ended_ns - started_ns))

    def look_again(
        self, pfns: NDArray[np.int64], addresses: NDArray[np.int64], processes: Mapping[int, Process]
    ) -> None:
        """Look who maps pages since the tables were read, where some are known to have them; once a look.

        What was forked has a page where its parent has it: a server's new process has all of it there within
        milliseconds, and may have ended before the tables are read again. Who has it elsewhere is found then.

        Pages take turns, as addresses go. What was looked for in vain is left out until others are watched or
        the tables were read.

        Args:
            pfns: int64[n], single pages, in any order, some twice.
            addresses: int64[n], where one of the processes has each.
            processes: all that are watched, by their numbers.
        """
        started_ns = self._system.monotonic_ns()
        if not len(pfns) or started_ns < self._look_again_ns:
            return
        if processes.keys() != self._looked_in:
            self._looked_in, self._in_vain = frozenset(processes), _NONE
        pfns, which = np.unique(pfns, return_index=True)
        n_mapped = self.n_mapped(pfns)
        is_missing = (self._n_found(pfns) < n_mapped) & ~np.isin(pfns, self._in_vain)
        turn = self._turn(addresses[which], is_missing, _MOST_AGAIN // max(1, len(processes)))
        if len(turn):
            pfns = pfns[turn]
            self._find(pfns, addresses[which][turn], processes)
            self._in_vain = np.union1d(self._in_vain, pfns[self._n_found(pfns) < n_mapped[turn]])
        ended_ns = self._system.monotonic_ns()
        self._look_again_ns = ended_ns + _READ_SHARE * (ended_ns - started_ns)

    def _turn(
        self, addresses: NDArray[np.int64], is_missing: NDArray[np.bool_], n_words: int
    ) -> NDArray[np.intp]:
        """Return which pages are looked for now, ascending by address: one at least, if any are missing."""
        missing = np.flatnonzero(is_missing)
        missing = missing[np.argsort(addresses[missing], kind="stable")]
        first = int(np.searchsorted(addresses[missing], self._looked_from))
        missing = np.roll(missing, -first)
        n_read = np.cumsum(words_for(addresses[missing]))
        missing = missing[: max(1, int(np.searchsorted(n_read, n_words, side="right")))]
        if len(missing):
            self._looked_from = int(addresses[missing[-1]]) + 1
        return missing[np.argsort(addresses[missing], kind="stable")]

    def _find(
        self, pfns: NDArray[np.int64], addresses: NDArray[np.int64], processes: Mapping[int, Process]
    ) -> None:
        """Take in who else has pages at addresses, both ascending by address."""
        ours = self._mappings
        by_pfn = np.argsort(pfns)
        first, end = ours.bounds(pfns[by_pfn], np.zeros(len(pfns), dtype=np.int64))
        page, row = rows(first, end)
        # One number for each page and process, in the order of the mappings.
        width = 1 + max(int(ours.process[row].max(initial=0)), *processes)
        known = page * width + ours.process[row]
        found = [_NONE]
        for number, process in processes.items():
            if process.is_alive():
                is_there = (pfns_at(process, addresses) == pfns)[by_pfn]
                found.append(np.flatnonzero(is_there) * width + number)
        new = np.setdiff1d(np.concatenate(found), known)
        if not len(new):
            return
        page, who = np.divmod(new, width)
        at = first[page] + np.searchsorted(known, new) - np.searchsorted(known, page * width)
        self._mappings = Mappings(
            np.insert(ours.pfn, at, pfns[by_pfn][page]),
            np.insert(ours.process, at, who),
            np.insert(ours.address, at, addresses[by_pfn][page]),
        )
        self._processes |= {n: processes[n] for n in np.unique(who).tolist()}

    def keep(self, numbers: Iterable[int]) -> None:
        """Forget what others than these map: they are not watched any more."""
        kept = set(numbers)
        if self._processes.keys() - kept:
            self._processes = {n: process for n, process in self._processes.items() if n in kept}
            self._mappings = self._mappings.take(np.isin(self._mappings.process, list(kept)))

    @property
    def mappings(self) -> Mappings:
        """What was found last."""
        return self._mappings

    def _n_found(self, pfns: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return intp[n]: how many mappings of pages are known."""
        ours = self._mappings.pfn
        return np.searchsorted(ours, pfns, side="right") - np.searchsorted(ours, pfns)

    def n_mapped(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n]: how often pages are mapped now, by anybody; -1 where that is not told."""
        if self._counts is None:
            return np.full(len(pfns), -1, dtype=np.int64)
        return self._counts.at(pfns).astype(np.int64)

    def are_watched(
        self,
        heads: NDArray[np.int64],
        orders: NDArray[np.int64],
        is_hugetlb: NDArray[np.bool_] | bool = False,
    ) -> NDArray[np.bool_]:
        """Return bool[n]: of which folios all mappings are in what was found last, page by page."""
        pfns, starts = _pages(heads, orders)
        n_mapped = self.n_mapped(pfns)
        return _all_equal(self._n_found(pfns), n_mapped, starts) & counts_all(n_mapped[starts], is_hugetlb)

    def are_still(
        self,
        heads: NDArray[np.int64],
        orders: NDArray[np.int64],
        is_hugetlb: NDArray[np.bool_] | bool = False,
    ) -> NDArray[np.bool_]:
        """Return bool[n]: of which folios all mappings are still where they were found, and no others.

        The count is taken first: whoever maps a page after that is not known of.
        """
        pfns, starts = _pages(heads, orders)
        n_mapped = self.n_mapped(pfns)
        folio, which = rows(*self._mappings.bounds(heads, orders))
        mine = self._mappings.take(which)
        is_there = np.zeros(len(mine), dtype=np.bool_)
        for number in np.unique(mine.process).tolist():
            process = self._processes[number]
            if not process.is_alive():
                continue
            own = np.flatnonzero(mine.process == number)
            own = own[np.argsort(mine.address[own], kind="stable")]
            is_there[own] = pfns_at(process, mine.address[own]) == mine.pfn[own]
        page = (starts[folio] + mine.pfn - heads[folio])[is_there]
        n_found = np.bincount(page, minlength=len(pfns))
        return _all_equal(n_found, n_mapped, starts) & counts_all(n_mapped[starts], is_hugetlb)

    def close(self) -> None:
        """Close the file."""
        counts, self._counts = self._counts, None
        if counts is not None:
            counts.close()
