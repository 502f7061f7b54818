"""What kpromoted keeps of accessed pages: entries in the lists of a hash, the hot ones in heaps, too.

Compiled, step by step. A heap is ordered as include/linux/min_heap.h (Linux 6.12 and later) does it, since
that decides which of many equally hot pages goes first: an entry that rises passes its equals, and one that
sinks goes down to a leaf and rises again from there.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.compiled import compiled

NOT_IN_A_HEAP = -1
KPROMOTED_FREQ_THRESHOLD = 2
KPROMOTED_DEFAULT_NODE = 0
PGHOT_FREQ_MASK = 7
PGHOT_FREQ_MAX = 8
"""``1 << PGHOT_FREQ_BITS``, one more than the 3 bits can hold."""
PGHOT_TIME_BITS = 19
_TIME_MASK = (1 << PGHOT_TIME_BITS) - 1
_U32 = 0xFFFF_FFFF

NOTHING, ASKS, HAS_NO_HEAP, HEAP_IS_FULL, GOES_ELSEWHERE, COOLS, WRAPS = range(7)
"""What an access does to the request of its page: nothing; begins one; one that finds no heap, or no room in
it; ends it, since the entry is of another node and not hot, a window began, or the frequency wrapped."""

HASHED, HEAPED, N_EXAMINED, HEAPS_FULL, N_MARKS, N_LINES, LIST_HOLDS = range(7)
"""Places in counts: entries entered in lists, and in heaps; entries of lists looked at; heaps that were full;
accesses, and the lines they touched; from LIST_HOLDS on what :class:`gpuscan.designs.locks.LockUse` keeps."""
N_COUNTS = LIST_HOLDS + 3
HEAP_HOLDS, HEAP_MARKS = 0, 3
"""Places in what is counted of each heap: of its lock, and accesses that took it."""
N_HEAP_COUNTS = 4
USED_AFTER_FREE, WALK_LINES, WALK_EXAMINED = range(3)
"""Places in what is counted of a turn."""


class Entries(NamedTuple):
    """All entries that were ever made, in their order: ``struct pghot_info``, each column as long.

    Attributes:
        position: int64[n], of the page.
        bucket: int32[n], the list it is in.
        frequency: int8[n], accesses, 3 bits.
        nid: int16[n], node of the last access.
        last_update: int32[n], its time in jiffies, 19 bits.
        heap_idx: int32[n], place in the heap it was put into last.
        freed: bool[n], it went back to the allocator; a heap that still has it points to freed memory.
        last_access: int64[n], time of the last access in jiffies, as it really was.
        beyond_window: bool[n], an access counted although it came later after the one before than the window.
    """

    position: NDArray[np.int64]
    bucket: NDArray[np.int32]
    frequency: NDArray[np.int8]
    nid: NDArray[np.int16]
    last_update: NDArray[np.int32]
    heap_idx: NDArray[np.int32]
    freed: NDArray[np.bool_]
    last_access: NDArray[np.int64]
    beyond_window: NDArray[np.bool_]

    @classmethod
    def room_for(cls, n: int) -> Entries:
        """Return so many, all unused."""
        dtypes = (np.int64, np.int32, np.int8, np.int16, np.int32, np.int32, np.bool_, np.int64, np.bool_)
        columns: list[Any] = [np.zeros(n, dtype=dtype) for dtype in dtypes]
        return cls(*columns)

    def with_more(self, n: int) -> Entries:
        """Return the same with so many unused ones behind."""
        columns: list[Any] = [np.concatenate((old, np.zeros(n, dtype=old.dtype))) for old in self]
        return Entries(*columns)


class Lists(NamedTuple):
    """The lists of the hash.

    Attributes:
        entries: int32[n_lists, room], what each has, oldest first; ``hlist_add_head()`` puts new ones in
            front, so a search begins behind.
        lengths: int32[n_lists].
        entry_of: int32[n_positions], one more than the entry of each page, 0 for none.
    """

    entries: NDArray[np.int32]
    lengths: NDArray[np.int32]
    entry_of: NDArray[np.int32]


class Heaps(NamedTuple):
    """The heaps.

    Attributes:
        entries: int32[n_heaps, n], in the heap's order.
        lengths: int64[n_heaps].
        of_nid: int64[n_nids], which one is a node's, -1 for none.
        counts: int64[n_heaps, N_HEAP_COUNTS].
    """

    entries: NDArray[np.int32]
    lengths: NDArray[np.int64]
    of_nid: NDArray[np.int64]
    counts: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class HotEntry:
    """An entry as it is now, for somebody who looks at a heap: see :class:`Entries`."""

    pfn: int
    frequency: int
    heap_idx: int


@compiled
def hold(counts: NDArray[np.int64], first: int, n_lines: int) -> None:
    """Note in three places from ``first`` on that a lock was held: see :meth:`LockUse.hold`."""
    counts[first] += 1
    counts[first + 1] += n_lines
    counts[first + 2] += n_lines * n_lines


@compiled
def _swap(entries: Entries, heap: NDArray[np.int32], left: int, right: int) -> None:
    heap[left], heap[right] = heap[right], heap[left]
    entries.heap_idx[heap[left]] = left
    entries.heap_idx[heap[right]] = right


@compiled
def _less(entries: Entries, heap: NDArray[np.int32], left: int, right: int) -> bool:
    """Whether ``left`` belongs nearer to the root."""
    return bool(entries.frequency[heap[left]] > entries.frequency[heap[right]])


@compiled
def _sift_up(entries: Entries, heap: NDArray[np.int32], index: int) -> int:
    """Let an entry rise; return how many others were looked at."""
    n_touched = 0
    while index:
        parent = (index - 1) // 2
        n_touched += 1
        if _less(entries, heap, parent, index):
            break
        _swap(entries, heap, index, parent)
        index = parent
    return n_touched


@compiled
def _sift_down(entries: Entries, heap: NDArray[np.int32], n: int, index: int) -> int:
    """Let an entry sink in a heap of ``n``; return how many were looked at."""
    at, n_touched = index, 1
    while 2 * at + 2 < n:
        n_touched += 2
        left, right = 2 * at + 1, 2 * at + 2
        at = left if _less(entries, heap, left, right) else right
    if 2 * at + 2 == n:  # a last leaf without a sibling
        at = 2 * at + 1
    while at != index and _less(entries, heap, index, at):
        at = (at - 1) // 2
    goal = at
    while at != index:
        at = (at - 1) // 2
        _swap(entries, heap, at, goal)
    return n_touched


@compiled
def _update(entries: Entries, heap: NDArray[np.int32], n: int, entry: int) -> int:
    """Let an entry whose frequency changed rise, or sink where it did not: phi_heap_update_entry()."""
    before = entries.heap_idx[entry]
    n_touched = _sift_up(entries, heap, before)
    at = entries.heap_idx[entry]
    if entries.heap_idx[heap[at]] == before:
        n_touched += _sift_down(entries, heap, n, at)
    return n_touched


@compiled
def _remove(entries: Entries, heaps: Heaps, which: int, index: int) -> int:
    """Take out the entry at a place; the last one takes it over and sinks, but never rises."""
    heap = heaps.entries[which]
    heaps.lengths[which] -= 1
    n = heaps.lengths[which]
    if index == n:
        return 0
    last = heap[n]
    heap[index] = last
    entries.heap_idx[last] = index
    return _sift_down(entries, heap, n, index)


@compiled
def _count(
    entries: Entries,
    entry: int,
    nid: int,
    now_jiffies: int,
    window_jiffies: int,
    anew: bool,
    hint_fault: bool,
) -> None:
    """Count an access in an entry. A frequency of 7 is below PGHOT_FREQ_MAX, and one more is 0 in 3 bits."""
    time = now_jiffies & _TIME_MASK
    late = (time - entries.last_update[entry]) & _U32 > window_jiffies
    if anew or (late and not hint_fault):
        entries.frequency[entry] = 1
        entries.beyond_window[entry] = False
    elif entries.frequency[entry] < PGHOT_FREQ_MAX:
        entries.frequency[entry] = (entries.frequency[entry] + 1) & PGHOT_FREQ_MASK
        entries.beyond_window[entry] |= late
    entries.last_update[entry] = time
    entries.last_access[entry] = now_jiffies
    entries.nid[entry] = nid if nid >= 0 else KPROMOTED_DEFAULT_NODE


@compiled
def _add_or_adjust(
    entries: Entries, heaps: Heaps, entry: int, heap_entries: int, counts: NDArray[np.int64]
) -> tuple[int, int]:
    """Move an entry in the heap of its node: ``phi_heap_add_or_adjust()``; return lines touched, and what
    that does to its request.

    An entry whose node has changed stays in the heap of the node before. Nothing there is moved when
    its frequency drops, so it can come to lie on top of hotter ones; once it is hot again it is in two
    heaps.
    """
    nid = entries.nid[entry]
    which = heaps.of_nid[nid] if nid < len(heaps.of_nid) else -1
    hot = entries.frequency[entry] >= KPROMOTED_FREQ_THRESHOLD
    if which < 0:
        # No thread ever allocated a heap there: min_heap_push() warns once and does nothing. But
        # phi_heap_insert() has written the place before, and says that the entry is in.
        if not hot:
            return 0, GOES_ELSEWHERE
        entries.heap_idx[entry] = 0
        counts[HEAPED] += 1
        return 0, HAS_NO_HEAP
    heap, n, at = heaps.entries[which], heaps.lengths[which], entries.heap_idx[entry]
    n_touched, does = 0, ASKS
    if 0 <= at < n and heap[at] == entry:
        if hot:
            n_touched = _update(entries, heap, n, entry)
        else:
            n_touched = _remove(entries, heaps, which, at)
            entries.heap_idx[entry] = NOT_IN_A_HEAP
            does = COOLS if entries.frequency[entry] else WRAPS
    elif not hot:
        does = GOES_ELSEWHERE
    elif n >= heap_entries:
        counts[HEAPS_FULL] += 1
        does = HEAP_IS_FULL
    else:
        heap[n] = entry
        entries.heap_idx[entry] = n
        heaps.lengths[which] += 1
        n_touched = _sift_up(entries, heap, n)
        counts[HEAPED] += 1
    hold(heaps.counts[which], HEAP_HOLDS, n_touched)
    heaps.counts[which, HEAP_MARKS] += 1
    return n_touched, does


@compiled
def _place_in_list(entries: NDArray[np.int32], n: int, entry: int) -> int:
    """Return where an entry is in a list of ``n``, whose entries were made one after the other."""
    lo, hi = 0, n
    while lo < hi:
        middle = (lo + hi) // 2
        if entries[middle] < entry:
            lo = middle + 1
        else:
            hi = middle
    return lo


@compiled
def record(
    entries: Entries,
    lists: Lists,
    heaps: Heaps,
    n_entries: int,
    positions: NDArray[np.int64],
    buckets: NDArray[np.int64],
    nids: NDArray[np.int64],
    jiffies: NDArray[np.int64],
    window_jiffies: int,
    heap_entries: int,
    hint_fault: bool,
    counts: NDArray[np.int64],
    does: NDArray[np.int8],
) -> tuple[int, int]:
    """Count accesses to pages that can be listed, one after the other: ``pghot_record_access()``.

    Args:
        entries, lists, heaps: as they are.
        n_entries: made so far; there is room for one for each access.
        positions, buckets, nids, jiffies: of the accesses, with the list that each page belongs to.
        window_jiffies, heap_entries, hint_fault: see :class:`HotList`.
        counts: int64[N_COUNTS], brought forward.
        does: int8[n], what each does to the request of its page.

    Returns:
        How many were counted, all of them unless a list is full, and how many entries are made now.
    """
    for i in range(len(positions)):
        bucket = buckets[i]
        entry, n_listed = lists.entry_of[positions[i]] - 1, lists.lengths[bucket]
        if entry < 0:
            if n_listed == lists.entries.shape[1]:
                return i, n_entries
            entry, n_entries = n_entries, n_entries + 1
            entries.position[entry], entries.bucket[entry] = positions[i], bucket
            entries.heap_idx[entry] = NOT_IN_A_HEAP
            lists.entry_of[positions[i]] = entry + 1
            lists.entries[bucket, n_listed] = entry
            lists.lengths[bucket] = n_listed + 1
            _count(entries, entry, nids[i], jiffies[i], window_jiffies, True, hint_fault)
            counts[HASHED] += 1
            n_looked_at, n_lines = n_listed, 1
        else:
            n_looked_at = n_listed - _place_in_list(lists.entries[bucket], n_listed, entry)
            anew = nids[i] >= 0 and nids[i] != entries.nid[entry]
            _count(entries, entry, nids[i], jiffies[i], window_jiffies, anew, hint_fault)
            n_lines, does[i] = _add_or_adjust(entries, heaps, entry, heap_entries, counts)
        counts[N_EXAMINED] += n_looked_at
        counts[N_MARKS] += 1
        counts[N_LINES] += n_looked_at + n_lines
        hold(counts, LIST_HOLDS, n_looked_at + n_lines)
    return len(positions), n_entries


@compiled
def take_hottest(
    entries: Entries,
    lists: Lists,
    heaps: Heaps,
    which: int,
    limit: int,
    counts: NDArray[np.int64],
    turn: NDArray[np.int64],
    taken: NDArray[np.int64],
    place: NDArray[np.int64],
) -> int:
    """Take the hottest entries out of a heap and of the hash, ``limit`` at most: of ``kpromoted_migrate()``.

    Nobody else is there, so the top of the heap never changes between the two looks at it (after ten such
    changes the patch gives up).

    Args:
        entries, lists, heaps: as they are.
        which: heap.
        limit: how many are looked at.
        counts: int64[N_COUNTS], brought forward.
        turn: int64[3], of this turn.
        taken: int64[limit], becomes the entries.
        place: int64[limit], how many were looked at up to each.

    Returns:
        How many were taken.
    """
    n_taken = 0
    heap = heaps.entries[which]
    for _ in range(limit):
        hold(heaps.counts[which], HEAP_HOLDS, 1)
        if heaps.lengths[which] == 0 or entries.frequency[heap[0]] < KPROMOTED_FREQ_THRESHOLD:
            break
        entry = heap[0]
        n_lines = _remove(entries, heaps, which, 0)
        hold(heaps.counts[which], HEAP_HOLDS, n_lines)
        hold(counts, LIST_HOLDS, n_lines + 1)
        turn[WALK_LINES] += n_lines + 3  # the neighbours in its list, and struct page
        turn[WALK_EXAMINED] += 1
        if entries.freed[entry]:
            # Another heap had it, too, and its thread freed it. The kernel goes on with whatever is
            # there now; here it is left out.
            turn[USED_AFTER_FREE] += 1
            continue
        # It is freed, whatever heap it is in besides.
        entries.freed[entry] = True
        lists.entry_of[entries.position[entry]] = 0
        bucket = entries.bucket[entry]
        listed, n = lists.entries[bucket], lists.lengths[bucket]
        for at in range(_place_in_list(listed, n, entry), n - 1):
            listed[at] = listed[at + 1]
        lists.lengths[bucket] = n - 1
        taken[n_taken], place[n_taken] = entry, turn[WALK_EXAMINED]
        n_taken += 1
    return n_taken
