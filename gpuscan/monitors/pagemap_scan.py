"""Pages that a process wrote to, by its page tables: soft-dirty bits, or write protection by userfaultfd.

Both see writes only, page by page. Soft-dirty bits (Documentation/admin-guide/mm/soft-dirty.rst) take
CONFIG_MEM_SOFT_DIRTY; clearing them write-protects the process's pages, so each page costs it one minor
fault per tick. PAGEMAP_SCAN (since v6.7) finds them without a copy of the page table; before, all of
/proc/PID/pagemap is read.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.linux import write_tracking
from gpuscan.linux.capabilities import Right
from gpuscan.linux.process import Process
from gpuscan.linux.ranges import Ranges, contains
from gpuscan.linux.resident import NO_PAGES, Pages, pages_in
from gpuscan.linux.syscalls import PageIs
from gpuscan.linux.system import HERE, System
from gpuscan.linux.write_tracking import TrackedProgram
from gpuscan.monitors.contract import NOTHING, PageMonitor, Touched, mapped

_CLEAR_SOFT_DIRTY = "4"


class SoftDirty(PageMonitor):
    """Pages written since the last tick, by their soft-dirty bits.

    Args:
        cold_after_ns: report pages not written for this long as cold; None reports none.
        system: whose processes will be watched.

    Raises:
        InputError: the kernel keeps no such bits.
    """

    name = "soft-dirty"
    sees = "writes, page by page"
    keeps = (Right("CAP_DAC_OVERRIDE", "to write another user's /proc/PID/clear_refs"),)

    def __init__(self, cold_after_ns: int | None = None, system: System = HERE) -> None:
        if not system.has_soft_dirty():
            raise InputError(
                "this kernel keeps no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY); take another --monitor"
            )
        super().__init__(cold_after_ns)
        self._scans = system.has_pagemap_scan()

    def watch(self, processes: Sequence[Process]) -> None:
        """Clear the bits of processes that are new."""
        new = self._new(processes)
        super().watch(processes)
        for process in new:
            _clear(process)

    def _observed(self, process: Process, now_ns: int) -> Touched:
        if not process.is_alive():
            return NOTHING
        ranges = mapped(process, writable=True)
        if self._scans and self._cold_after_ns is None:
            written = found_pages(process, ranges, PageIs.PRESENT | PageIs.SOFT_DIRTY)
            _clear(process)
            return Touched(written)
        pages = pages_in(process, ranges)
        _clear(process)
        return self._touched(process, pages, pages.soft_dirty, now_ns)

    def close(self) -> None:
        """Do nothing: the next write to each page ends its protection."""


class WrittenPages(PageMonitor):
    """Pages written since the last tick, of a program that gpuscan starts and of what it forks.

    How: :mod:`gpuscan.linux.write_tracking`.

    Args:
        cold_after_ns: report pages not written for this long as cold; None reports none.

    Raises:
        InputError: it does not work on this machine.
    """

    name = "written"
    sees = "writes, page by page (PAGEMAP_SCAN)"

    def __init__(self, cold_after_ns: int | None = None) -> None:
        write_tracking.check_write_tracking()
        super().__init__(cold_after_ns)
        self._program: TrackedProgram | None = None
        self._covered: dict[int, tuple[int, Ranges]] = {}

    def start(
        self, argv: Sequence[str], stdout: int | None = None, on_started: Callable[[], None] = lambda: None
    ) -> TrackedProgram:
        """Start the program; see :class:`gpuscan.linux.write_tracking.TrackedProgram`."""
        self._program = TrackedProgram(argv, stdout, on_started)
        return self._program

    def _observed(self, process: Process, now_ns: int) -> Touched:
        fd = None if self._program is None else self._program.descriptor(process.pid)
        if fd is None or not process.is_alive():
            return NOTHING
        ranges = mapped(process, writable=True)
        before = self._covered.get(process.pid)
        # Memory that was not covered before counts as written as a whole.
        covered = before[1] if before is not None and before[0] == fd else np.empty((0, 2), dtype=np.int64)
        if not np.array_equal(ranges, covered):
            try:
                write_tracking.register(fd, ranges)
            except ProcessLookupError:  # it is just becoming another program
                return NOTHING
        self._covered[process.pid] = fd, ranges
        written = found_pages(process, ranges, PageIs.PRESENT | PageIs.WRITTEN, write_protect=True)
        written = written.take(contains(covered, written.address))
        if self._cold_after_ns is None:
            return Touched(written)
        pages = pages_in(process, ranges)
        hot = np.isin(pages.address, written.address)
        return self._touched(process, pages, hot, now_ns)

    def close(self) -> None:
        """Give up the protection of all pages."""
        if self._program is not None:
            self._program.close()


def found_pages(process: Process, ranges: Ranges, required: PageIs, *, write_protect: bool = False) -> Pages:
    """Return the pages in ranges that PAGEMAP_SCAN finds in all of the categories."""
    system = process.system
    try:
        fd = system.open(process.proc / "pagemap", os.O_RDONLY)
    except (FileNotFoundError, ProcessLookupError):
        return NO_PAGES
    found = []
    try:
        for start, end in ranges.tolist():
            with contextlib.suppress(OSError):  # unmapped meanwhile, or not armed yet
                found.append(system.pagemap_scan(fd, start, end, required, write_protect=write_protect))
    finally:
        system.close(fd)
    return pages_in(process, np.concatenate(found)) if found else NO_PAGES


def _clear(process: Process) -> None:
    if not process.is_alive():  # its PID may be another's by now
        return
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        process.system.write_text(process.proc / "clear_refs", _CLEAR_SOFT_DIRTY)
