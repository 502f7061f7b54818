"""``hot-list``: kpromoted, one hash of all pages that were accessed and a heap of the hot ones per target.

Pinned to "[RFC PATCH v2 0/8] mm: Hot page tracking and promotion infrastructure" (B. Rao,
linux-mm, 2025-09-10, 20250910144653.212066-1-bharata@amd.com), with all eight patches: the
first version that takes hint faults, and the last with the list (v3 keeps a word per page).
mm/pghot.c, include/linux/pghot.h. The first kpromoted ("[RFC PATCH 0/4] Kernel daemon
for detecting and promoting hot pages", 2025-03-06) had neither heap nor batches.

An access looks its PFN up in a list of the hash, under that list's lock, and moves its entry in
the heap of the node that the access came from, under the heap's lock. A thread per top-tier
node with CPUs takes the hottest entries out, 1,024 at most every 20 ms, and migrates what
passes the checks in one batch. Nothing is scanned.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.contract import Design, Modelled, NotMeasured, PlotStyle
from gpuscan.designs.hot_entries import (
    ASKS,
    COOLS,
    GOES_ELSEWHERE,
    HAS_NO_HEAP,
    HASHED,
    HEAP_IS_FULL,
    HEAP_MARKS,
    HEAPED,
    HEAPS_FULL,
    KPROMOTED_DEFAULT_NODE,
    KPROMOTED_FREQ_THRESHOLD,
    LIST_HOLDS,
    N_COUNTS,
    N_EXAMINED,
    N_HEAP_COUNTS,
    N_LINES,
    N_MARKS,
    PGHOT_TIME_BITS,
    USED_AFTER_FREE,
    WALK_EXAMINED,
    WALK_LINES,
    WRAPS,
    Entries,
    Heaps,
    HotEntry,
    Lists,
    record,
    take_hottest,
)
from gpuscan.designs.locks import LockUse
from gpuscan.designs.lower_tier import LowerTier
from gpuscan.designs.machine import EINVAL, NUMA_NO_NODE, Machine
from gpuscan.designs.model import Model
from gpuscan.designs.promotion_limit import Admission, Asked, PromotionLimit
from gpuscan.designs.races import Race
from gpuscan.designs.requests import (
    BEHIND_A_COOL_HEAD,
    COOLED,
    COUNTED_ANEW,
    FREQ_WRAPPED,
    HEAP_FULL,
    NO_HEAP,
)
from gpuscan.designs.taking import (
    ALL_IN_ONE,
    AT_HOME,
    GOES,
    GONE,
    NOT_ADMITTED,
    Batch,
    Window,
    parts_without_repeats,
)
from gpuscan.designs.tunables import (
    INT_MAX,
    MIB,
    NS_PER_MS,
    Bound,
    Divisor,
    Tuning,
    rate_limit_bounds,
    whole_ms,
)
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.sim.spec import KernelCostSpec

if TYPE_CHECKING:
    from gpuscan.engine.policy import Policy
    from gpuscan.sim.machine import SimulatedMachine

PGHOT_HASH_PCT = 50
PGHOT_HASH_ENTRIES = 1024
PGHOT_HEAP_PCT = 25
ENTRY_BYTES = 40
"""``struct pghot_info`` on a 64-bit machine."""
_POINTER_BYTES = 8
_BUCKET_BYTES = 16
"""A list head and its lock."""
_GOLDEN_RATIO_64 = 0x61C8_8646_80B5_83EB
_U32 = 0xFFFF_FFFF
_LIST_ROOM, _ENTRIES_ROOM = 16, 4096
_MS_PER_S = 1000


@dataclass(frozen=True, slots=True)
class HotListTunables:
    """Constants and sysctls of kpromoted.

    Attributes:
        freq_window_ms: accesses further apart begin to count anew, but for those of hint faults.
        migrate_batch: entries taken out per turn.
        sleep_ms: pause between two turns.
        rate_limit_mbps: MiB per second and target.
        hz: jiffies per second, a divisor of 1000.
        heap_entries: of each heap; None: an eighth of the pages below the top tier.
    """

    freq_window_ms: int = 5000
    migrate_batch: int = 1024
    sleep_ms: int = 20
    rate_limit_mbps: int = 65_536
    hz: int = 1000
    heap_entries: int | None = None


class HotList(Model):
    """kpromoted on one machine.

    Args:
        machine: whose accesses are listed.
        tunables: see there.

    Attributes:
        heap_entries: how many each heap may hold.
    """

    def __init__(self, machine: Machine, tunables: HotListTunables | None = None) -> None:
        super().__init__(machine)
        self.tunables = tunables or HotListTunables()
        self.sleep_ns = self.tunables.sleep_ms * 1_000_000
        self.batch_folios = self.tunables.migrate_batch
        lower_pages = sum(machine.present_pages(nid) for nid in machine.nids if not machine.is_top_tier(nid))
        hash_entries = lower_pages * PGHOT_HASH_PCT // 100
        # ilog2() rounds down, so some of the lists that were allocated are never used.
        self._hash_order = max(1, hash_entries // PGHOT_HASH_ENTRIES).bit_length() - 1
        wanted = self.tunables.heap_entries
        self.heap_entries = hash_entries * PGHOT_HEAP_PCT // 100 if wanted is None else wanted
        self._started = lower_pages > 0  # pghot_init(): whether any node has a thread is not asked
        nids = [nid for nid in machine.nids if machine.is_top_tier(nid) and machine.has_cpus(nid)]
        self._nids = nids if self._started else []
        of_nid = np.full(max(machine.nids) + 1, -1, dtype=np.int64)
        of_nid[self._nids] = np.arange(len(self._nids))
        n_heaps = len(self._nids)
        self._heaps = Heaps(
            np.zeros((n_heaps, max(1, self.heap_entries)), dtype=np.int32),
            np.zeros(n_heaps, dtype=np.int64),
            of_nid,
            np.zeros((n_heaps, N_HEAP_COUNTS), dtype=np.int64),
        )
        self._lists = Lists(
            np.zeros((1 << self._hash_order, _LIST_ROOM), dtype=np.int32),
            np.zeros(1 << self._hash_order, dtype=np.int32),
            np.zeros(machine.n_positions, dtype=np.int32),
        )
        self._entries, self._n_entries = Entries.room_for(0), 0
        self._lower = LowerTier(machine)
        self._limit = PromotionLimit(self.tunables.rate_limit_mbps, self.tunables.freq_window_ms)
        self._counts = np.zeros(N_COUNTS, dtype=np.int64)
        self._now_jiffies = 0  # of the turn

    def has_thread(self, nid: int) -> bool:
        """See :class:`gpuscan.designs.model.Model`."""
        return nid in self._nids

    def listed(self) -> list[int]:
        """Return the PFNs that are in the hash, ascending."""
        pfns: list[int] = self.machine.pfns(np.flatnonzero(self._lists.entry_of)).tolist()
        return pfns

    def heap(self, nid: int) -> list[HotEntry]:
        """Return what is in a target's heap, in its order."""
        found = self._in_heap(self._nids.index(nid))
        pfns = self.machine.pfns(self._entries.position[found])
        columns = (pfns, self._entries.frequency[found], self._entries.heap_idx[found])
        return [HotEntry(*row) for row in zip(*(column.tolist() for column in columns), strict=True)]

    def mark(self, pfn: int, nid: int, now_jiffies: int = 0, *, cpu: int = 0) -> int:
        """Report an access as its source does; do_numa_page() not where it wants no move."""
        if nid == NUMA_NO_NODE:
            return 0
        return self.record_access(pfn, nid, now_jiffies, hint_fault=self.hint_faults)

    def mark_many(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        cpus: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.designs.model.Model`."""
        reported = nids != NUMA_NO_NODE
        self._record_many(pfns[reported], nids[reported], jiffies[reported], hint_fault=self.hint_faults)

    def record_access(self, pfn: int, nid: int, now_jiffies: int, *, hint_fault: bool = True) -> int:
        """Count an access: ``pghot_record_access()``.

        Args:
            pfn: the page.
            nid: node of the accessing CPU; -1 stands for node 0.
            now_jiffies: the time.
            hint_fault: the source; accesses of all others count anew after the window.

        Returns:
            0, also where nothing is recorded, or -EINVAL: there is no memory below the top tier, or no such
            node can be.
        """
        if not self._started or nid >= N_NODES_MAX:
            return -EINVAL
        pfns, jiffies = np.array([pfn], dtype=np.int64), np.array([now_jiffies], dtype=np.int64)
        self._record_many(pfns, np.array([nid], dtype=np.int32), jiffies, hint_fault=hint_fault)
        return 0

    def _record_many(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        *,
        hint_fault: bool,
    ) -> None:
        """Do :meth:`record_access`, one after the other."""
        machine, counters = self.machine, self.counters
        valid = nids < N_NODES_MAX
        if not self._started or not valid.any():
            return
        n_valid = int(np.count_nonzero(valid))
        counters["pghot_recorded_accesses"] += n_valid
        if hint_fault:
            counters["pghot_recorded_hintfaults"] += n_valid
        pfns, nids, jiffies = pfns[valid], nids[valid], jiffies[valid]
        positions = machine.online_positions(pfns)
        pages = machine.pages(np.maximum(positions, 0))
        known = (positions >= 0) & pages.online & pages.lru
        known &= self._lower.holds_each(pages.nid, pfns)
        positions, buckets = positions[known], self._buckets(pfns[known])
        targets, jiffies = nids[known].astype(np.int64), jiffies[known]
        for part in parts_without_repeats(positions):
            does = self._count_accesses(
                positions[part], buckets[part], targets[part], jiffies[part], hint_fault=hint_fault
            )
            self._book_accesses(positions[part], np.maximum(targets[part], KPROMOTED_DEFAULT_NODE), does)

    def _count_accesses(
        self,
        positions: NDArray[np.int64],
        buckets: NDArray[np.int64],
        nids: NDArray[np.int64],
        jiffies: NDArray[np.int64],
        *,
        hint_fault: bool,
    ) -> NDArray[np.int8]:
        """Count accesses in entries; return what each does to the request of its page."""
        counts, before, n = self._counts, self._counts.copy(), len(positions)
        window_jiffies = self.tunables.freq_window_ms * self.tunables.hz // _MS_PER_S
        does = np.zeros(n, dtype=np.int8)
        short = self._n_entries + n - len(self._entries.position)
        if short > 0:
            self._entries = self._entries.with_more(max(short, len(self._entries.position), _ENTRIES_ROOM))
        done = 0
        while done < n:
            n_counted, self._n_entries = record(
                self._entries,
                self._lists,
                self._heaps,
                self._n_entries,
                positions[done:],
                buckets[done:],
                nids[done:],
                jiffies[done:],
                window_jiffies,
                self.heap_entries,
                hint_fault,
                counts,
                does[done:],
            )
            done += n_counted
            if done < n:  # a list is full
                listed = self._lists.entries
                self._lists = self._lists._replace(entries=np.hstack((listed, np.zeros_like(listed))))
        new = counts - before
        counters = self.counters
        counters["pghot_records_hash"] += int(new[HASHED])
        counters["pghot_records_heap"] += int(new[HEAPED])
        counters["heap_full"] += int(new[HEAPS_FULL])
        counters["hash_entries_examined"] += int(new[N_EXAMINED])
        self._charge(0, atomics=2, n_marks=n)
        counters["producer_lines"] += int(new[N_LINES])
        return does

    def _book_accesses(
        self, positions: NDArray[np.int64], nids: NDArray[np.int64], does: NDArray[np.int8]
    ) -> None:
        """Book what accesses to pages that are all different do to their requests."""
        ledger = self.ledger
        asks = does == ASKS
        ledger.ask_many(positions[asks], nids[asks].astype(np.int32))
        for what, reason in ((HAS_NO_HEAP, NO_HEAP), (HEAP_IS_FULL, HEAP_FULL)):
            n_refused = int(np.count_nonzero(does == what))
            if n_refused:
                ledger.refuse(reason, n_refused)
        for what, reason in ((GOES_ELSEWHERE, COUNTED_ANEW), (COOLS, COOLED), (WRAPS, FREQ_WRAPPED)):
            ledger.end_pending_many(positions[does == what], reason)

    def _buckets(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """``hash_min()`` of an unsigned long: ``hash_64()``."""
        if not self._hash_order:
            return np.zeros(len(pfns), dtype=np.int64)
        hashed = pfns.astype(np.uint64) * np.uint64(_GOLDEN_RATIO_64)
        return (hashed >> np.uint64(64 - self._hash_order)).astype(np.int64)

    def walk(self, nid: int, races: Iterable[Race] = (), *, now_jiffies: int = 0) -> None:
        """Do one turn of a target's thread: ``kpromoted_migrate()``; time stands still meanwhile."""
        counters, self._now_jiffies = self.counters, now_jiffies
        counters["turns"] += 1
        turn = np.zeros(3, dtype=np.int64)
        taken, place = np.zeros((2, self.batch_folios), dtype=np.int64)
        which = self._nids.index(nid)
        n = take_hottest(
            self._entries,
            self._lists,
            self._heaps,
            which,
            self.batch_folios,
            self._counts,
            turn,
            taken,
            place,
        )
        counters["walk_lines"] += int(turn[WALK_LINES])
        counters["entries_examined"] += int(turn[WALK_EXAMINED])
        counters["use_after_free"] += int(turn[USED_AFTER_FREE])
        batch = Batch(ALL_IN_ONE, self.batch_folios)
        to_come = turn[WALK_EXAMINED] - place[:n]
        self._take_all(n, lambda part: self._look(taken[:n][part], to_come[part]), batch, when_off_lru=GONE)
        if batch.heads:
            self._hand_over(*batch.take_all(), nid)

    def _look(self, taken: NDArray[np.int64], n_to_come: NDArray[np.int64]) -> Window:
        """Return what the pages of entries are now: ``phi_is_pfn_hot()``, ``kpromoted_isolate_folio()``."""
        machine, n, entries = self.machine, len(taken), self._entries
        positions, nids = entries.position[taken], entries.nid[taken].astype(np.int64)
        pages = machine.pages(positions)
        there = pages.online & pages.lru
        # The age is in jiffies, the threshold in ms.
        ages = (self._now_jiffies & (1 << PGHOT_TIME_BITS) - 1) - entries.last_update[taken].astype(np.int64)
        now_ms = self._now_jiffies * _MS_PER_S // self.tunables.hz
        return Window(
            positions,
            pages._replace(lru=there),
            nids,
            np.zeros(n, dtype=np.int64),
            np.ones(n, dtype=np.bool_),
            Admission(
                self._limit,
                Asked(nids, pages.n_pages, ages & _U32, now_ms, there & (pages.nid != nids)),
                machine.free_space_enough,
            ),
            machine.refusals(pages.head, nids),
            machine.draws(n),
            n_to_come=n_to_come,
            entries=taken,
        )

    def _book(self, window: Window, became: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """See :class:`gpuscan.designs.model.Model`; what is not isolated is counted by its reason."""
        assert window.admission is not None
        assert window.entries is not None
        window.admission.commit(len(became), self.counters)
        counters, entries, goes = self.counters, window.entries[: len(became)], became == GOES
        online = window.pages.online[: len(became)]
        counters["kpromoted_non_lru"] += int(np.count_nonzero((became == GONE) & online))
        counters["kpromoted_right_node"] += int(np.count_nonzero(became == AT_HOME))
        counters["kpromoted_dropped"] += int(np.isin(became, (GONE, AT_HOME, NOT_ADMITTED)).sum())
        wrapped = self._now_jiffies - self._entries.last_access[entries] >= 1 << PGHOT_TIME_BITS
        counters["false_promotions"] += int(np.count_nonzero(wrapped & goes))
        counters["promoted_beyond_window"] += int(self._entries.beyond_window[entries[goes]].sum())
        return super()._book(window, became)

    def finish(self) -> None:
        """Book what waits behind an entry that is not hot: the thread looks no further than the first."""
        entries = self._entries
        for which in range(len(self._nids)):
            found = self._in_heap(which)
            if len(found) and entries.frequency[found[0]] < KPROMOTED_FREQ_THRESHOLD:
                waiting = np.unique(entries.position[found[~entries.freed[found]]])
                self.ledger.end_pending_many(waiting, BEHIND_A_COOL_HEAD)

    def producer_wait_ns(self, duration_ns: int, cost: KernelCostSpec, n_cpus: int) -> float:
        """See :class:`gpuscan.designs.model.Model`: for a lock of the hash, and inside for the heap's."""
        n_locks = 1 << self._hash_order
        counts, heaps = self._counts, self._heaps.counts
        lists = LockUse(*counts[LIST_HOLDS:].tolist())
        total = int(counts[N_MARKS]) * lists.wait_ns(duration_ns, cost, n_cpus, n_locks)
        for row in heaps.tolist():
            total += row[HEAP_MARKS] * LockUse(*row[:HEAP_MARKS]).wait_ns(duration_ns, cost, n_cpus)
        counts[:] = 0
        heaps[:] = 0
        return total

    def _in_heap(self, which: int) -> NDArray[np.int32]:
        """Return the entries of a heap, in its order."""
        return self._heaps.entries[which, : self._heaps.lengths[which]]

    def _ready_at(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        none = np.empty(0, dtype=np.int32)
        found = np.concatenate([none, *map(self._in_heap, range(len(self._nids)))])
        heaped = self._entries.position[found[~self._entries.freed[found]]]
        return np.isin(positions, heaped, kind="table")


def _made(machine: Machine, policy: Policy) -> HotList:
    defaults = HotListTunables()
    tunables = HotListTunables(
        freq_window_ms=policy.window_ns // NS_PER_MS or defaults.freq_window_ms,
        rate_limit_mbps=policy.rate_limit_bytes_per_s // MIB or defaults.rate_limit_mbps,
        hz=policy.hz,
    )
    return HotList(machine, tunables)


def _bounds(tuning: Tuning) -> Iterator[Bound | Divisor]:
    policy = tuning.policy
    yield whole_ms(policy)
    yield from rate_limit_bounds(policy)
    window_ms = policy.window_ns / NS_PER_MS
    if window_ms:
        yield Bound("policy.window", window_ms, 1, INT_MAX, " ms", "pghot_promote_freq_window_ms")


def _metadata_bytes(machine: SimulatedMachine, _policy: Policy, n_asked: int) -> int:
    nodes, top_tier = machine.topology.nodes, machine.top_tier
    n_hashed = sum(node.present_pages for node in nodes if not top_tier[node.nid]) * PGHOT_HASH_PCT // 100
    n_heaps = sum(1 for node in nodes if node.cpus and top_tier[node.nid])
    heaps = n_heaps * (n_hashed * PGHOT_HEAP_PCT // 100) * _POINTER_BYTES
    return n_hashed // PGHOT_HASH_ENTRIES * _BUCKET_BYTES + heaps + n_asked * ENTRY_BYTES


_NOT_MEASURED = NotMeasured("see hot-list in designs.md")
"""What a producer takes that searches a chain and sifts a heap, and a thread that takes from it, depends on
how long both are."""

DESIGN = Design(
    name="hot-list",
    line='kpromoted, "[RFC PATCH v2 0/8] mm: Hot page tracking and promotion infrastructure", B. Rao, '
    "linux-mm, 2025-09-10, with all its patches: a hash of accessed pages, a heap of hot ones per target, "
    "batches of 1,024",
    kind="as posted",
    order=40,
    looks_at="entries",
    counts_accesses="always",
    asks_time=True,
    threshold=False,  # KPROMOTED_FREQ_THRESHOLD, a constant
    bounds=_bounds,
    metadata_bytes=_metadata_bytes,
    record_bytes=lambda _: ENTRY_BYTES,
    look="list entry",  # which is too little
    scan=_NOT_MEASURED,
    mark=_NOT_MEASURED,
    beside=_NOT_MEASURED,
    plot=PlotStyle(order=60, line={"color": "#56B4E9", "linewidth": 2.0}),
    model=Modelled(
        make=_made,
        needs_flag=False,
        bypasses_thp=True,  # v2 leaves do_huge_pmd_numa_page() as it was
        locks_records=False,
        two_atomics=False,
    ),
)
