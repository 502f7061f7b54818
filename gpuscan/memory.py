"""How much memory there is to take."""

from __future__ import annotations

import os
from pathlib import Path


def available_bytes() -> int:
    """Return MemAvailable; what cgroups allow beyond that is for the kernel to say."""
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
