"""What a design walks over: pages, folios and zones, and the two calls that move folios.

A design knows a page by its *position*: an index into per-page arrays, ascending with
the PFN. :class:`ArrayMachine` is given as arrays, for single steps;
:class:`gpuscan.designs.simulated.SimulatedPages` is a simulated machine.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypedDict, Unpack

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuscan.base.errors import InputError
from gpuscan.engine.stages import FolioEvents
from gpuscan.records.page_map import SECTION_PAGES

NUMA_NO_NODE = -1
EINVAL = 22


@dataclass(frozen=True, slots=True)
class ZoneSpan:
    """A zone as a walk sees it; what a walk by sections goes through is one for each section.

    Attributes:
        nid: its node.
        start_pfn, end_pfn: ``zone_start_pfn`` and ``zone_end_pfn()``, exclusive. Holes and pages of
            other nodes may lie between them. Empty for a zone that is not populated.
        device: ``zone_is_zone_device()``.
    """

    nid: int
    start_pfn: int
    end_pfn: int
    device: bool = False


class Page(NamedTuple):
    """A page with a struct page.

    Attributes:
        online: ``pfn_to_online_page()`` finds it.
        nid: ``page_to_nid()``.
        head: position of the first page of ``page_folio()``.
        n_pages: ``folio_nr_pages()``.
        lru: ``folio_test_lru()``.
    """

    online: bool
    nid: int
    head: int
    n_pages: int
    lru: bool


class Pages(NamedTuple):
    """Pages, each column as long: see :class:`Page`.

    Attributes:
        online, lru: bool[n].
        nid, head, n_pages: int64[n].
    """

    online: NDArray[np.bool_]
    nid: NDArray[np.int64]
    head: NDArray[np.int64]
    n_pages: NDArray[np.int64]
    lru: NDArray[np.bool_]

    def first(self, n: int) -> Pages:
        """Return the first of them."""
        columns: list[Any] = [column[:n] for column in self]
        return Pages(*columns)


@dataclass(frozen=True, slots=True)
class BatchCall:
    """One call of ``migrate_misplaced_folios_batch(list, nid)``: head PFNs in list order, and the node."""

    pfns: tuple[int, ...]
    nid: int


@dataclass(frozen=True, slots=True, eq=False)
class BatchResult:
    """What became of one batch.

    Attributes:
        moved: bool[n], per folio handed in, in list order.
        busy_ns: modelled time of the call.
        events: folios that came and went.
        counts: what the call counted, by the kernel's name where it has one (``pgmigrate_success``,
            ``pgmigrate_fail``, in base pages) and by ours (``migrate_pages_rounds``).
    """

    moved: NDArray[np.bool_]
    busy_ns: float = 0.0
    events: tuple[FolioEvents, ...] = ()
    counts: tuple[tuple[str, int], ...] = ()


class BatchResults(NamedTuple):
    """What became of several batches.

    Attributes:
        moved: bool[n], per folio handed in, batch after batch.
        busy_ns: float64[n_batches], modelled time of each call.
        events, counts: see :class:`BatchResult`, of all together.
    """

    moved: NDArray[np.bool_]
    busy_ns: NDArray[np.float64]
    events: tuple[FolioEvents, ...]
    counts: dict[str, int]


class Machine(Protocol):
    """What a design needs of a machine."""

    @property
    def n_positions(self) -> int:
        """Length of arrays per page."""
        ...

    @property
    def nids(self) -> frozenset[int]:
        """Nodes with memory."""
        ...

    def is_top_tier(self, nid: int) -> bool:
        """``node_is_toptier()``."""
        ...

    def has_cpus(self, nid: int) -> bool:
        """Whether a node is in N_CPU."""
        ...

    def present_pages(self, nid: int) -> int:
        """``node_present_pages``."""
        ...

    def distance(self, nid: int, other: int) -> int:
        """``node_distance()``."""
        ...

    def zones(self, nid: int) -> Sequence[ZoneSpan]:
        """Return a node's zones in the kernel's order."""
        ...

    def sections(self) -> Sequence[int]:
        """Return the numbers of the present sections, ascending."""
        ...

    def position(self, pfn: int) -> int:
        """Return the position of a PFN, -1 where ``pfn_valid()`` is false."""
        ...

    def pfn(self, position: int) -> int:
        """Return the PFN at a position."""
        ...

    def ranges(self, start_pfn: int, end_pfn: int) -> Sequence[tuple[int, int]]:
        """Return ranges of positions that hold every valid PFN of ``[start_pfn, end_pfn)``, ascending."""
        ...

    def page(self, position: int) -> Page:
        """Return what is known about a page."""
        ...

    def pages(self, positions: NDArray[np.int64]) -> Pages:
        """Return what is known about pages."""
        ...

    def pfns(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n], the PFN at each position."""
        ...

    def online_positions(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n], the position of each PFN, -1 where ``pfn_to_online_page()`` finds nothing."""
        ...

    def lru_heads(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n], the head of each PFN's folio, -1 where that is not online or on no LRU list."""
        ...

    def nids_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n], the node of each page."""
        ...

    def memcg(self, head: int) -> int:
        """Return an id of the folio's memory cgroup."""
        ...

    def memcgs(self, heads: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n], :meth:`memcg` of each."""
        ...

    def n_steps(self, start_pfn: int, end_pfn: int, nid: int | None = None) -> int:
        """Return how many PFNs a walk looks at that steps over the folios it finds (of node ``nid`` only, if
        given) instead of looking at each of their pages."""
        ...

    def n_steps_each(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n], :meth:`n_steps` from each of these to its end."""
        ...

    def steps_to(self, start_pfn: int, pfns: NDArray[np.int64], nid: int | None = None) -> NDArray[np.int64]:
        """Return int64[n]: how many PFNs such a walk, which begins at ``start_pfn``, looks at before it comes
        to each of these, or past it."""
        ...

    def free_space_enough(self, nid: int) -> bool:
        """``pgdat_free_space_enough()``."""
        ...

    def prepare(self, head: int, nid: int) -> int:
        """Call ``migrate_misplaced_folio_prepare(folio, NULL, nid)``: 0 and the folio is off the LRU, or
        -errno."""
        ...

    @property
    def isolated_goes_off_lru(self) -> bool:
        """Whether a folio that :meth:`prepare` accepts is on no LRU list until it is moved or put back."""
        ...

    def refusals(self, heads: NDArray[np.int64], nids: NDArray[np.int64]) -> NDArray[np.int8]:
        """Return int8[n]: 0 where :meth:`prepare` would accept now, unless it draws a failure; 1 where it
        would refuse; -1 where it would without being asked. Nothing changes."""
        ...

    def draws(self, n: int) -> NDArray[np.bool_]:
        """Return bool[n]: whether the next calls of :meth:`prepare` draw a failed isolation, drawn ahead."""
        ...

    def prepare_many(
        self, heads: NDArray[np.int64], nids: NDArray[np.int64], accepted: NDArray[np.bool_]
    ) -> None:
        """Do :meth:`prepare` for folios, in this order, whose results are known: :meth:`refusals` and
        :meth:`draws`."""
        ...

    def migrate(self, heads: Sequence[int] | NDArray[np.int64], nid: int) -> BatchResult:
        """Move isolated folios with ``migrate_pages()`` and put back those that stay."""
        ...

    def steady_pages(self, nid: int) -> int:
        """Return how many base pages :meth:`migrate` may move to a node, all of which it then moves, before
        :meth:`free_space_enough` and :meth:`refusals` say something else of it; 0: that is not known."""
        ...

    def migrate_each(
        self, heads: NDArray[np.int64], ends: NDArray[np.int64], nids: NDArray[np.int64]
    ) -> BatchResults:
        """Do :meth:`migrate` for several batches, one after the other, within :meth:`steady_pages`.

        Args:
            heads: int64[n], batch after batch.
            ends: int64[n_batches], how many folios all batches up to each have.
            nids: int64[n_batches], where each goes.
        """
        ...


