"""Hot pages as DAMON sees them: regions of a process (vaddr) or of the machine's memory (paddr).

DAMON samples one page of each region every ``sample_us`` and counts in how many of the looks of an
aggregation it was accessed. A region on a border between hot and cold memory counts in between, until
DAMON's random splits have found the border: such regions are left for later ticks.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Sequence
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_SHIFT
from gpuscan.linux.capabilities import Right
from gpuscan.linux.damon import SYSFS, Damon, Intervals, Regions, Watched
from gpuscan.linux.process import Process
from gpuscan.linux.ranges import Ranges, as_ranges, intersect, join
from gpuscan.linux.resident import pages_in, present_ranges
from gpuscan.linux.system import HERE, System
from gpuscan.monitors.contract import NOTHING, REHEARSED_PAGES, Touched, mapped

MOST_PROCESSES = 64
"""Each takes a kdamond: sysfs names no target of a region, so two cannot share one."""
HOT_SHARE = 0.7
"""Part of the reference count at which a page is hot. A region with half of its pages cold has half of it."""
FEW_ACCESSES = 4
FEW_SHARE = 0.4
"""And the same part where the reference count is below FEW_ACCESSES, and chance weighs more."""
SURE_SHARE = 0.9
"""Part of all looks at which one aggregation is proof enough. Each look takes a page of the region at
random, so a region of which a share s is hot reaches 9 of 10 looks with the chance of a binomial: for a
border at a random place that moves 2 % of one region's pages wrongly."""
INSIDE_SHARE = 0.6
"""The same part for a region inside a hot stretch, which touches one on each side that reaches it, too: four
looks of six. A page that is touched all the time is seen at nine looks of ten or so, since accessed bits are
cleared without a TLB flush. Of a region of which a share s is hot four to six looks find an access with the
chance of a binomial: over all s the cold pages that moves are 10.7 % of a region, of six looks alone 1.8 %.
But of the two neighbours of a region over a border one is cold, which has no access, so for it six of six it
stays. What is paid for is a cold hole smaller than one region, with hot memory on both sides."""
_REGION_BYTES = 3 << 18
"""Regions begin this small as far as the bounds on their number allow: the first look is as sharp as that.
Of a hot set the two regions over its ends may be missed, so of 32 MiB less than 5 %."""
LEAST_LOOKS = 2
"""Aggregations that say together which frames are hot. A process's memory lies among that of others, and
DAMON cuts its regions anew after each aggregation: a cold frame has other neighbours each time."""
MOST_LOOKS = 8
"""As many are added up where accesses are few: those of one aggregation would be chance."""
_KEPT_UP = 0.9
_MOST_MOMENTS = 16
"""How finely memory is told apart by its last access: so many moments in the time after which it is cold."""
_MOST_RANGES = 100
"""They begin in as many stretches of mappings at most; a program with more has small holes watched, too."""
_REFERENCE_SHARE = 0.25
"""The reference count is the one that this part of the accessed pages of an area reaches. An area is a
stretch of mappings that touch, and each has its own: a program is hit at every look, its heap by turns."""


