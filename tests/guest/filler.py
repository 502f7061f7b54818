"""A process that fills a node until ``--leave-mib`` of it are free, and keeps it so."""

from __future__ import annotations

import argparse
import json
import sys
import time

from placement import PAGE_BYTES, allocations_on, private_memory

STEP_BYTES = 2 << 20


def free_bytes(nid: int) -> int:
    """Return what a node's meminfo calls free."""
    with open(f"/sys/devices/system/node/node{nid}/meminfo") as file:  # noqa: PTH123 - a script, as short as can be
        line = next(line for line in file if "MemFree" in line)
    return int(line.split()[3]) << 10


def main() -> None:
    """Fill, say so, fill up again whenever something was freed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--node", type=int, default=0)
    parser.add_argument("--leave-mib", type=int, default=8)
    options = parser.parse_args()
    held, full = [], False
    while True:
        if free_bytes(options.node) > (options.leave_mib << 20) + STEP_BYTES:
            memory = private_memory(STEP_BYTES, thp=False)
            with allocations_on(options.node):
                memory[::PAGE_BYTES] = 1
            held.append(memory)
            continue
        if not full:
            full = True
            sys.stdout.write(json.dumps({"held_mib": len(held) * STEP_BYTES >> 20}) + "\n")
            sys.stdout.flush()
        time.sleep(0.1)


main()