def migrate_one_by_one(
    machine: Machine, heads: NDArray[np.int64], ends: NDArray[np.int64], nids: NDArray[np.int64]
) -> BatchResults:
    """Do :meth:`Machine.migrate_each` with :meth:`Machine.migrate`."""
    counts = Counter[str]()
    results = [
        machine.migrate(part, nid)
        for part, nid in zip(np.split(heads, ends[:-1]), nids.tolist(), strict=True)
    ]
    for result in results:
        counts.update(dict(result.counts))
    return BatchResults(
        np.concatenate([np.empty(0, dtype=np.bool_), *(result.moved for result in results)]),
        np.array([result.busy_ns for result in results], dtype=np.float64),
        tuple(event for result in results for event in result.events),
        dict(counts),
    )


class PageArrays(TypedDict, total=False):
    """What may be said of the pages and nodes of an :class:`ArrayMachine`.

    Attributes:
        first_pfn: PFN of element 0.
        valid: bool[n], ``pfn_valid()``; all by default.
        online: bool[n], ``pfn_to_online_page()`` is not NULL; all by default.
        lru: bool[n], ``folio_test_lru()``, read at the head; all by default.
        head: int[n], PFN of the folio's first page; by default every page is a folio.
        prepare: int[n], what ``migrate_misplaced_folio_prepare()`` returns, read at the head; 0 by default.
        memcg: int[n], read at the head; 0 by default.
        top_tier: nodes of the top tier.
        cpus_on: nodes with CPUs; by default those of the top tier.
        free_enough: nodes for which ``pgdat_free_space_enough()`` holds.
        distances: ``node_distance()`` from one node to another; 10 and 20 by default.
    """

    first_pfn: int
    valid: ArrayLike
    online: ArrayLike
    lru: ArrayLike
    head: ArrayLike
    prepare: ArrayLike
    memcg: ArrayLike
    top_tier: Sequence[int]
    cpus_on: Sequence[int]
    free_enough: Sequence[int]
    distances: Mapping[tuple[int, int], int]


