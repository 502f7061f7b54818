"""DAMON through sysfs: take it, start kdamonds, read the regions they found, give it back.

Layout and commands: Documentation/admin-guide/mm/damon/usage.rst. A scheme with the action ``stat``
changes nothing; asked to update its tried regions, the kernel makes one directory for each region that
fits the scheme's access pattern, at the next time the scheme is applied. Where the kernel's tracepoint
can be had (:mod:`gpuscan.linux.damon_trace`), it says the same sooner and in one read.
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import RunFailedError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.linux import damon_state
from gpuscan.linux.damon_taken import DamonUnavailableError, TakenDamon
from gpuscan.linux.damon_trace import AggregationTrace
from gpuscan.linux.process import read_stat
from gpuscan.linux.system import HERE, System

_N_ASKED_AGAIN = 4
_N_TRACED = 20
"""Aggregations that a kdamond may take for one: those of a busy machine lag."""
_MOST = (1 << 32) - 1
_MOST_BYTES = (1 << 63) - 1


@dataclass(frozen=True, slots=True)
class Intervals:
    """How finely DAMON looks.

    Attributes:
        sample_us: between two looks at a page of each region.
        aggregation_us: after which regions are merged, split and reported; ``nr_accesses`` counts
            the looks within it that found the page accessed.
        update_us: between two looks at which mappings there are.
        min_regions: bounds on how many there are to begin with, the lower one unless asked for more;
            that bounds a region's size, too.
        max_regions: the most there may be.
    """

    sample_us: int = 10_000
    aggregation_us: int = 60_000
    update_us: int = 1_000_000
    min_regions: tuple[int, int] = (50, 400)
    max_regions: int = 2_000

    @property
    def most_accesses(self) -> int:
        """``nr_accesses`` of a region that was accessed at every look."""
        return self.aggregation_us // self.sample_us


@dataclass(frozen=True, slots=True, eq=False)
class Regions:
    """What DAMON says of the regions of one kdamond.

    Attributes:
        ranges: int64[n, 2], ``[start, end)`` in bytes: virtual addresses (vaddr) or physical (paddr).
        n_accesses: int64[n], of :attr:`Intervals.most_accesses`.
        age: int64[n], aggregations for which the region has been about so.
    """

    ranges: NDArray[np.int64]
    n_accesses: NDArray[np.int64]
    age: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.ranges)


NO_REGIONS = Regions(
    np.empty((0, 2), dtype=np.int64), np.empty(0, dtype=np.int64), np.empty(0, dtype=np.int64)
)


@dataclass(frozen=True, slots=True)
class Watched:
    """What one kdamond watches.

    Attributes:
        ranges: ``[start, end)`` in bytes, whole pages, ascending: physical memory (``paddr``), or where the
            regions of a process are to begin; without these the kernel cuts what lies between its first
            mapping and its last, large holes left out.
        pid: a process (``vaddr``).
        min_regions: how many regions to begin with; kept within the bounds of :class:`Intervals`.
    """

    ranges: Sequence[tuple[int, int]] = ()
    pid: int | None = None
    min_regions: int = 0

    @property
    def noted(self) -> str:
        """How the state file tells it."""
        return "paddr" if self.pid is None else f"vaddr {self.pid}"


class Damon(TakenDamon):
    """DAMON's sysfs, taken to find out what is accessed.

    Args:
        operations, system: see :class:`gpuscan.linux.damon_taken.TakenDamon`.

    Raises:
        DamonUnavailableError: see there; or the kernel has no way to say which regions there are.
    """

    def __init__(self, operations: str, system: System = HERE) -> None:
        self._silent: set[int] = set()
        self._trace: AggregationTrace | None = None
        self._trace_limit_s = 0.0
        self._intervals = Intervals()
        self._least_accesses = 0
        self._is_new = False
        self._has_traced = False
        self._has_tried_regions = True
        super().__init__(operations, system)

    def _look_at(self, context: Path) -> None:
        self._has_tried_regions = self._system.is_dir(context / "schemes/0/tried_regions")

    def _check_more(self) -> None:
        """Refuse a kernel that has no other way to say which regions there are, and not its tracepoint."""
        if self._has_tried_regions:
            return
        try:
            AggregationTrace(damon_state.trace_instance(self._system), self._system).close()
        except OSError as error:
            raise DamonUnavailableError(
                "this kernel's DAMON does not show its regions in sysfs (it has no tried_regions, which are "
                f"there since v6.2), and its tracepoint cannot be used ({error.strerror}: {error.filename}); "
                f"{self.remedy}"
            ) from error

    def start(
        self, watched: Sequence[Watched], intervals: Intervals, *, least_accesses: int, n_kdamonds: int = 1
    ) -> list[int]:
        """Start one kdamond for each of ``watched``; those started before are stopped.

        Args:
            watched: processes, or the machine.
            intervals: how finely to look, from now on.
            least_accesses: regions with fewer are not reported.
            n_kdamonds: how many there will be at most, so that :meth:`change` can start some later.

        Returns:
            Their numbers.

        Raises:
            DamonUnavailableError: the kernel refuses.
        """
        self._stop()
        self._silent.clear()
        self._claim([""] * max(len(watched), n_kdamonds))
        if self._trace is None:
            with contextlib.suppress(OSError):  # no tracefs, or locked down: sysfs says it, too
                self._trace = AggregationTrace(damon_state.trace_instance(self._system), self._system)
        self._intervals = intervals
        self._trace_limit_s = _N_TRACED * intervals.aggregation_us / 1e6
        self._least_accesses = least_accesses
        self._is_new = True
        if self._trace is not None:
            self._trace.begin()
        return self._add(range(len(watched)), watched)

    def change(self, gone: Iterable[int], watched: Sequence[Watched]) -> list[int]:
        """Stop some kdamonds and start others; those of neither go on with what they know.

        The kernel asks of a kdamond that is written to only that it does not run itself
        (damon_sysfs_turn_damon_on(), mm/damon/sysfs.c, v6.12).

        Args:
            gone: numbers of those to stop; they may have ended by themselves.
            watched: whom others are to watch, at most as many as are free then.

        Returns:
            The numbers of the new ones.

        Raises:
            DamonUnavailableError: the kernel refuses, or somebody took DAMON over meanwhile.
        """
        gone = list(gone)
        free = (number for number, what in enumerate(self._noted) if not what or number in gone)
        numbers = list(itertools.islice(free, len(watched)))
        state = self._state_file.read()
        why = damon_state.whose(self._system, state, sorted({*self._used(), *numbers}))
        if why:
            raise DamonUnavailableError(self._taken(damon_state.n_kdamonds(self._system), why, state))
        for number in gone:
            self._free(number)
            self._silent.discard(number)
        return self._add(numbers, watched)

    def _add(self, numbers: Iterable[int], watched: Sequence[Watched]) -> list[int]:
        """Start kdamonds in places that are free."""
        numbers = list(numbers)
        for number, one in zip(numbers, watched, strict=True):
            self._noted[number] = one.noted
        self._note()
        for number, one in zip(numbers, watched, strict=True):
            self._configure(self._admin / str(number), one)
        for number, one in zip(numbers, watched, strict=True):
            try:
                self._write(self._admin / str(number) / "state", "on")
            except DamonUnavailableError:
                stat = None if one.pid is None else read_stat(one.pid, self._system)
                if one.pid is None or (stat is not None and stat.state != "Z"):
                    raise
                # The process has ended meanwhile; so has what there would be to see.
        if numbers:
            self._note_running(numbers)
        return numbers

    def _configure(self, kdamond: Path, one: Watched) -> None:
        intervals, write = self._intervals, self._write
        write(kdamond / "contexts/nr_contexts", 1)
        context = kdamond / "contexts/0"
        write(context / "operations", self._operations)
        attributes = context / "monitoring_attrs"
        write(attributes / "intervals/sample_us", intervals.sample_us)
        write(attributes / "intervals/aggr_us", intervals.aggregation_us)
        write(attributes / "intervals/update_us", intervals.update_us)
        write(attributes / "nr_regions/max", intervals.max_regions)
        fewest, most = intervals.min_regions
        n_regions = min(max(fewest, one.min_regions), most)
        write(attributes / "nr_regions/min", n_regions)
        write(context / "targets/nr_targets", 1)
        target = context / "targets/0"
        if one.pid is not None:
            write(target / "pid_target", one.pid)
        pieces = in_pieces(one.ranges, n_regions)
        write(target / "regions/nr_regions", len(pieces))
        for number, (start, end) in enumerate(pieces):
            write(target / f"regions/{number}/start", start)
            write(target / f"regions/{number}/end", end)
        write(context / "schemes/nr_schemes", 1)
        scheme = context / "schemes/0"
        write(scheme / "action", "stat")
        for what, least, most in (
            ("sz", 0, _MOST_BYTES),
            ("nr_accesses", self._least_accesses, _MOST),
            ("age", 0, _MOST),
        ):
            write(scheme / f"access_pattern/{what}/min", least)
            write(scheme / f"access_pattern/{what}/max", most)

    def latest(self) -> dict[int, Regions]:
        """Return what each kdamond found in the aggregation that it ended next; nothing once it has ended.

        Returns:
            By the numbers of those that were started.

        Raises:
            RunFailedError: see :meth:`regions`.
        """
        if self._trace is None:
            return {number: self.regions(number) for number in self._used()}
        pids = {number: damon_state.kdamond_pid(self._system, number) for number in self._used()}
        asked = [pid for pid in pids.values() if pid > 0]
        if not self._is_new:  # else it traces since before they were on
            self._trace.begin()
        self._is_new = False
        found = self._trace.aggregations(asked, self._trace_limit_s)
        self._trace.end()
        self._has_traced |= bool(found)
        if not self._has_traced and any(map(self.is_running, pids)):  # written in another way here
            self._trace.close()
            self._trace = None
            return self.latest()
        return {
            number: _regions(found[pid], self._least_accesses) if pid in found else NO_REGIONS
            for number, pid in pids.items()
        }

    def regions(self, number: int) -> Regions:
        """Return what a kdamond found in the last aggregation, through sysfs; nothing once it has ended.

        Waits for the next time that the scheme is applied, up to two aggregations.

        Raises:
            RunFailedError: the kernel refuses for another reason.
        """
        # Linux 6.12 gives up after two intervals by the clock, and the kdamonds of a busy machine lag: it
        # is asked again, but not one that had nothing to say before, whose process may just be idle.
        found = self._asked(number)
        for _ in range(0 if number in self._silent else _N_ASKED_AGAIN):
            if len(found) or not self.is_running(number):
                break
            found = self._asked(number)
        if len(found):
            self._silent.discard(number)
        else:
            self._silent.add(number)
        return found

    def _asked(self, number: int) -> Regions:
        kdamond = self._admin / str(number)
        try:
            damon_state.write(self._system, kdamond / "state", "update_schemes_tried_regions")
        except OSError as error:
            if self.is_running(number):
                remedy = "try again" if self._has_tried_regions else "take another --monitor"
                raise RunFailedError(
                    f"{kdamond}/state does not report regions ({error.strerror}); {remedy}"
                ) from error
            return NO_REGIONS
        directory = kdamond / "contexts/0/schemes/0/tried_regions"
        rows: list[tuple[int, int, int, int]] = []
        # One descriptor for the directory: four files a region are most of what a tick costs.
        top = self._system.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            for name in self._system.names_in(top):
                if name.isdigit():
                    with contextlib.suppress(FileNotFoundError):
                        rows.append(
                            (
                                self._number(top, f"{name}/start"),
                                self._number(top, f"{name}/end"),
                                self._number(top, f"{name}/nr_accesses"),
                                self._number(top, f"{name}/age"),
                            )
                        )
        finally:
            self._system.close(top)
        if not rows:
            return NO_REGIONS
        return _regions(np.array(sorted(rows), dtype=np.int64), 0)

    def _number(self, directory: int, name: str) -> int:
        fd = self._system.open(name, os.O_RDONLY, dir_fd=directory)
        try:
            return int(self._system.read(fd, 32))
        finally:
            self._system.close(fd)

    def _end_more(self) -> None:
        if self._trace is not None:
            self._trace.close()
            self._trace = None


def in_pieces(ranges: Sequence[tuple[int, int]], n: int) -> list[tuple[int, int]]:
    """Cut ranges into pieces, none larger than an ``n``-th of all.

    The kernel cuts a process by itself (mm/damon/vaddr.c __damon_va_init_regions(), v6.12), but with all
    holes between its mappings except the two largest: pieces of a Python program came out four times as
    large. What it is given stays (damon_va_init()), and holes become regions at the first look at the
    mappings (damon_fill_regions_holes()). For physical memory the operations have no ``init`` (paddr.c).
    Were the regions whole nodes, it would take some ten aggregations, each of which cuts a region in two,
    until they are small.

    Args:
        ranges: ``[start, end)`` in bytes, whole pages.
        n: how many pieces at least, as long as there are as many pages.
    """
    n_pages = sum(end - start for start, end in ranges) // PAGE_BYTES
    pieces: list[tuple[int, int]] = []
    for start, end in ranges:
        first, last = start // PAGE_BYTES, end // PAGE_BYTES
        n_cuts = min(-(-(last - first) * n // n_pages), last - first)
        edges = [(first + (last - first) * cut // n_cuts) * PAGE_BYTES for cut in range(n_cuts + 1)]
        pieces += itertools.pairwise(edges)
    return pieces


def _regions(table: NDArray[np.int64], least_accesses: int) -> Regions:
    table = table[table[:, 2] >= least_accesses]
    return Regions(table[:, :2], table[:, 2], table[:, 3])
