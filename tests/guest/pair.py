"""Two processes whose pages lie by turns on one node, page by page, and who keep touching their own.

Each stays on a CPU of its own. Prints JSON Lines: where their memory is, then that it is in place. Runs until
it is killed, the second process until the first has ended.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time

from placement import PAGE_BYTES, allocations_on, give_back, private_memory


def main() -> None:
    """Place, fork, give back what is the other's, touch for ever."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=32, help="of each process")
    parser.add_argument("--node", type=int, default=2, help="where the memory is placed")
    parser.add_argument("--cpus", type=int, nargs=2, default=(0, 1), help="the CPUs they stay on")
    parser.add_argument("--pause-ms", type=float, default=2, help="sleep after each time through")
    options = parser.parse_args()
    os.sched_setaffinity(0, {options.cpus[0]})
    memory = private_memory(2 * options.mib << 20, thp=False)
    with allocations_on(options.node):
        memory[::PAGE_BYTES] = 1
    first, (told, tell), (told_back, tell_back) = os.getpid(), os.pipe(), os.pipe()
    forked = os.fork()
    which = int(forked == 0)
    os.sched_setaffinity(0, {options.cpus[which]})
    for offset in range((1 - which) * PAGE_BYTES, memory.nbytes, 2 * PAGE_BYTES):
        give_back(memory[offset : offset + PAGE_BYTES])
    # A page that both have would be copied when it is written.
    if which:
        os.write(tell, b"+")
        os.read(told_back, 1)
    else:
        os.read(told, 1)
        os.write(tell_back, b"+")
        _say(pids=[first, forked], address=memory.ctypes.data, n_bytes=memory.nbytes, cpus=options.cpus)
    pages, n_times = memory[::PAGE_BYTES][which::2], 0
    while not which or os.getppid() == first:
        pages += 1
        n_times += 1
        if n_times == 1 and not which:
            _say(in_place=True)
        time.sleep(options.pause_ms / 1e3)


def _say(**fields: object) -> None:
    sys.stdout.write(json.dumps(fields) + "\n")
    sys.stdout.flush()


main()
