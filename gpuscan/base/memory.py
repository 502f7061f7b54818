"""How much memory there is to take."""

from __future__ import annotations

import os
import resource
from pathlib import Path


def available_bytes() -> int:
    """Return MemAvailable, or what a limit of the address space (``ulimit -v``) leaves where that is less.

    What cgroups allow beyond that is for the kernel to say.
    """
    page_bytes = os.sysconf("SC_PAGE_SIZE")
    available = os.sysconf("SC_PHYS_PAGES") * page_bytes
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            available = int(line.split()[1]) * 1024
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * page_bytes
        available = min(available, max(0, limit - used))
    return available
