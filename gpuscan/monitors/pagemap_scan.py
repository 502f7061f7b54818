"""Pages by the categories that PAGEMAP_SCAN knows (since v6.7), without a copy of the page table."""

from __future__ import annotations

import contextlib

import numpy as np

from gpuscan.linux.process import Process
from gpuscan.linux.ranges import Ranges
from gpuscan.linux.resident import NO_PAGES, Pages, pages_in
from gpuscan.linux.syscalls import PageIs


def found_pages(process: Process, ranges: Ranges, required: PageIs, *, write_protect: bool = False) -> Pages:
    """Return the pages in ranges that PAGEMAP_SCAN finds in all of the categories."""
    system = process.system
    fd = process.opened("pagemap")
    if fd is None:
        return NO_PAGES
    found = []
    try:
        for start, end in ranges.tolist():
            with contextlib.suppress(OSError):  # unmapped meanwhile, or not armed yet
                found.append(system.pagemap_scan(fd, start, end, required, write_protect=write_protect))
    finally:
        system.close(fd)
    return pages_in(process, np.concatenate(found)) if found else NO_PAGES
