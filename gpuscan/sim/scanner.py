"""The NUMA balancing scanner: unmaps a window of each process, so that the next access faults.

task_numa_work() in kernel/sched/fair.c walks a process's address space
``numa_balancing_scan_size_mb`` at a time; stretches in which nothing was unmapped do
not count, up to eight times that much. Left out, on purpose: it skips read-only
file mappings, and change_pte_range() skips dirty file pages. Other producers of
marks (IBS, pghot) do not, and what the migrator refuses should be seen.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.sim.address_space import AddressSpace
from gpuscan.sim.loops import unmap
from gpuscan.sim.process import Process
from gpuscan.units import PAGE_BYTES

_NS_PER_MS = 1_000_000
_VIRTUAL_WINDOWS = 8
"""``virtpages = pages * 8`` in task_numa_work()."""
_CHUNK_FOLIOS = 1 << 22
"""Folios unmapped between two chances for Ctrl-C: some 20 ms."""


class HintScanner:
    """Unmaps the pages of one machine's processes.

    Args:
        space: whose page table.
        section_nid: node per flat section.
        scanned_nids: uint8[1024], 1 for nodes whose pages are unmapped.
        scan_bytes: one window.
    """

    def __init__(
        self,
        space: AddressSpace,
        section_nid: NDArray[np.int32],
        scanned_nids: NDArray[np.uint8],
        scan_bytes: int,
    ) -> None:
        self._space = space
        self._section_nid = section_nid
        self._scanned_nids = scanned_nids
        self._window_pages = max(1, scan_bytes // PAGE_BYTES)
        self._cursors: dict[int, int] = {}  # by the process's first folio
        self._unmapped_ms = np.zeros(space.n_folios, dtype=np.uint32)

    @property
    def n_bytes(self) -> int:
        """Memory the times of unmapping take."""
        return self._unmapped_ms.nbytes

    def scan(self, process: Process, now_ns: int) -> int:
        """Unmap the next window of a process, at most all of it; return how many folios were unmapped."""
        first, n_folios = process.first_folio, process.n_folios
        cursor = self._cursors.get(first, 0)
        left_pages, left_folios = self._window_pages, n_folios
        left_virtual_pages = _VIRTUAL_WINDOWS * self._window_pages
        n_unmapped = 0
        while left_pages > 0 and left_virtual_pages > 0 and left_folios > 0:
            mapping = next(m for m in reversed(process.mappings) if m.first_folio <= first + cursor)
            lo = first + cursor
            hi = min(
                mapping.first_folio + mapping.n_folios,
                lo + left_folios,
                lo + max(1, left_pages >> mapping.order),
            )
            n_updates = sum(
                self._unmap(start, min(hi, start + _CHUNK_FOLIOS), now_ns)
                for start in range(lo, hi, _CHUNK_FOLIOS)
            )
            n_unmapped += n_updates
            if n_updates:
                left_pages -= (hi - lo) << mapping.order
            left_virtual_pages -= (hi - lo) << mapping.order
            left_folios -= hi - lo
            cursor = (hi - first) % n_folios
        self._cursors[first] = cursor
        return n_unmapped

    def _unmap(self, lo: int, hi: int, now_ns: int) -> int:
        space, now_ms = self._space, now_ns // _NS_PER_MS
        sections = self._section_nid, self._scanned_nids
        return unmap(lo, hi, now_ms, space.frame_of, space.flags, self._unmapped_ms, *sections)

    def latency_ms(self, folios: NDArray[np.int64], now_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the time from the unmapping of folios to their faults."""
        return now_ms - self._unmapped_ms[folios].astype(np.int64)
