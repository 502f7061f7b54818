"""A process that maps a file of tmpfs, its pages on one node, and leaves it alone until it is killed.

Prints one JSON line: where the mapping is.
"""

from __future__ import annotations

import argparse
import json
import mmap
import sys
import time
from pathlib import Path

import numpy as np
from placement import PAGE_BYTES, allocations_on


def main() -> None:
    """Map, say where, wait."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--mib", type=int, default=32)
    parser.add_argument("--node", type=int, default=2, help="where its pages are placed")
    options = parser.parse_args()
    with options.path.open("wb+") as file:
        file.truncate(options.mib << 20)
        mapping = mmap.mmap(file.fileno(), options.mib << 20, flags=mmap.MAP_SHARED)
    memory = np.frombuffer(mapping, dtype=np.uint8)
    with allocations_on(options.node):
        memory[::PAGE_BYTES] = 1
    sys.stdout.write(json.dumps({"address": memory.ctypes.data, "n_bytes": memory.nbytes}) + "\n")
    sys.stdout.flush()
    time.sleep(3600)


main()
