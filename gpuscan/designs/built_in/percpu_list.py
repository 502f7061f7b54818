"""``percpu-list``: lists of candidates, nothing is scanned. Our reading; no code was published.

"If the synchronization is really a problem for you [...], some per-CPU data structure can
be used to record candidate pages" (Huang, Ying, linux-mm, 2025-06-20). Our reading: a
bounded list per CPU and source node. A fault appends (PFN, nid) to its CPU's list without a
lock and takes no reference; what finds the list full is dropped. The node's thread empties
the lists of all CPUs in turn, leaves out what it has seen in this round (the newest entry
of a page counts), and checks each page as kmigrated does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.distinct import distinct
from gpuscan.designs.contract import Charge, Design, Modelled, PlotStyle
from gpuscan.designs.machine import EINVAL, Machine
from gpuscan.designs.model import Model
from gpuscan.designs.races import Race
from gpuscan.designs.requests import OVERFLOW
from gpuscan.designs.taking import LISTED, NOT_ASKED, REFUSED, Batch, Window
from gpuscan.designs.tunables import no_bounds

if TYPE_CHECKING:
    from gpuscan.engine.policy import Policy
    from gpuscan.sim.machine import SimulatedMachine

ENTRY_BYTES = 16
"""A PFN and a nid, padded."""
_ENTRIES_PER_LINE = 64 // ENTRY_BYTES
LIST_ENTRIES = 4096
BATCH_FOLIOS = 512
SLEEP_NS = 100_000_000


class _Lists:
    """The lists of all CPUs of one source node.

    Attributes:
        n_of_cpu: entries by CPU.
    """

    def __init__(self) -> None:
        self.n_of_cpu: Counter[int] = Counter()
        self._parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]] = []

    def places(self, cpus: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n]: where in its CPU's list each of these would come, without a limit."""
        order = np.argsort(cpus, kind="stable")
        found, starts, counts = np.unique(cpus[order], return_index=True, return_counts=True)
        before = np.array([self.n_of_cpu[cpu] for cpu in found.tolist()], dtype=np.int64)
        places = np.empty(len(cpus), dtype=np.int64)
        places[order] = np.arange(len(cpus)) + np.repeat(before - starts, counts)
        return places

    def append(self, positions: NDArray[np.int64], nids: NDArray[np.int32], cpus: NDArray[np.int64]) -> None:
        """Append entries, each to its CPU's list."""
        found, counts = np.unique(cpus, return_counts=True)
        self.n_of_cpu.update(dict(zip(found.tolist(), counts.tolist(), strict=True)))
        self._parts.append((positions, nids.astype(np.int64), cpus))

    def emptied(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the pages and targets of all entries, list after list."""
        none = np.empty(0, dtype=np.int64)
        positions, nids, cpus = (
            np.concatenate(column) for column in zip((none,) * 3, *self._parts, strict=True)
        )
        order = np.argsort(cpus, kind="stable")
        return positions[order], nids[order]


class PercpuList(Model):
    """Bounded lists of candidates.

    Args:
        machine: whose pages are listed.
        list_entries: entries of the list of one CPU and one source node.
    """

    def __init__(self, machine: Machine, list_entries: int = LIST_ENTRIES) -> None:
        super().__init__(machine)
        self.sleep_ns = SLEEP_NS
        self.batch_folios = BATCH_FOLIOS
        self.list_entries = list_entries
        self._lists: dict[int, _Lists] = {}  # by source node

    def mark(self, pfn: int, nid: int, now_jiffies: int = 0, *, cpu: int = 0) -> int:
        """Append a candidate to a CPU's list; a page that is where it should be is none.

        Returns:
            0, also where the list is full, or -EINVAL for a page that is not there.
        """
        pfns, at, cpus = (np.array([number], dtype=np.int64) for number in (pfn, now_jiffies, cpu))
        self.mark_many(pfns, np.array([nid], dtype=np.int32), at, cpus)
        return 0 if self.machine.online_positions(pfns)[0] >= 0 else -EINVAL

    def mark_many(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        cpus: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.designs.model.Model`."""
        positions = self.machine.online_positions(pfns)
        there = positions >= 0
        positions, nids, cpus = positions[there], nids[there], cpus[there]
        own_nids = self.machine.nids_at(positions)
        taken = np.zeros(len(positions), dtype=np.bool_)
        for nid in distinct(own_nids):
            mine = np.flatnonzero((own_nids == nid) & (nids != nid))
            if len(mine):
                taken[mine] = self._append(nid, positions[mine], nids[mine], cpus[mine])
        self.ledger.ask_many(positions[taken], nids[taken])

    def _append(
        self, nid: int, positions: NDArray[np.int64], nids: NDArray[np.int32], cpus: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Append candidates of a node to the lists of CPUs, in their order; return which found room."""
        lists = self._lists.setdefault(nid, _Lists())
        places = lists.places(cpus)
        room = places < self.list_entries
        n_full = len(room) - int(np.count_nonzero(room))
        if n_full:
            self.counters["list_overflow"] += n_full
            self._charge(0, atomics=0, n_marks=n_full)
            self.ledger.refuse(OVERFLOW, n_full)
        if not room.any():
            return room
        # Every fourth entry begins a line of the CPU's own; the node's flag is set where it is clear.
        first = nid not in self._active
        self._charge(0, atomics=0, n_marks=len(room) - n_full)
        self.counters["producer_lines"] += int((places[room] % _ENTRIES_PER_LINE == 0).sum()) + first
        self.counters["producer_atomics"] += first
        self._active.add(nid)
        lists.append(positions[room], nids[room], cpus[room])
        return room

    def walk(self, nid: int, races: Iterable[Race] = (), *, now_jiffies: int = 0) -> None:
        """Empty the lists of a node."""
        counters = self.counters
        self._active.discard(nid)
        counters["turns"] += 1
        lists = self._lists.pop(nid, _Lists())
        positions, targets = lists.emptied()
        counters["walk_lines"] += sum(-(-n // _ENTRIES_PER_LINE) for n in lists.n_of_cpu.values())
        counters["entries_examined"] += len(positions)
        # A page is where it came first, with the target that came last.
        pages, firsts = np.unique(positions, return_index=True)
        lasts = len(positions) - 1 - np.unique(positions[::-1], return_index=True)[1]
        order = np.argsort(firsts)
        newest, targets = pages[order], targets[lasts[order]]
        counters["duplicates"] += len(positions) - len(newest)
        counters["walk_lines"] += len(newest)  # struct page
        batch = Batch(LISTED, self.batch_folios)
        self._take_all(
            len(newest),
            lambda part: self._look(newest[part], targets[part], nid),
            batch,
            when_off_lru=REFUSED,
        )
        if batch.heads:
            self._hand_over(*batch.take_all(), batch.nid)

    def _look(self, positions: NDArray[np.int64], nids: NDArray[np.int64], src_nid: int) -> Window:
        """Return what candidates are now: their folios may be gone."""
        machine, n = self.machine, len(positions)
        pages = machine.pages(positions)
        refused = machine.refusals(pages.head, nids)
        still_there = pages.online & (pages.nid == src_nid) & pages.lru
        refused[~still_there] = NOT_ASKED
        return Window(
            positions,
            pages._replace(lru=still_there),
            nids,
            np.zeros(n, dtype=np.int64),
            np.ones(n, dtype=np.bool_),
            None,
            refused,
            machine.draws(n),
        )

    def _ready_at(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        listed = [np.empty(0, dtype=np.int64), *(lists.emptied()[0] for lists in self._lists.values())]
        return np.isin(positions, np.concatenate(listed))


def _metadata_bytes(machine: SimulatedMachine, _policy: Policy, _n_asked: int) -> int:
    nodes = machine.topology.nodes
    n_cpus = sum(len(node.cpus) for node in nodes)
    n_sources = sum(1 for node in nodes if node.present_pages)
    return n_cpus * n_sources * LIST_ENTRIES * ENTRY_BYTES


DESIGN = Design(
    name="percpu-list",
    line="bounded lists of candidates per CPU and source node, no scan: Huang Ying, 2025-06-20",
    kind="our reading",
    order=60,
    looks_at="entries",
    counts_accesses="never",
    asks_time=False,
    threshold=False,
    bounds=no_bounds,
    metadata_bytes=_metadata_bytes,
    record_bytes=lambda _: ENTRY_BYTES,
    look="list entry",
    scan=(Charge("list entry"),),
    mark="append",
    beside="list entry",
    plot=PlotStyle(order=70, line={"color": "#009E73", "linewidth": 2.8, "alpha": 0.8}),
    model=Modelled(
        make=lambda machine, _: PercpuList(machine),
        needs_flag=True,
        bypasses_thp=False,
        locks_records=False,
        two_atomics=False,
    ),
)
