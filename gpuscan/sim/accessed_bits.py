"""The accessed bits of page table entries, and a thread that walks, tests and clears them.

Kept beside REFERENCED, which kswapd clears: page_idle's young flag lets both see every access. The
bit says that a page was accessed since the last walk, not from where nor how often. The simulator
knows the node of the last access, and keeps it as the truth that a guess is scored against.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.documents import array, pairs, table, whole
from gpuscan.base.units import PAGE_BYTES
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.sim.address_space import AddressSpace
from gpuscan.sim.loops import collect_accessed, remember_nid
from gpuscan.sim.process import Process, Stretch
from gpuscan.sim.spec import ProducerSpec

_NOT_ACCESSED = -1
_CHUNK_FOLIOS = 1 << 20
_Part = tuple[NDArray[np.int64], int, NDArray[np.int16], int]
"""Of a piece of a walk: folios, the guess, nodes of their last accesses, the time."""


@dataclass(frozen=True, slots=True)
class ABitSpec(ProducerSpec):
    """A thread that walks page tables and tests and clears the accessed bit, as kscand.

    The defaults are KSCAND_SCAN_SIZE and KSCAND_SCAN_PERIOD of mm/kscand.c (R. K T, "[RFC PATCH V3 00/17] mm:
    slowtier page promotion based on PTE A bit", linux-mm, 2025-08-14), fixed where kscand adapts them.

    Attributes:
        walk_bytes: walked of each process at a visit.
        walk_period_ns: pause between visits.
        pte_ns: CPU time of a page table entry.
    """

    kind = "a-bit"

    walk_bytes: int = 1 << 30
    walk_period_ns: int = 2_000_000_000
    pte_ns: float = 90.0


@dataclass(frozen=True, slots=True, eq=False)
class AccessedFolios:
    """Folios whose bit was set when the walk came by.

    Attributes:
        folios: int64[n], virtual folios.
        guessed_nids: int32[n], where a task of the process ran last.
        true_nids: int32[n], where the last access came from.
        at_ns: int64[n], when the walk came by.
        n_walked: page table entries looked at.
    """

    folios: NDArray[np.int64]
    guessed_nids: NDArray[np.int32]
    true_nids: NDArray[np.int32]
    at_ns: NDArray[np.int64]
    n_walked: int


class AccessedBits:
    """An :class:`gpuscan.sim.observer.Observer` that walks page tables.

    Args:
        spec: how much of each process, and how often.
        space: whose page table.
        section_nid: node per flat section.
        walked_nids: uint8[1024], 1 for nodes whose pages are looked at.
    """

    def __init__(
        self,
        spec: ABitSpec,
        space: AddressSpace,
        section_nid: NDArray[np.int32],
        walked_nids: NDArray[np.uint8],
    ) -> None:
        self._spec = spec
        self._space = space
        self._section_nid = section_nid
        self._walked_nids = walked_nids
        self._last_nid = np.full(space.n_folios, _NOT_ACCESSED, dtype=np.int16)
        self._cursors: dict[int, int] = {}  # by the process's first folio
        self._ran_on: dict[int, int] = {}
        self._parts: list[_Part] = []
        self._n_walked = 0

    def visits_ns(self, process: Process, start_ns: int, end_ns: int) -> Iterable[int]:
        """See :class:`gpuscan.sim.observer.Observer`."""
        return process.visits_ns(start_ns, end_ns, self._spec.walk_period_ns)

    def visit(self, process: Process, now_ns: int) -> None:
        """Walk the next window of a process, at most all of it."""
        first, n_folios = process.first_folio, process.n_folios
        cursor = self._cursors.get(first, 0)
        left_pages, left_folios = max(1, self._spec.walk_bytes // PAGE_BYTES), n_folios
        while left_pages > 0 and left_folios > 0:
            mapping = next(m for m in reversed(process.mappings) if m.first_folio <= first + cursor)
            lo = first + cursor
            hi = min(
                mapping.first_folio + mapping.n_folios,
                lo + left_folios,
                lo + max(1, left_pages >> mapping.order),
                lo + _CHUNK_FOLIOS,
            )
            self._walk(lo, hi, self._ran_on.get(first, process.cpu_nids(now_ns)[0]), now_ns)
            left_pages -= (hi - lo) << mapping.order
            left_folios -= hi - lo
            cursor = (hi - first) % n_folios
        self._cursors[first] = cursor

    def accessed(
        self,
        process: Process,
        stretch: Stretch,
        first_access: int,
        folios: NDArray[np.int64],
        faulted: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.sim.observer.Observer`."""
        remember_nid(folios, process.first_folio, stretch.cpu_nid, self._last_nid)
        self._ran_on[process.first_folio] = stretch.cpu_nid

    def take(self) -> AccessedFolios:
        """Return what the walks since the last time found, in their order per process."""
        parts, self._parts = self._parts, []
        n_walked, self._n_walked = self._n_walked, 0
        none = np.empty(0, dtype=np.int32)
        return AccessedFolios(
            np.concatenate([none.astype(np.int64), *(part[0] for part in parts)]),
            np.concatenate([none, *(np.full(len(part[0]), part[1], dtype=np.int32) for part in parts)]),
            np.concatenate([none, *(part[2].astype(np.int32) for part in parts)]),
            np.concatenate([none.astype(np.int64), *(np.full(len(part[0]), part[3]) for part in parts)]),
            n_walked,
        )

    def state(self) -> dict[str, Any]:
        """Return all there is to know between two ticks, for :meth:`restore`; the array itself."""
        return {
            "last_nid": self._last_nid,
            "cursors": list(self._cursors.items()),
            "ran_on": list(self._ran_on.items()),
        }

    def restore(self, state: Mapping[str, Any], sizes: Mapping[int, int]) -> None:
        """Become what :meth:`state` was taken of, bits of an equal machine.

        Args:
            state: see above.
            sizes: folios of each process by its first one.

        Raises:
            ValueError: it was of another.
        """
        found = table(state, "the accessed bits", ("last_nid", "cursors", "ran_on"))
        n_folios = len(self._last_nid)
        last_nid = array(
            found["last_nid"], np.int16, "last_nid", n=n_folios, lowest=_NOT_ACCESSED, end=N_NODES_MAX
        )
        cursors, ran_on = pairs(found["cursors"], "cursors"), pairs(found["ran_on"], "ran_on")
        if any(first not in sizes for first, _ in (*cursors, *ran_on)):
            raise ValueError("the accessed bits are of other processes")
        self._last_nid[:] = last_nid
        self._cursors = {first: whole(at, 0, sizes[first] - 1, "a cursor") for first, at in cursors}
        self._ran_on = {first: whole(nid, 0, N_NODES_MAX - 1, "ran_on") for first, nid in ran_on}

    def _walk(self, lo: int, hi: int, ran_on: int, now_ns: int) -> None:
        folios, nids = np.empty(hi - lo, dtype=np.int64), np.empty(hi - lo, dtype=np.int16)
        n_accessed = collect_accessed(
            lo,
            hi,
            self._space.frame_of,
            self._last_nid,
            self._section_nid,
            self._walked_nids,
            folios,
            nids,
        )
        self._n_walked += hi - lo
        if n_accessed:
            self._parts.append((folios[:n_accessed].copy(), ran_on, nids[:n_accessed].copy(), now_ns))