_GIVEN = tuple(PageArrays.__annotations__)


class ArrayMachine:
    """A machine given as arrays, for driving a design step by step.

    A folio that ``prepare`` accepts is off the LRU at once. A batch for a node of the machine moves
    all its folios: their frames stay off the LRU, the arrays keep everything else. A batch for any
    other node moves none, and they are put back onto the LRU.

    The pages of a folio must be alike (valid, online, on one node) and contiguous.

    Args:
        nid: int[n], node of each PFN from ``first_pfn`` on.
        zones: per node in the kernel's order.
        given: see :class:`PageArrays`.

    Raises:
        InputError: arrays of different lengths.
        TypeError: an argument is none of these.
    """

    def __init__(self, nid: ArrayLike, zones: Sequence[ZoneSpan], **given: Unpack[PageArrays]) -> None:
        unknown = given.keys() - set(_GIVEN)
        if unknown:
            raise TypeError(f"ArrayMachine takes no {', '.join(sorted(unknown))}; give {', '.join(_GIVEN)}")
        self._nid = np.asarray(nid, dtype=np.int64)
        self._first_pfn = given.get("first_pfn", 0)
        n = len(self._nid)

        def column(values: ArrayLike | None, default: Any, dtype: type) -> NDArray[Any]:
            found: NDArray[Any] = np.array(np.full(n, default) if values is None else values, dtype=dtype)
            if found.shape != (n,):
                raise InputError(f"an array has shape {found.shape}; give one value for each of {n} pages")
            return found

        self._valid = column(given.get("valid"), True, np.bool_)
        self._online = column(given.get("online"), True, np.bool_) & self._valid
        self._lru = column(given.get("lru"), True, np.bool_)
        head = given.get("head")
        self._head = np.arange(n) if head is None else column(head, 0, np.int64) - self._first_pfn
        self._prepare = column(given.get("prepare"), 0, np.int64)
        self._memcg = column(given.get("memcg"), 0, np.int64)
        self._n_pages = np.bincount(self._head, minlength=n)
        self._zones = tuple(zones)
        self._top_tier = frozenset(given.get("top_tier", ()))
        self._cpus_on = frozenset(given.get("cpus_on", self._top_tier))
        self._free_enough = frozenset(given.get("free_enough", ()))
        self._distances = dict(given.get("distances", {}))

    @property
    def n_positions(self) -> int:
        """See :class:`Machine`."""
        return len(self._nid)

    @property
    def nids(self) -> frozenset[int]:
        """See :class:`Machine`."""
        return frozenset(zone.nid for zone in self._zones)

    def is_top_tier(self, nid: int) -> bool:
        """See :class:`Machine`."""
        return nid in self._top_tier

    def has_cpus(self, nid: int) -> bool:
        """See :class:`Machine`."""
        return nid in self._cpus_on

    def present_pages(self, nid: int) -> int:
        """See :class:`Machine`."""
        return int((self._valid & (self._nid == nid)).sum())

    def distance(self, nid: int, other: int) -> int:
        """See :class:`Machine`."""
        return self._distances.get((nid, other), 10 if nid == other else 20)

    def set_online(self, nid: int, *, online: bool) -> list[int]:
        """Let all pages of a node come or go; return the sections that they are in, ascending."""
        mine = self._valid & (self._nid == nid)
        self._online[mine] = online
        sections: list[int] = np.unique((np.flatnonzero(mine) + self._first_pfn) // SECTION_PAGES).tolist()
        return sections

    def zones(self, nid: int) -> Sequence[ZoneSpan]:
        """See :class:`Machine`."""
        return [zone for zone in self._zones if zone.nid == nid]

    def sections(self) -> Sequence[int]:
        """See :class:`Machine`."""
        pfns = np.flatnonzero(self._valid) + self._first_pfn
        numbers: list[int] = np.unique(pfns // SECTION_PAGES).tolist()
        return numbers

    def position(self, pfn: int) -> int:
        """See :class:`Machine`."""
        position = pfn - self._first_pfn
        return position if 0 <= position < self.n_positions and self._valid[position] else -1

    def pfn(self, position: int) -> int:
        """See :class:`Machine`."""
        return position + self._first_pfn

    def ranges(self, start_pfn: int, end_pfn: int) -> Sequence[tuple[int, int]]:
        """See :class:`Machine`."""
        lo = max(0, start_pfn - self._first_pfn)
        hi = min(self.n_positions, end_pfn - self._first_pfn)
        return [(lo, hi)] if lo < hi else []

    def page(self, position: int) -> Page:
        """See :class:`Machine`."""
        head = int(self._head[position])
        return Page(
            bool(self._online[position]),
            int(self._nid[position]),
            head,
            int(self._n_pages[head]),
            bool(self._lru[head]),
        )

    def pages(self, positions: NDArray[np.int64]) -> Pages:
        """See :class:`Machine`."""
        heads = self._head[positions].astype(np.int64)
        return Pages(
            self._online[positions],
            self._nid[positions],
            heads,
            self._n_pages[heads].astype(np.int64),
            self._lru[heads],
        )

    def pfns(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`Machine`."""
        return positions + self._first_pfn

    def online_positions(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`Machine`."""
        positions = pfns - self._first_pfn
        inside = (positions >= 0) & (positions < self.n_positions)
        return np.where(inside & self._online[np.where(inside, positions, 0)], positions, -1)

    def lru_heads(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`Machine`."""
        positions = self.online_positions(pfns)
        heads = self._head[positions]
        return np.where((positions >= 0) & self._lru[heads], heads, -1)

    def nids_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`Machine`."""
        return self._nid[positions]

    def memcg(self, head: int) -> int:
        """See :class:`Machine`."""
        return int(self._memcg[head])

    def memcgs(self, heads: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`Machine`."""
        return self._memcg[heads]

    @property
    def isolated_goes_off_lru(self) -> bool:
        """See :class:`Machine`."""
        return True

    def refusals(self, heads: NDArray[np.int64], nids: NDArray[np.int64]) -> NDArray[np.int8]:
        """See :class:`Machine`."""
        refused: NDArray[np.int8] = (self._prepare[heads] != 0).astype(np.int8)
        return refused

    def draws(self, n: int) -> NDArray[np.bool_]:
        """See :class:`Machine`."""
        return np.zeros(n, dtype=np.bool_)

    def prepare_many(
        self, heads: NDArray[np.int64], nids: NDArray[np.int64], accepted: NDArray[np.bool_]
    ) -> None:
        """See :class:`Machine`."""
        self._lru[heads[accepted]] = False

    def free_space_enough(self, nid: int) -> bool:
        """See :class:`Machine`."""
        return nid in self._free_enough

    def n_steps(self, start_pfn: int, end_pfn: int, nid: int | None = None) -> int:
        """See :class:`Machine`."""
        n_stepped_over = 0
        for lo, hi in self.ranges(start_pfn, end_pfn):
            pages = np.arange(lo, hi)
            found = self._online[lo:hi].copy()
            if nid is not None:
                found &= self._nid[lo:hi] == nid
            looked_at = (self._head[lo:hi] == pages) | (pages == start_pfn - self._first_pfn)
            n_stepped_over += int((found & ~looked_at).sum())
        return end_pfn - start_pfn - n_stepped_over

    def n_steps_each(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`Machine`."""
        parts = zip(starts.tolist(), ends.tolist(), strict=True)
        return np.array([self.n_steps(start, end) for start, end in parts], dtype=np.int64)

    def steps_to(self, start_pfn: int, pfns: NDArray[np.int64], nid: int | None = None) -> NDArray[np.int64]:
        """See :class:`Machine`."""
        return np.array([self.n_steps(start_pfn, pfn, nid) for pfn in pfns.tolist()], dtype=np.int64)

    def prepare(self, head: int, nid: int) -> int:
        """See :class:`Machine`; the result does not depend on the node."""
        result = int(self._prepare[head])
        if result == 0:
            self._lru[head] = False
        return result

    def migrate(self, heads: Sequence[int] | NDArray[np.int64], nid: int) -> BatchResult:
        """See :class:`Machine`."""
        there = nid in self.nids
        if not there:
            self._lru[list(heads)] = True
        n_pages = int(self._n_pages[list(heads)].sum())
        name = "pgmigrate_success" if there else "pgmigrate_fail"
        return BatchResult(np.full(len(heads), there), counts=((name, n_pages),) if n_pages else ())

    def steady_pages(self, nid: int) -> int:
        """See :class:`Machine`."""
        return self.n_positions

    def migrate_each(
        self, heads: NDArray[np.int64], ends: NDArray[np.int64], nids: NDArray[np.int64]
    ) -> BatchResults:
        """See :class:`Machine`."""
        return migrate_one_by_one(self, heads, ends, nids)
