"""Memory on one node that two processes map, or of hugetlbfs, a quarter of which they keep reading.

Prints JSON Lines: where the memory is and whose, then several times a second how often it was read. Runs
until it is killed, the second process until the first has ended.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import sys
import time

import numpy as np
from placement import PAGE_BYTES, allocations_on, private_memory

_MAP_HUGETLB = 0x40000  # include/uapi/asm-generic/mman-common.h
REPORT_S = 0.25


def main() -> None:
    """Place, fork, read for ever."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--how", choices=("shm", "fork", "hugetlb"), required=True)
    parser.add_argument("--mib", type=int, default=32)
    parser.add_argument("--node", type=int, default=2, help="where the memory is placed")
    parser.add_argument("--pause-ms", type=float, default=2, help="sleep after each time through")
    options = parser.parse_args()
    n_bytes = options.mib << 20
    if options.how == "fork":
        memory = private_memory(n_bytes, thp=False)
    else:
        flags = mmap.MAP_ANONYMOUS
        flags |= mmap.MAP_SHARED if options.how == "shm" else mmap.MAP_PRIVATE | _MAP_HUGETLB
        memory = np.frombuffer(mmap.mmap(-1, n_bytes, flags=flags), dtype=np.uint8)
    with allocations_on(options.node):
        memory[::PAGE_BYTES] = 1
    first, forked = os.getpid(), 0
    if options.how != "hugetlb":
        forked = os.fork()
    is_first = bool(forked) or options.how == "hugetlb"
    pages = memory[::PAGE_BYTES]
    pages.sum()  # both have all of it in their page tables
    if is_first:
        time.sleep(1.0)
        pids = [first, forked] if forked else [first]
        _say(pids=pids, address=memory.ctypes.data, n_bytes=memory.nbytes)
    n_hot = pages.size // 4
    hot = pages[pages.size // 2 : pages.size // 2 + n_hot]
    reported_s, n_times = 0.0, 0
    while is_first or os.getppid() == first:
        if int(hot.sum()) != n_hot:
            sys.exit("its memory has changed")
        n_times += 1
        if is_first and time.monotonic() - reported_s >= REPORT_S:
            reported_s = time.monotonic()
            lo = (pages.size // 2) * PAGE_BYTES
            _say(n_times=n_times, hot=[lo, lo + n_hot * PAGE_BYTES])
        time.sleep(options.pause_ms / 1e3)


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


main()
