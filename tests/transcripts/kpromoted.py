"""kpromoted page by page in plain Python: the judge of what :mod:`gpuscan.designs.hot_entries` compiles.

What all models share (batch calls, the ledger, the rate limit) is gpuscan's; lists, heaps and turns are not.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.built_in.hot_list import HotListTunables
from gpuscan.designs.locks import LockUse
from gpuscan.designs.machine import EINVAL, NUMA_NO_NODE, Machine
from gpuscan.designs.model import Model
from gpuscan.designs.promotion_limit import PromotionLimit
from gpuscan.designs.races import Race
from gpuscan.designs.requests import (
    BEHIND_A_COOL_HEAD,
    CONSUMED,
    COOLED,
    COUNTED_ANEW,
    FREQ_WRAPPED,
    HEAP_FULL,
    NO_HEAP,
    NOT_PROMOTED,
)
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.sim.spec import KernelCostSpec

KPROMOTED_FREQ_THRESHOLD = 2
KPROMOTED_DEFAULT_NODE = 0
PGHOT_HASH_PCT = 50
PGHOT_HASH_ENTRIES = 1024
PGHOT_HEAP_PCT = 25
PGHOT_FREQ_MASK = 7
PGHOT_FREQ_MAX = 8
PGHOT_TIME_BITS = 19
_GOLDEN_RATIO_64 = 0x61C8_8646_80B5_83EB
_U32, _U64 = 0xFFFF_FFFF, 0xFFFF_FFFF_FFFF_FFFF
_MS_PER_S = 1000
NOT_IN_A_HEAP = -1


@dataclass(slots=True, eq=False)
class HotEntry:
    """What is known about a page: ``struct pghot_info``.

    Attributes:
        pfn, position: the page.
        frequency: accesses, 3 bits.
        nid: node of the last access.
        last_update: its time in jiffies, 19 bits.
        heap_idx: place in the heap it was put into last.
        serial: when it was entered in its hash list, for its place there.
        freed: it went back to the allocator; a heap that still has it points to freed memory.
        last_access: time of the last access in jiffies, as it really was.
        beyond_window: an access counted although it came later after the one before than the window.
    """

    pfn: int
    position: int
    serial: int
    frequency: int = 0
    nid: int = 0
    last_update: int = 0
    heap_idx: int = NOT_IN_A_HEAP
    freed: bool = False
    last_access: int = 0
    beyond_window: bool = False


class MaxHeap:
    """A heap of entries by frequency, the highest first.

    Attributes:
        data: the entries in the heap's order.
        n_touched: entries looked at since :meth:`take_touched`: each lies in a line of its own.
    """

    def __init__(self) -> None:
        self.data: list[HotEntry] = []
        self.n_touched = 0

    def take_touched(self) -> int:
        """Return ``n_touched`` and begin anew."""
        touched, self.n_touched = self.n_touched, 0
        return touched

    def holds(self, entry: HotEntry) -> bool:
        """Whether an entry lies where it says, in this heap."""
        return 0 <= entry.heap_idx < len(self.data) and self.data[entry.heap_idx] is entry

    def push(self, entry: HotEntry) -> None:
        """Enter an entry."""
        entry.heap_idx = len(self.data)
        self.data.append(entry)
        self._sift_up(entry.heap_idx)

    def update(self, entry: HotEntry) -> None:
        """Let an entry whose frequency changed rise, or sink where it did not: phi_heap_update_entry()."""
        before = entry.heap_idx
        self._sift_up(before)
        if self.data[entry.heap_idx].heap_idx == before:
            self._sift_down(entry.heap_idx)

    def remove(self, index: int) -> HotEntry:
        """Take out the entry at a place; the last one takes it over and sinks, but never rises."""
        removed, last = self.data[index], self.data.pop()
        if index < len(self.data):
            self.data[index] = last
            last.heap_idx = index
            self._sift_down(index)
        return removed

    def _less(self, left: int, right: int) -> bool:
        """Whether ``left`` belongs nearer to the root."""
        return self.data[left].frequency > self.data[right].frequency

    def _swap(self, left: int, right: int) -> None:
        data = self.data
        data[left], data[right] = data[right], data[left]
        data[left].heap_idx, data[right].heap_idx = left, right

    def _sift_up(self, index: int) -> None:
        while index:
            parent = (index - 1) // 2
            self.n_touched += 1
            if self._less(parent, index):
                break
            self._swap(index, parent)
            index = parent

    def _sift_down(self, index: int) -> None:
        n, at = len(self.data), index
        self.n_touched += 1
        while 2 * at + 2 < n:
            self.n_touched += 2
            left, right = 2 * at + 1, 2 * at + 2
            at = left if self._less(left, right) else right
        if 2 * at + 2 == n:  # a last leaf without a sibling
            at = 2 * at + 1
        while at != index and self._less(index, at):
            at = (at - 1) // 2
        goal = at
        while at != index:
            at = (at - 1) // 2
            self._swap(at, goal)


class PlainHotList(Model):
    """kpromoted on one machine.

    Args:
        machine: whose accesses are listed.
        tunables: see there.

    Attributes:
        entries: by PFN, what is in the hash.
        heaps: by target.
        heap_entries: how many each may hold.
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
        self.entries: dict[int, HotEntry] = {}
        self._started = lower_pages > 0  # pghot_init(): whether any node has a thread is not asked
        self.heaps = (
            {nid: MaxHeap() for nid in machine.nids if machine.is_top_tier(nid) and machine.has_cpus(nid)}
            if self._started
            else {}
        )
        self._lists: dict[int, list[int]] = {}  # serials, ascending; hlist_add_head() puts new ones in front
        self._serial = 0
        self._limit = PromotionLimit(self.tunables.rate_limit_mbps, self.tunables.freq_window_ms)
        self._list_locks = LockUse()
        self._heap_locks = {nid: LockUse() for nid in self.heaps}
        self._n_heap_marks = dict.fromkeys(self.heaps, 0)
        self._n_list_marks = 0

    def has_thread(self, nid: int) -> bool:
        """See :class:`gpuscan.designs.model.Model`."""
        return nid in self.heaps

    def mark(self, pfn: int, nid: int, now_jiffies: int = 0, *, cpu: int = 0) -> int:
        """Report an access as its source does; do_numa_page() not where it wants no move."""
        if nid == NUMA_NO_NODE:
            return 0
        return self.record_access(pfn, nid, now_jiffies, hint_fault=self.hint_faults)

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
        machine, counters = self.machine, self.counters
        if not self._started or nid >= N_NODES_MAX:
            return -EINVAL
        counters["pghot_recorded_accesses"] += 1
        if hint_fault:
            counters["pghot_recorded_hintfaults"] += 1
        position = machine.position(pfn)
        if position < 0:
            return 0
        page = machine.page(position)
        if machine.is_top_tier(page.nid) or not page.online or not page.lru:
            return 0
        if any(zone.device and zone.start_pfn <= pfn < zone.end_pfn for zone in machine.zones(page.nid)):
            return 0
        self._n_list_marks += 1
        entry, n_lines = self._look_up(pfn)
        if entry is None:
            entry = self._enter(pfn, position)
            self._count(entry, nid, now_jiffies, anew=True, hint_fault=hint_fault)
            counters["pghot_records_hash"] += 1
            n_lines += 1
        else:
            anew = nid not in (NUMA_NO_NODE, entry.nid)
            self._count(entry, nid, now_jiffies, anew=anew, hint_fault=hint_fault)
            n_lines += self._add_or_adjust(entry)
        self._list_locks.hold(n_lines)
        self._charge(n_lines, atomics=2)
        return 0

    def walk(self, nid: int, races: Iterable[Race] = (), *, now_jiffies: int = 0) -> None:
        """Do one turn of a target's thread: ``kpromoted_migrate()``; time stands still meanwhile.

        Nobody else is there, so the top of the heap never changes between the two looks at it (after
        ten such changes the patch gives up).
        """
        heap, counters = self.heaps[nid], self.counters
        counters["turns"] += 1
        migrate_list: list[int] = []
        for _ in range(self.batch_folios):
            self._heap_locks[nid].hold(1)
            if not heap.data or heap.data[0].frequency < KPROMOTED_FREQ_THRESHOLD:
                break
            entry = heap.remove(0)
            n_lines = heap.take_touched()
            self._heap_locks[nid].hold(n_lines)
            self._list_locks.hold(n_lines + 1)
            counters["walk_lines"] += n_lines + 3  # the neighbours in its list, and struct page
            counters["entries_examined"] += 1
            if entry.freed:
                # Another heap had it, too, and its thread freed it. The kernel goes on with whatever is
                # there now; here it is left out.
                counters["use_after_free"] += 1
                continue
            self._forget(entry)
            head = self._take(entry, now_jiffies)
            if head is not None:
                migrate_list.append(head)
        if migrate_list:
            self._flush(migrate_list, nid)

    def finish(self) -> None:
        """Book what waits behind an entry that is not hot: the thread looks no further than the first."""
        for heap in self.heaps.values():
            if heap.data and heap.data[0].frequency < KPROMOTED_FREQ_THRESHOLD:
                for entry in heap.data:
                    if not entry.freed:
                        self.ledger.end_pending(entry.position, BEHIND_A_COOL_HEAD)

    def producer_wait_ns(self, duration_ns: int, cost: KernelCostSpec, n_cpus: int) -> float:
        """See :class:`gpuscan.designs.model.Model`: for a lock of the hash, and inside for the heap's."""
        n_locks = 1 << self._hash_order
        total = self._n_list_marks * self._list_locks.wait_ns(duration_ns, cost, n_cpus, n_locks)
        for nid, lock in self._heap_locks.items():
            total += self._n_heap_marks[nid] * lock.wait_ns(duration_ns, cost, n_cpus)
            self._heap_locks[nid] = LockUse()
            self._n_heap_marks[nid] = 0
        self._list_locks = LockUse()
        self._n_list_marks = 0
        return total

    def _look_up(self, pfn: int) -> tuple[HotEntry | None, int]:
        """Return the entry of a PFN, and how many of its list were looked at: ``phi_lookup()``."""
        serials = self._lists.get(self._bucket(pfn), [])
        entry = self.entries.get(pfn)
        n_looked_at = len(serials) - (0 if entry is None else bisect_left(serials, entry.serial))
        self.counters["hash_entries_examined"] += n_looked_at
        return entry, n_looked_at

    def _bucket(self, pfn: int) -> int:
        """``hash_min()`` of an unsigned long: ``hash_64()``."""
        return (pfn * _GOLDEN_RATIO_64 & _U64) >> (64 - self._hash_order)

    def _enter(self, pfn: int, position: int) -> HotEntry:
        """Make an entry; memory for it is always there."""
        self._serial += 1
        entry = self.entries[pfn] = HotEntry(pfn, position, self._serial)
        self._lists.setdefault(self._bucket(pfn), []).append(entry.serial)
        return entry

    def _forget(self, entry: HotEntry) -> None:
        """Take an entry out of the hash and free it, whatever heap it is in besides."""
        entry.freed = True
        del self.entries[entry.pfn]
        serials = self._lists[self._bucket(entry.pfn)]
        del serials[bisect_left(serials, entry.serial)]

    def _count(self, entry: HotEntry, nid: int, now_jiffies: int, *, anew: bool, hint_fault: bool) -> None:
        """Count an access in an entry. A frequency of 7 is below PGHOT_FREQ_MAX, and one more is 0 in 3
        bits."""
        time = now_jiffies & (1 << PGHOT_TIME_BITS) - 1
        window_jiffies = self.tunables.freq_window_ms * self.tunables.hz // _MS_PER_S
        late = (time - entry.last_update) & _U32 > window_jiffies
        if anew or (late and not hint_fault):
            entry.frequency = 1
            entry.beyond_window = False
        elif entry.frequency < PGHOT_FREQ_MAX:
            entry.frequency = entry.frequency + 1 & PGHOT_FREQ_MASK
            entry.beyond_window |= late
        entry.last_update, entry.last_access = time, now_jiffies
        entry.nid = KPROMOTED_DEFAULT_NODE if nid == NUMA_NO_NODE else nid

    def _add_or_adjust(self, entry: HotEntry) -> int:
        """Move an entry in the heap of its node: ``phi_heap_add_or_adjust()``; return lines touched.

        An entry whose node has changed stays in the heap of the node before. Nothing there is moved when
        its frequency drops, so it can come to lie on top of hotter ones; once it is hot again it is in two
        heaps.
        """
        heap, hot = self.heaps.get(entry.nid), entry.frequency >= KPROMOTED_FREQ_THRESHOLD
        if heap is None:
            # No thread ever allocated a heap there: min_heap_push() warns once and does nothing. But
            # phi_heap_insert() has written the place before, and says that the entry is in.
            if hot:
                entry.heap_idx = 0
                self.counters["pghot_records_heap"] += 1
                self.ledger.refuse(NO_HEAP)
            else:
                self.ledger.end_pending(entry.position, COUNTED_ANEW)
            return 0
        if heap.holds(entry):
            if hot:
                heap.update(entry)
                self.ledger.ask(entry.position, entry.nid)
            else:
                heap.remove(entry.heap_idx)
                entry.heap_idx = NOT_IN_A_HEAP
                self.ledger.end_pending(entry.position, COOLED if entry.frequency else FREQ_WRAPPED)
        elif not hot:
            self.ledger.end_pending(entry.position, COUNTED_ANEW)
        elif len(heap.data) >= self.heap_entries:
            self.counters["heap_full"] += 1
            self.ledger.refuse(HEAP_FULL)
        else:
            heap.push(entry)
            self.counters["pghot_records_heap"] += 1
            self.ledger.ask(entry.position, entry.nid)
        n_lines = heap.take_touched()
        self._heap_locks[entry.nid].hold(n_lines)
        self._n_heap_marks[entry.nid] += 1
        return n_lines

    def _take(self, entry: HotEntry, now_jiffies: int) -> int | None:
        """Check and isolate what was taken out: ``phi_is_pfn_hot()``, ``kpromoted_isolate_folio()``."""
        counters, nid = self.counters, entry.nid
        counters["claimed"] += 1
        asked = self.ledger.claim(entry.position)
        page = self.machine.page(entry.position)
        if not page.online or not page.lru:
            counters["kpromoted_non_lru"] += page.online
            self.ledger.lose(asked, CONSUMED)
        elif self._at_home(page, nid, asked):
            counters["kpromoted_right_node"] += 1
        elif not self._should_promote(entry, page.n_pages, now_jiffies):
            counters["not_promoted"] += 1
            self.ledger.lose(asked, NOT_PROMOTED)
        elif self._isolate(page, nid, asked):
            wrapped = now_jiffies - entry.last_access >= 1 << PGHOT_TIME_BITS
            counters["false_promotions"] += wrapped
            counters["promoted_beyond_window"] += entry.beyond_window
            return page.head
        else:
            return None
        counters["kpromoted_dropped"] += 1
        return None

    def _should_promote(self, entry: HotEntry, n_pages: int, now_jiffies: int) -> bool:
        """Apply free-memory bypass, threshold and rate limit; the age is in jiffies, the threshold in ms."""
        if self.machine.free_space_enough(entry.nid):
            self._limit.bypass(entry.nid)
            return True
        time = now_jiffies & (1 << PGHOT_TIME_BITS) - 1
        latency = (time - entry.last_update) & _U32
        now_ms = now_jiffies * _MS_PER_S // self.tunables.hz
        admitted, n_candidates = self._limit.admits(entry.nid, n_pages, latency, now_ms)
        self.counters["pgpromote_candidate"] += n_candidates
        return admitted

    def _ready_at(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        listed = [entry.position for heap in self.heaps.values() for entry in heap.data if not entry.freed]
        return np.isin(positions, np.array(listed, dtype=np.int64))
