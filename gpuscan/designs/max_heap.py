"""The heap that kpromoted keeps per target: most accesses first, and every entry knows its place.

As include/linux/min_heap.h (Linux 6.12 and later) orders it, since that decides which of many
equally hot pages goes first: an entry that rises passes its equals, and one that sinks goes
down to a leaf and rises again from there.
"""

from __future__ import annotations

from dataclasses import dataclass

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
