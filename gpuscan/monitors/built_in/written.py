"""Pages that a program wrote to which gpuscan starts, by write protection with userfaultfd.

It sees writes only, page by page, and what the program forks, too. How: :mod:`gpuscan.linux.write_tracking`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from gpuscan.base.errors import InputError
from gpuscan.linux import write_tracking
from gpuscan.linux.process import Process
from gpuscan.linux.ranges import Ranges, contains
from gpuscan.linux.resident import pages_in
from gpuscan.linux.syscalls import PageIs
from gpuscan.linux.write_tracking import TrackedProgram
from gpuscan.monitors.contract import Circumstances, MonitorKind, StartsProgram
from gpuscan.monitors.pagemap_scan import found_pages
from gpuscan.monitors.touched import NOTHING, PageMonitor, Touched, mapped


class WrittenPages(PageMonitor, StartsProgram):
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


def _open(here: Circumstances) -> WrittenPages:
    if not here.starts:
        raise InputError("only a program that gpuscan starts can be tracked; give -- COMMAND")
    return WrittenPages(here.cold_after_ns)


MONITOR = MonitorKind(place_in_auto=50, opens=(), keeps=(), watches_frames=False, open=_open)
