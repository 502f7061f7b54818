"""The NUMA balancing scanner: unmaps a window of each process, so that the next access faults.

task_numa_work() in kernel/sched/fair.c (Linux 6.1 to 6.16) walks a process's address space
``numa_balancing_scan_size_mb`` at a time, up to the next boundary of 2 MiB; stretches in which nothing was
unmapped do not count, up to eight times that much. A visit ends behind the last mapping, and the next one
begins with the first (reset_ptenuma_scan()). Mappings begin at such a boundary here. Left out, on
purpose: it skips read-only file mappings, and change_pte_range() skips dirty file pages. Other producers of
marks (IBS, pghot) do not, and what the migrator refuses should be seen. Also left out:
VMAs that no task of the scanning PID touched are skipped (vma_is_accessed(), since 6.4), and the clock is
the machine's where the kernel's is the runtime of the task, so the processes are taken to run all the time.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Mapping as StateMapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.documents import TIME_NS_MAX, array, pairs, table, whole
from gpuscan.base.units import PAGE_BYTES
from gpuscan.sim.address_space import AddressSpace, Mapping
from gpuscan.sim.loops import unmap
from gpuscan.sim.observer import access_ns
from gpuscan.sim.process import Process, Stretch
from gpuscan.sim.scan_period import ScanPeriod
from gpuscan.sim.spec import HintFaultSpec
from gpuscan.topology.layout import PFN_LIMIT

_NS_PER_MS = 1_000_000
_VIRTUAL_WINDOWS = 8
"""``virtpages = pages * 8`` in task_numa_work()."""
_HPAGE_PAGES = 512
"""HPAGE_SIZE, to which the end of a stretch is aligned."""
_OVERHEAD_FACTOR = 32
"""A task runs other code at least so many times as long as it scanned, before it scans again."""
_CHUNK_FOLIOS = 1 << 22
"""Folios unmapped between two chances for Ctrl-C: some 20 ms."""


@dataclass(frozen=True, slots=True, eq=False)
class HintFaults:
    """NUMA hint faults, in the order they happened per process.

    Attributes:
        folios: int64[n], virtual folios.
        frames: int64[n], their head frames (flat).
        cpu_nids: int32[n], node of the CPU that faulted.
        at_ns: int64[n], when.
        latency_ms: int64[n], since the unmapping.
    """

    folios: NDArray[np.int64]
    frames: NDArray[np.int64]
    cpu_nids: NDArray[np.int32]
    at_ns: NDArray[np.int64]
    latency_ms: NDArray[np.int64]

    @property
    def at_ms(self) -> NDArray[np.int64]:
        """When, in the milliseconds that NUMA balancing counts in."""
        return self.at_ns // _NS_PER_MS


_Part = tuple[NDArray[np.int64], int, NDArray[np.int64], NDArray[np.int64]]
"""Faults of a stretch: folios, node of the CPU, times, latencies."""


@dataclass(slots=True)
class ScanState:
    """How far the scanner is with a process: what ``mm_struct`` keeps.

    Attributes:
        next_ns: next visit, where the pause is adaptive.
        period: the pause.
        cursor: where the next visit begins, in folios of the process; behind the last, it begins anew.
        walk_ns: CPU time of the last visit.
        n_passes: completed walks over all of it (``numa_scan_seq``).
        passed_ns: when the last of them was completed.
        n_passes_counted: those that the pause has followed.
    """

    next_ns: int
    period: ScanPeriod
    cursor: int = 0
    walk_ns: float = 0.0
    n_passes: int = 0
    passed_ns: int = 0
    n_passes_counted: int = 0

    def pass_ended(self, now_ns: int) -> None:
        """Begin with the first mapping again: ``reset_ptenuma_scan()``."""
        self.cursor = 0
        self.n_passes += 1
        self.passed_ns = now_ns

    def pause_ns(self, n_tasks: int) -> int:
        """Return how long after a visit the next one comes, where the pause is adaptive.

        Whoever scanned is put off by 32 times what it took (``node_stamp += 32 * diff``), which holds
        scanning to 3 % of a task's time. Of several tasks only the one that scanned is late.
        """
        return self.period.period_ms * _NS_PER_MS + int(_OVERHEAD_FACTOR * self.walk_ns / n_tasks)

    def state(self) -> dict[str, Any]:
        """Return all there is to know, for :meth:`of`."""
        numbers = {name: getattr(self, name) for name in _NUMBERS}
        return {**numbers, "rss_pages": self.period.rss_pages, "period": self.period.state()}

    @classmethod
    def of(cls, spec: HintFaultSpec, state: StateMapping[str, Any], n_folios: int) -> ScanState:
        """Return what :meth:`state` was taken of, of a process of so many folios.

        Raises:
            ValueError: it was of another.
        """
        found = table(state, "the progress of a scanner", (*_NUMBERS, "rss_pages", "period"))
        period = ScanPeriod(spec, whole(found["rss_pages"], 1, PFN_LIMIT, "rss_pages"))
        period.restore(found["period"])
        whole(found["cursor"], 0, n_folios, "the cursor of a scanner")
        numbers = {name: whole(found[name], 0, TIME_NS_MAX, name) for name in _NUMBERS}
        return cls(period=period, **numbers)


_NUMBERS = ("next_ns", "cursor", "walk_ns", "n_passes", "passed_ns", "n_passes_counted")


class HintScanner:
    """Unmaps the pages of one machine's processes and collects the faults.

    A :class:`gpuscan.sim.observer.Observer`.

    Args:
        spec: how.
        space: whose page table.
        section_nid: node per flat section.
        scanned_nids: uint8[1024], 1 for nodes whose pages are unmapped.

    Attributes:
        n_unmapped, n_walked: folios unmapped and PTEs walked since :meth:`take`.
    """

    def __init__(
        self,
        spec: HintFaultSpec,
        space: AddressSpace,
        section_nid: NDArray[np.int32],
        scanned_nids: NDArray[np.uint8],
    ) -> None:
        self._spec = spec
        self._space = space
        self._section_nid = section_nid
        self._scanned_nids = scanned_nids
        self._window_pages = max(1, spec.scan_bytes // PAGE_BYTES)
        self._states: dict[int, ScanState] = {}  # by the process's first folio
        self._unmapped_ms = np.zeros(space.n_folios, dtype=np.uint32)
        self._faults: list[_Part] = []
        self.n_unmapped = 0
        self.n_walked = 0

    @property
    def n_bytes(self) -> int:
        """Memory the times of unmapping take."""
        return self._unmapped_ms.nbytes

    def progress(self, process: Process) -> ScanState:
        """Return how far the scanner is with a process."""
        state = self._states.get(process.first_folio)
        if state is None:
            period = ScanPeriod(self._spec, sum(mapping.n_pages for mapping in process.mappings))
            state = self._states[process.first_folio] = ScanState(self._spec.scan_delay_ns, period)
        return state

    def visits_ns(self, process: Process, start_ns: int, end_ns: int) -> Iterable[int]:
        """See :class:`gpuscan.sim.observer.Observer`."""
        if not self._spec.adaptive:
            return process.visits_ns(start_ns, end_ns, self._spec.scan_period_ns)
        state = self.progress(process)
        # How long a visit in this very stretch takes is known only afterwards: as long as the last one did.
        return range(max(start_ns, state.next_ns), end_ns, state.pause_ns(len(process.cpu_nids(start_ns))))

    def visit(self, process: Process, now_ns: int) -> None:
        """Unmap the next window of a process, at most up to its end."""
        state = self.progress(process)
        first, n_folios, n_walked = process.first_folio, process.n_folios, self.n_walked
        if state.cursor == n_folios:  # the visit before had no page left for more
            state.pass_ended(now_ns)
        left_pages, left_virtual_pages = self._window_pages, _VIRTUAL_WINDOWS * self._window_pages
        while left_pages > 0 and left_virtual_pages > 0:
            if state.cursor == n_folios:
                state.pass_ended(now_ns)
                break
            lo = first + state.cursor
            mapping = next(m for m in reversed(process.mappings) if m.first_folio <= lo)
            hi = _stretch_end(mapping, lo, left_pages)
            n_updates = sum(
                self._unmap(start, min(hi, start + _CHUNK_FOLIOS), now_ns)
                for start in range(lo, hi, _CHUNK_FOLIOS)
            )
            self.n_unmapped += n_updates
            self.n_walked += hi - lo
            if n_updates:
                left_pages -= (hi - lo) << mapping.order
            left_virtual_pages -= (hi - lo) << mapping.order
            state.cursor = hi - first
        state.walk_ns = (self.n_walked - n_walked) * self._spec.pte_ns
        state.next_ns = now_ns + state.pause_ns(len(process.cpu_nids(now_ns)))

    def accessed(
        self,
        process: Process,
        stretch: Stretch,
        first_access: int,
        folios: NDArray[np.int64],
        faulted: NDArray[np.int64],
    ) -> None:
        """See :class:`gpuscan.sim.observer.Observer`."""
        if len(faulted):
            at_ns = access_ns(process, first_access + faulted)
            who = process.first_folio + folios[faulted]
            # Now, since a later visit in the same tick may unmap the page again.
            latency_ms = at_ns // _NS_PER_MS - self._unmapped_ms[who].astype(np.int64)
            self._faults.append((who, stretch.cpu_nid, at_ns, latency_ms))

    def take(self) -> HintFaults:
        """Return the faults since the last time, and forget them and the counts."""
        self.n_unmapped = self.n_walked = 0
        parts, self._faults = self._faults, []
        none = np.empty(0, dtype=np.int64)
        folios = np.concatenate([none, *(part[0] for part in parts)])
        nids = [np.full(len(part[0]), part[1], dtype=np.int32) for part in parts]
        return HintFaults(
            folios,
            self._space.frame_of[folios].astype(np.int64),
            np.concatenate([none.astype(np.int32), *nids]),
            np.concatenate([none, *(part[2] for part in parts)]),
            np.concatenate([none, *(part[3] for part in parts)]),
        )

    def _unmap(self, lo: int, hi: int, now_ns: int) -> int:
        space, now_ms = self._space, now_ns // _NS_PER_MS
        sections = self._section_nid, self._scanned_nids
        table = space.frame_of, space.slot_shift, space.flags
        return unmap(lo, hi, now_ms, *table, self._unmapped_ms, *sections)

    def state(self) -> dict[str, Any]:
        """Return all there is to know for :meth:`restore`, between two ticks; the array itself."""
        return {
            "progress": [[first, one.state()] for first, one in self._states.items()],
            "unmapped_ms": self._unmapped_ms,
        }

    def restore(self, state: StateMapping[str, Any], sizes: StateMapping[int, int]) -> None:
        """Become what :meth:`state` was taken of, a scanner of the same machine.

        Args:
            state: see above.
            sizes: folios of each process by its first one.

        Raises:
            ValueError: it was of another.
        """
        found = table(state, "the scanner", ("progress", "unmapped_ms"))
        own = self._unmapped_ms
        unmapped_ms = array(found["unmapped_ms"], own.dtype, "unmapped_ms", n=len(own))
        progress = pairs(found["progress"], "the progress of the scanner")
        if any(first not in sizes for first, _ in progress):
            raise ValueError("the scanner is of other processes")
        self._states = {first: ScanState.of(self._spec, one, sizes[first]) for first, one in progress}
        own[:] = unmapped_ms


def _stretch_end(mapping: Mapping, folio: int, n_pages: int) -> int:
    """Return the folio behind a stretch of ``n_pages`` from ``folio`` on, aligned, in the mapping at most."""
    start_page = (folio - mapping.first_folio) << mapping.order
    end_page = -(-(start_page + n_pages) // _HPAGE_PAGES) * _HPAGE_PAGES
    end_folio = -(-min(end_page, mapping.n_pages) >> mapping.order)
    return mapping.first_folio + end_folio
