"""``percpu-list``: lists of candidates, nothing is scanned. Our reading; no code was published.

"If the synchronization is really a problem for you [...], some per-CPU data structure can
be used to record candidate pages" (Huang, Ying, linux-mm, 2025-06-20). Our reading: a
bounded list per CPU and source node. A fault appends (PFN, nid) to its CPU's list without a
lock and takes no reference; what finds the list full is dropped. The node's thread empties
the lists of all CPUs in turn, leaves out what it has seen in this round (the newest entry
of a page counts), and checks each page as kmigrated does.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.contract import Charge, Design, Modelled, PlotStyle
from gpuscan.designs.machine import EINVAL, NUMA_NO_NODE, Machine
from gpuscan.designs.model import Model
from gpuscan.designs.races import Race
from gpuscan.designs.requests import OVERFLOW
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
        self._lists: dict[int, dict[int, list[tuple[int, int]]]] = {}  # by source node, then CPU

    def mark(self, pfn: int, nid: int, now_jiffies: int = 0, *, cpu: int = 0) -> int:
        """Append a candidate to a CPU's list; a page that is where it should be is none.

        Returns:
            0, also where the list is full, or -EINVAL for a page that is not there.
        """
        position = self.machine.position(pfn)
        if position < 0:
            return -EINVAL
        page = self.machine.page(position)
        if not page.online:
            return -EINVAL
        if page.nid == nid:
            return 0
        entries = self._lists.setdefault(page.nid, {}).setdefault(cpu, [])
        if len(entries) >= self.list_entries:
            self.counters["list_overflow"] += 1
            self._charge(0, atomics=0)
            self.ledger.refuse(OVERFLOW)
            return 0
        # Every fourth entry begins a line of the CPU's own; the node's flag is set where it is clear.
        first = page.nid not in self._active
        self._charge((len(entries) % _ENTRIES_PER_LINE == 0) + first, atomics=first)
        entries.append((position, nid))
        self.ledger.ask(position, nid)
        self._active.add(page.nid)
        return 0

    def walk(self, nid: int, races: Iterable[Race] = (), *, now_jiffies: int = 0) -> None:
        """Empty the lists of a node."""
        machine, counters = self.machine, self.counters
        self._active.discard(nid)
        counters["turns"] += 1
        lists = self._lists.pop(nid, {})
        newest: dict[int, int] = {}
        for cpu in sorted(lists):
            counters["walk_lines"] += -(-len(lists[cpu]) // _ENTRIES_PER_LINE)
            for position, target in lists[cpu]:
                counters["entries_examined"] += 1
                counters["duplicates"] += position in newest
                newest[position] = target
        counters["walk_lines"] += len(newest)  # struct page
        cur_nid = NUMA_NO_NODE
        migrate_list: list[int] = []
        for position, target in newest.items():
            if not self._goes(position, target, nid):
                continue
            if cur_nid == NUMA_NO_NODE:
                cur_nid = target
            if len(migrate_list) >= self.batch_folios or cur_nid != target:
                self._flush(migrate_list, cur_nid)
                cur_nid = target
            migrate_list.append(machine.page(position).head)
        if migrate_list:
            self._flush(migrate_list, cur_nid)

    def _goes(self, position: int, target: int, src_nid: int) -> bool:
        """Check and isolate a candidate, whose folio may be gone."""
        self.counters["claimed"] += 1
        asked, page = self.ledger.claim(position), self.machine.page(position)
        if self._at_home(page, target, asked):
            return False
        still_there = page.online and page.nid == src_nid and page.lru
        return self._isolate(page, target, asked, still_there=still_there)

    def _ready_at(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        listed = [
            position
            for lists in self._lists.values()
            for entries in lists.values()
            for position, _ in entries
        ]
        return np.isin(positions, np.array(listed, dtype=np.int64))


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