def hot_pages(n_accesses: NDArray[np.int64], area: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return bool[n]: which pages are hot.

    Args:
        n_accesses: int64[n], of the region that each page is in, 1 or more.
        area: intp[n], the stretch of mappings that each page is in, ascending.
    """
    hot = np.zeros(len(area), dtype=np.bool_)
    cuts = (np.flatnonzero(np.diff(area)) + 1).tolist()
    for start, end in zip([0, *cuts], [*cuts, len(area)], strict=True):
        part = n_accesses[start:end]
        if len(part):
            reference = _reference(part)
            share = HOT_SHARE if reference >= FEW_ACCESSES else FEW_SHARE
            hot[start:end] = part >= share * reference
    return hot


def _reference(n_accesses: NDArray[np.int64]) -> int:
    return int(np.sort(n_accesses)[len(n_accesses) - 1 - int(len(n_accesses) * _REFERENCE_SHARE)])


def accesses_at(looks: Sequence[Regions], addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int64[n_looks, n]: ``nr_accesses`` of the region that each address is in, 0 for none.

    Args:
        looks: the regions of an aggregation each, ascending.
        addresses: int64[n], in bytes, in any order.
    """
    order = np.argsort(addresses)
    ascending = addresses[order]
    counts = np.zeros((len(looks), len(addresses)), dtype=np.int64)
    for row, regions in zip(counts, looks, strict=True):
        first, last = np.searchsorted(ascending, regions.ranges.T)
        steps = np.zeros(len(addresses) + 1, dtype=np.int64)
        np.add.at(steps, first, regions.n_accesses)
        np.subtract.at(steps, last, regions.n_accesses)
        row[order] = np.cumsum(steps[:-1])
    return counts


def hot_frames(
    counts: NDArray[np.int64], area: NDArray[np.intp], most_accesses: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return bool[n] twice: which pages are hot by several looks, and of which nearly every look says so.

    Of each area two looks are added up, or as many as it takes until its reference count is FEW_ACCESSES;
    before that nothing of it is hot. Hot is only what was accessed in the newest look, too.

    Args:
        counts: int64[n_looks, n], of the region that each page was in, the newest look first.
        area: intp[n], the stretch of mappings that each page is in, ascending.
        most_accesses: of a region that was accessed at every look.
    """
    hot, sure = np.zeros((2, len(area)), dtype=np.bool_)
    cuts = (np.flatnonzero(np.diff(area)) + 1).tolist()
    for start, end in zip([0, *cuts], [*cuts, len(area)], strict=True):
        sums = np.cumsum(counts[:, start:end], axis=0)
        for n_looks, part in enumerate(sums[LEAST_LOOKS - 1 :], LEAST_LOOKS):
            accessed = part[part > 0]
            reference = _reference(accessed) if len(accessed) else 0
            if reference >= FEW_ACCESSES:
                hot[start:end] = (sums[0] > 0) & (part >= HOT_SHARE * reference)
                sure[start:end] = part >= SURE_SHARE * n_looks * most_accesses
                break
    return hot, sure


def sure_regions(regions: Regions, intervals: Intervals) -> NDArray[np.bool_]:
    """Return bool[n]: which regions nearly every look found accessed."""
    sure: NDArray[np.bool_] = regions.n_accesses >= SURE_SHARE * intervals.most_accesses
    return sure


def sure_inside(regions: Regions, intervals: Intervals) -> NDArray[np.bool_]:
    """Return bool[n]: the sure regions of an address space, and those inside a hot stretch.

    Addresses next to each other are mostly one data structure; page frames are not.

    Args:
        regions: ascending; those left out between two were not accessed.
        intervals: how finely DAMON looked.
    """
    sure = sure_regions(regions, intervals)
    often = regions.n_accesses >= INSIDE_SHARE * intervals.most_accesses
    # A region and the next one: one touches the other, and both are accessed often.
    joined = often[:-1] & often[1:] & (regions.ranges[:-1, 1] == regions.ranges[1:, 0])
    sure[1:-1] |= joined[:-1] & joined[1:]
    return sure


class DamonVirtual:
    """Processes, one kdamond each (operations ``vaddr``).

    Args:
        system: whose DAMON it is.
        intervals: how finely to look.
        cold_after_ns: report regions without an access for this long as cold; None reports none.

    Raises:
        DamonUnavailableError: see :class:`gpuscan.linux.damon.Damon`.
    """

    name = "damon"
    sees = "reads and writes, by DAMON's regions of virtual addresses"
    opens: ClassVar[Sequence[Right]] = ()
    keeps = (SYSFS,)

    def __init__(
        self, system: System = HERE, intervals: Intervals | None = None, cold_after_ns: int | None = None
    ) -> None:
        self._damon = Damon("vaddr", system)
        self._system = system
        self._intervals = intervals or Intervals()
        self._cold_after_ns = cold_after_ns
        self._processes: list[Process] = []
        self._kdamonds: list[Process] = []
        """Whom the kdamonds watch, by their numbers: of these some may have ended."""
        self._quiet: dict[int, QuietMemory] = {}
        """By ``id()`` of the process; for demotion only."""

    def watch(self, processes: Sequence[Process]) -> None:
        """Start a kdamond for each process; all start anew, unless those that are left have one.

        What they had found is lost, but for which memory had no access since when.

        Raises:
            InputError: there are too many, or the kernel refuses.
        """
        if len(processes) > MOST_PROCESSES:
            raise InputError(
                f"{len(processes)} processes would take as many kdamonds; name at most {MOST_PROCESSES}, or "
                "take --monitor damon-paddr"
            )
        if not self._kdamonds:
            self._rehearse(processes)
        elif self._are_watched(processes):
            self._processes = list(processes)
            return
        if self._cold_after_ns is not None:
            self._keep_quiet(processes, self._cold_after_ns)
        self._processes = self._kdamonds = list(processes)
        self._damon.start(
            [_watched(process) for process in processes],
            self._intervals,
            least_accesses=1 if self._cold_after_ns is None else 0,
        )
        for quiet in self._quiet.values():
            quiet.start_anew(self._system.monotonic_ns())

    def _are_watched(self, processes: Sequence[Process]) -> bool:
        """Whether the kdamonds watch these processes, and beside them only some that ended."""
        asked = set(map(id, processes))
        others = [one for one in self._kdamonds if id(one) not in asked]
        return len(self._kdamonds) - len(others) == len(asked) and not any(one.is_alive() for one in others)

    def _keep_quiet(self, processes: Sequence[Process], cold_after_ns: int) -> None:
        """Look a last time before the kdamonds start anew, and keep what is known of who stays."""
        if any(process.is_alive() for process in self._kdamonds):
            now_ns = self._system.monotonic_ns()
            for regions, process in zip(self._damon.latest(), self._kdamonds, strict=True):
                self._quiet[id(process)].look(regions, now_ns)
        known = {id(process): self._quiet[id(process)] for process in self._kdamonds}
        self._quiet = {
            id(process): known.get(id(process)) or QuietMemory(self._intervals, cold_after_ns)
            for process in processes
        }

    def _rehearse(self, processes: Sequence[Process]) -> None:
        """Go through a look once, as if what is there had been accessed: what is run first is slow."""
        n_left = REHEARSED_PAGES
        for process in processes:
            pages = pages_in(process, mapped(process), n_most=n_left)
            n_left -= len(pages)
            there = present_ranges(pages)
            self._observed(
                Regions(there, np.ones(len(there), np.int64), np.zeros(len(there), np.int64)), process
            )
            if n_left <= 0:
                break

    def observe(self, now_ns: int) -> list[Touched]:
        """Return the pages in hot and cold regions of each process."""
        if not any(process.is_alive() for process in self._processes):
            return [NOTHING for _ in self._processes]
        found = dict(zip(map(id, self._kdamonds), self._damon.latest(), strict=True))
        touched = []
        for process in self._processes:
            regions = found[id(process)]
            seen = self._observed(regions, process)
            if self._cold_after_ns is not None and seen is not NOTHING:
                cold = self._quiet[id(process)].look(regions, now_ns)
                seen = dataclasses.replace(seen, cold=pages_in(process, intersect(cold, mapped(process))))
            touched.append(seen)
        return touched

    def _observed(self, regions: Regions, process: Process) -> Touched:
        if not len(regions) or not process.is_alive():
            return NOTHING
        there = mapped(process)
        pages = pages_in(process, intersect(_merged(regions.ranges[regions.n_accesses > 0]), there))
        region = _place(regions.ranges, pages.address)
        sure = sure_inside(regions, self._intervals)[region]
        hot = hot_pages(regions.n_accesses[region], _place(there, pages.address)) | sure
        return Touched(pages.take(hot), sure=sure[hot])

    def cpu_s(self) -> float:
        """Return the CPU time of the kdamonds."""
        return self._damon.cpu_s()

    def close(self) -> None:
        """Stop the kdamonds and give DAMON back."""
        self._damon.close()


class DamonPhysical:
    """The machine's memory, one kdamond (operations ``paddr``): a page belongs to a process by its PFN.

    Args:
        physical: what to watch, ``[start, end)`` in bytes, in any order: nodes need not lie in that of their
            PFNs, and the kernel takes ascending regions only (damon_sysfs_set_regions(),
            mm/damon/sysfs.c, v6.12).
        system, intervals, cold_after_ns: as for :class:`DamonVirtual`.

    Raises:
        DamonUnavailableError: see :class:`gpuscan.linux.damon.Damon`.
    """

    name = "damon-paddr"
    sees = "reads and writes, by DAMON's regions of physical memory"
    opens: ClassVar[Sequence[Right]] = ()
    keeps = (SYSFS,)

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
        (regions,) = self._damon.latest()
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
            region = _place(regions.ranges, frames)
            is_cold = (region >= 0) & cold[region]
            counts = accesses_at(self._looks, frames)
            hot, sure = hot_frames(counts, _place(there, pages.address), self._intervals.most_accesses)
            touched.append(Touched(pages.take(hot), pages.take(is_cold), sure[hot]))
        return touched

    def cpu_s(self) -> float:
        """Return the CPU time of the kdamond."""
        return self._damon.cpu_s()

    def close(self) -> None:
        """Stop the kdamond and give DAMON back."""
        self._damon.close()


def cold_regions(regions: Regions, intervals: Intervals, cold_after_ns: int) -> NDArray[np.bool_]:
    """Return bool[n]: which regions had no access for ``cold_after_ns``."""
    for_ns = regions.age * intervals.aggregation_us * 1000
    cold: NDArray[np.bool_] = (regions.n_accesses == 0) & (for_ns >= cold_after_ns)
    return cold


class QuietMemory:
    """Which memory of a process had no access, and since when, also over restarts of its kdamond.

    A region's age begins at 0 when a kdamond starts, and all start anew whenever there is a newcomer: by its
    age alone nothing would ever be cold where processes come more often than ``cold_after_ns``.

    Args:
        intervals: how finely DAMON looks.
        cold_after_ns: when memory is cold.
    """

    def __init__(self, intervals: Intervals, cold_after_ns: int) -> None:
        self._intervals = intervals
        self._cold_after_ns = cold_after_ns
        self._since: list[tuple[int, Ranges]] = []
        """Moments, ascending, and the memory that had no access from then on."""
        self._started_ns = self._looked_ns = 0
        self._is_new = True

    def start_anew(self, now_ns: int) -> None:
        """Note that a kdamond starts: until its next look its regions tell of nothing before this."""
        self._started_ns = self._looked_ns = now_ns
        self._is_new = True

    def look(self, regions: Regions, now_ns: int) -> Ranges:
        """Take in one look and return the memory that is cold.

        Args:
            regions: all that the kdamond reports, also those without an access; none say nothing.
            now_ns: the time.
        """
        if not len(regions):
            return regions.ranges
        aggregation_ns = self._intervals.aggregation_us * 1000
        # Kdamonds of a busy machine lag, so ages tell of less time than has passed.
        least_ns = (now_ns - self._looked_ns) * _KEPT_UP - 2 * aggregation_ns
        is_quiet = (regions.n_accesses == 0) & (regions.age * aggregation_ns >= least_ns)
        quiet = _merged(regions.ranges[is_quiet])
        self._looked_ns = now_ns
        since = [(at_ns, intersect(ranges, quiet)) for at_ns, ranges in self._since]
        if self._is_new and (
            not since or self._started_ns - since[-1][0] >= self._cold_after_ns // _MOST_MOMENTS
        ):
            since.append((self._started_ns, quiet))
        self._is_new = False
        limit_ns = now_ns - self._cold_after_ns
        by_age = regions.ranges[cold_regions(regions, self._intervals, self._cold_after_ns)]
        before = [ranges for at_ns, ranges in since if at_ns <= limit_ns]
        cold = as_ranges(np.concatenate([by_age, *before]).tolist())
        self._since = [(limit_ns, cold), *(one for one in since if one[0] > limit_ns)]
        return cold


def _watched(process: Process) -> Watched:
    """Return where to begin: in all that can be accessed; memory that is reserved only has no pages."""
    ranges = join(mapped(process, accessible=True), _MOST_RANGES)
    n_bytes = int((ranges[:, 1] - ranges[:, 0]).sum())
    return Watched(ranges.tolist(), process.pid, min_regions=n_bytes // _REGION_BYTES)


def _merged(ranges: Ranges) -> Ranges:
    """Join ranges that touch: fewer system calls."""
    if len(ranges) < 2:
        return ranges
    breaks = np.flatnonzero(ranges[1:, 0] != ranges[:-1, 1])
    starts = ranges[np.concatenate(([0], breaks + 1)), 0]
    ends = ranges[np.concatenate((breaks, [len(ranges) - 1])), 1]
    return np.stack([starts, ends], axis=1)


def _place(ranges: Ranges, values: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return intp[n]: the range that each value is in, -1 for none."""
    if not len(ranges):
        return np.full(len(values), -1, dtype=np.intp)
    place = np.searchsorted(ranges[:, 0], values, side="right") - 1
    return np.where((place >= 0) & (values < ranges[np.maximum(place, 0), 1]), place, -1)
