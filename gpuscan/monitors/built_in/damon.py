"""Hot pages of processes as DAMON sees them: one kdamond for each, on its virtual addresses."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.linux.damon import NO_REGIONS, Damon, Intervals, Regions, Watched
from gpuscan.linux.damon_taken import SYSFS
from gpuscan.linux.process import Process
from gpuscan.linux.ranges import intersect, join
from gpuscan.linux.resident import pages_in, present_ranges
from gpuscan.linux.system import HERE, System
from gpuscan.monitors.contract import Circumstances, Monitor, MonitorKind
from gpuscan.monitors.damon_regions import hot_pages, merged, place_of, sure_inside
from gpuscan.monitors.largest import Largest
from gpuscan.monitors.quiet_memory import QuietMemory
from gpuscan.monitors.touched import NOTHING, REHEARSED_PAGES, Touched, mapped

MOST_PROCESSES = 64
"""Each takes a kdamond: sysfs names no target of a region, so two cannot share one."""
_REGION_BYTES = 3 << 18
"""Regions begin this small as far as the bounds on their number allow: the first look is as sharp as that.
Of a hot set the two regions over its ends may be missed, so of 32 MiB less than 5 %."""
_MOST_RANGES = 100
"""They begin in as many stretches of mappings at most; a program with more has small holes watched, too."""


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

    def __init__(
        self, system: System = HERE, intervals: Intervals | None = None, cold_after_ns: int | None = None
    ) -> None:
        self._damon = Damon("vaddr", system)
        self._system = system
        self._intervals = intervals or Intervals()
        self._cold_after_ns = cold_after_ns
        self._processes: list[Process] = []
        self._is_on = False
        self._kdamonds: dict[int, Process] = {}
        """Whom each watches, by its number: of these some may have ended, and are asked for no more."""
        self._quiet: dict[int, QuietMemory] = {}
        """By ``id()`` of the process; for demotion only."""

    def watch(self, processes: Sequence[Process]) -> None:
        """Have a kdamond for each process; those of processes that stay go on.

        Raises:
            InputError: there are too many, or the kernel refuses.
        """
        if len(processes) > MOST_PROCESSES:
            raise InputError(
                f"{len(processes)} processes would take as many kdamonds; name at most {MOST_PROCESSES}, or "
                "take --monitor damon-paddr"
            )
        self._processes = list(processes)
        if not self._damon.has_places():
            self._forget()
        numbers = {id(process): number for number, process in self._kdamonds.items()}
        newcomers = [one for one in processes if not self._has_kdamond(one, numbers.get(id(one)))]
        stay = {id(process) for process in processes} - {id(process) for process in newcomers}
        left = [number for number, process in self._kdamonds.items() if id(process) not in stay]
        if not self._is_on:
            self._rehearse(processes)
            started = self._damon.start(
                [_watched(process) for process in newcomers],
                self._intervals,
                least_accesses=1 if self._cold_after_ns is None else 0,
                n_kdamonds=MOST_PROCESSES,
            )
            self._is_on = True
            self._kdamonds = dict(zip(started, newcomers, strict=True))
        elif newcomers or any(map(self._damon.is_running, left)):
            try:
                started = self._damon.change(left, [_watched(process) for process in newcomers])
                for number in left:
                    del self._kdamonds[number]
                self._kdamonds |= zip(started, newcomers, strict=True)
            except BaseException:
                self._forget()
                raise
        if self._cold_after_ns is not None:
            self._keep_quiet(newcomers, self._cold_after_ns)

    def _forget(self) -> None:
        """Have all kdamonds start anew with the next that are watched: nobody knows who has one."""
        self._is_on = False
        self._kdamonds = {}

    def _has_kdamond(self, process: Process, number: int | None) -> bool:
        """Whether one watches it, or did to its end; somebody may have switched off that of one that runs."""
        return number is not None and (self._damon.is_running(number) or not process.is_alive())

    def _keep_quiet(self, newcomers: Sequence[Process], cold_after_ns: int) -> None:
        """Keep what is known of who is watched, and begin with those whose kdamond has just started."""
        now_ns = self._system.monotonic_ns()
        anew = set(map(id, newcomers))
        known = {one: quiet for one, quiet in self._quiet.items() if one not in anew}
        self._quiet = {
            id(process): known.get(id(process)) or QuietMemory(self._intervals, cold_after_ns, now_ns)
            for process in self._processes
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
        """Return the pages in hot and cold regions of each process; nothing of one that has no kdamond."""
        if not self._kdamonds or not any(process.is_alive() for process in self._processes):
            return [NOTHING for _ in self._processes]
        found = {id(self._kdamonds[number]): regions for number, regions in self._damon.latest().items()}
        touched = []
        for process in self._processes:
            regions = found.get(id(process), NO_REGIONS)
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
        pages = pages_in(process, intersect(merged(regions.ranges[regions.n_accesses > 0]), there))
        region = place_of(regions.ranges, pages.address)
        sure = sure_inside(regions, self._intervals)[region]
        hot = hot_pages(regions.n_accesses[region], place_of(there, pages.address)) | sure
        return Touched(pages.take(hot), sure=sure[hot])

    def cpu_s(self) -> float:
        """Return the CPU time of the kdamonds."""
        return self._damon.cpu_s()

    def close(self) -> None:
        """Stop the kdamonds and give DAMON back."""
        self._damon.close()


def _watched(process: Process) -> Watched:
    """Return where to begin: in all that can be accessed; memory that is reserved only has no pages."""
    ranges = join(mapped(process, accessible=True), _MOST_RANGES)
    n_bytes = int((ranges[:, 1] - ranges[:, 0]).sum())
    return Watched(ranges.tolist(), process.pid, min_regions=n_bytes // _REGION_BYTES)


def _open(here: Circumstances) -> Monitor:
    if here.is_looking and here.n_processes > MOST_PROCESSES:
        raise InputError(f"{here.n_processes} processes would take as many kdamonds")
    return Largest(DamonVirtual(here.system, here.intervals, here.cold_after_ns), MOST_PROCESSES)


MONITOR = MonitorKind(place_in_auto=10, opens=(), keeps=(SYSFS,), watches_frames=False, open=_open)
