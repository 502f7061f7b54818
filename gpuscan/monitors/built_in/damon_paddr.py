"""Hot pages of processes as DAMON sees the machine's memory: one kdamond, on physical addresses."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import numpy as np

from gpuscan.base.units import PAGE_BYTES, PAGE_SHIFT
from gpuscan.linux.damon import NO_REGIONS, Damon, Intervals, Regions, Watched
from gpuscan.linux.damon_taken import SYSFS
from gpuscan.linux.process import Process
from gpuscan.linux.ranges import as_ranges
from gpuscan.linux.resident import pages_in
from gpuscan.linux.system import HERE, System
from gpuscan.monitors.contract import Circumstances, MonitorKind
from gpuscan.monitors.damon_regions import accesses_at, cold_regions, hot_frames, place_of
from gpuscan.monitors.touched import NOTHING, Touched, mapped

MOST_LOOKS = 8
"""As many are added up where accesses are few: those of one aggregation would be chance."""


class DamonPhysical:
    """The machine's memory, one kdamond (operations ``paddr``): a page belongs to a process by its PFN.

    Args:
        physical: what to watch, ``[start, end)`` in bytes, in any order: nodes need not lie in that of their
            PFNs, and the kernel takes ascending regions only (damon_sysfs_set_regions(),
            mm/damon/sysfs.c, v6.12).
        system, intervals, cold_after_ns: as for the monitor of virtual addresses.

    Raises:
        DamonUnavailableError: see :class:`gpuscan.linux.damon.Damon`.
    """

    name = "damon-paddr"
    sees = "reads and writes, by DAMON's regions of physical memory"

    def __init__(
        self,
        physical: Sequence[tuple[int, int]],
        system: System = HERE,
        intervals: Intervals | None = None,
        cold_after_ns: int | None = None,
    ) -> None:
        self._damon = Damon("paddr", system)
        self._physical = as_ranges(physical).tolist()
        self._intervals = intervals or Intervals()
        self._cold_after_ns = cold_after_ns
        self._processes: list[Process] = []
        self._is_on = False
        self._looks: deque[Regions] = deque(maxlen=MOST_LOOKS)

    def watch(self, processes: Sequence[Process]) -> None:
        """Look for the pages of these processes; the kdamond watches all memory anyway."""
        self._processes = list(processes)
        if not self._is_on:
            self._damon.start(
                [Watched(self._physical, min_regions=self._intervals.min_regions[1])],
                self._intervals,
                least_accesses=1 if self._cold_after_ns is None else 0,
            )
            self._is_on = True

    def observe(self, now_ns: int) -> list[Touched]:
        """Return the pages of each process whose frames lie in hot and cold regions; no hot ones at first."""
        regions = next(iter(self._damon.latest().values())) if self._is_on else NO_REGIONS
        if not len(regions):
            return [NOTHING for _ in self._processes]
        self._looks.appendleft(regions)
        cold = np.zeros(len(regions), dtype=np.bool_)
        if self._cold_after_ns is not None:
            cold = cold_regions(regions, self._intervals, self._cold_after_ns)
        touched = []
        for process in self._processes:
            there = mapped(process)
            pages = pages_in(process, there)
            frames = pages.pfn << PAGE_SHIFT
            region = place_of(regions.ranges, frames)
            is_cold = (region >= 0) & cold[region]
            counts = accesses_at(self._looks, frames)
            hot, sure = hot_frames(counts, place_of(there, pages.address), self._intervals.most_accesses)
            touched.append(Touched(pages.take(hot), pages.take(is_cold), sure[hot]))
        return touched

    def cpu_s(self) -> float:
        """Return the CPU time of the kdamond."""
        return self._damon.cpu_s()

    def close(self) -> None:
        """Stop the kdamond and give DAMON back."""
        self._damon.close()


def _open(here: Circumstances) -> DamonPhysical:
    ranges = [
        (start * PAGE_BYTES, end * PAGE_BYTES)
        for node in here.topology.nodes
        for zone in node.zones
        for start, end in zone.present
    ]
    return DamonPhysical(ranges, here.system, here.intervals, here.cold_after_ns)


MONITOR = MonitorKind(place_in_auto=20, opens=(), keeps=(SYSFS,), watches_frames=True, open=_open)
