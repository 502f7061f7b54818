"""A process whose memory lies on one node and that keeps touching part of it.

Prints JSON Lines: where its memory is, then several times a second the page touches so far and what is hot.
Runs until it is killed.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from placement import PAGE_BYTES, allocations_on, bind, private_memory

REPORT_S = 0.25
PATTERNS = ("fixed", "shifting", "uniform")


def main() -> None:
    """Place, report, touch for ever."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=128)
    parser.add_argument("--node", type=int, default=2, help="where the memory is placed")
    parser.add_argument("--cpu", type=int, default=0, help="the CPU it stays on")
    parser.add_argument("--pattern", choices=PATTERNS, default="fixed", help="which part is touched")
    parser.add_argument("--hot", type=float, default=0.25, help="share that is hot, all of it when uniform")
    parser.add_argument("--pause-ms", type=float, default=0, help="sleep after each time through")
    parser.add_argument("--shift-s", type=float, default=10, help="how long a shifting hot set stays")
    parser.add_argument("--bind", action="store_true", help="and its memory may be on that node only")
    parser.add_argument("--thp", action="store_true", help="in huge pages")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.cpu})
    memory = private_memory(options.mib << 20, thp=options.thp)
    with allocations_on(options.node):
        memory[::PAGE_BYTES] = 1
    if options.bind:
        bind(memory, options.node)
    pages = memory[::PAGE_BYTES]
    n_hot = pages.size if options.pattern == "uniform" else int(pages.size * options.hot)
    first, n_touched = (pages.size - n_hot) // 2, 0
    _say(pid=os.getpid(), address=memory.ctypes.data, n_bytes=memory.nbytes)
    began_s = reported_s = time.monotonic()
    while True:
        now_s = time.monotonic()
        if options.pattern == "shifting":
            first = int((now_s - began_s) / options.shift_s) * n_hot % (pages.size - n_hot + 1)
        if now_s - reported_s >= REPORT_S or not n_touched:
            _say(t_s=now_s, n_touched=n_touched, hot=[first * PAGE_BYTES, (first + n_hot) * PAGE_BYTES])
            reported_s = now_s
        pages[first : first + n_hot] += 1
        n_touched += n_hot
        if options.pause_ms:
            time.sleep(options.pause_ms / 1e3)


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


main()
