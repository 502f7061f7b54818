"""Pages that a process wrote to, by soft-dirty bits in its page tables.

It sees writes only, page by page. The bits (Documentation/admin-guide/mm/soft-dirty.rst) take
CONFIG_MEM_SOFT_DIRTY; clearing them write-protects the process's pages, so each page costs it one minor
fault per tick. PAGEMAP_SCAN (since v6.7) finds them without a copy of the page table; before, all of
/proc/PID/pagemap is read.
"""

from __future__ import annotations

from collections.abc import Sequence

from gpuscan.base.errors import InputError
from gpuscan.linux.capabilities import Right
from gpuscan.linux.process import Process
from gpuscan.linux.resident import pages_in
from gpuscan.linux.syscalls import PageIs
from gpuscan.linux.system import HERE, System
from gpuscan.monitors.contract import MonitorKind
from gpuscan.monitors.pagemap_scan import found_pages
from gpuscan.monitors.touched import NOTHING, PageMonitor, Touched, mapped

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


def _clear(process: Process) -> None:
    if process.is_alive():  # else its PID may be another's by now
        process.write_text("clear_refs", _CLEAR_SOFT_DIRTY)


MONITOR = MonitorKind(
    place_in_auto=40,
    opens=(),
    keeps=(Right("CAP_DAC_OVERRIDE", "to write another user's /proc/PID/clear_refs"),),
    watches_frames=False,
    open=lambda here: SoftDirty(here.cold_after_ns, here.system),
)
