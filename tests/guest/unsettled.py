"""A process that maps, unmaps, remaps and forks at random, and checks that its pages hold what it wrote.

Prints a JSON line for every few hundred steps. Ends at SIGTERM, with all that it has mapped, or at once with
exit status 3 when a page holds something else.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from placement import PAGE_BYTES, allocations_on

WRONG = 3
REPORT_STEPS = 200
_READ_WRITE, _PRIVATE_ANONYMOUS, _MAY_MOVE = 3, 0x22, 1
_FAILED = ctypes.c_void_p(-1).value

_libc = ctypes.CDLL(None, use_errno=True)
for _call in (_libc.mmap, _libc.mremap):
    _call.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long)
_libc.mremap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)


@dataclass
class Region:
    """A mapping whose page ``i`` begins with the number ``stamp + i``; new pages come from ``node``."""

    address: int
    n_pages: int
    stamp: int
    node: int

    def words(self) -> NDArray[np.uint64]:
        """Return the first word of every page."""
        n_bytes = self.n_pages * PAGE_BYTES
        memory: Any = (ctypes.c_ubyte * n_bytes).from_address(self.address)
        return np.frombuffer(memory, dtype=np.uint64)[:: PAGE_BYTES // 8]

    def write(self, first: int = 0) -> None:
        """Stamp the pages from ``first`` on."""
        self.words()[first:] = np.arange(self.stamp + first, self.stamp + self.n_pages, dtype=np.uint64)

    def place(self, first: int = 0) -> None:
        """Stamp pages that are not there yet; the policy goes at once, since gpuscan respects it."""
        with allocations_on(self.node):
            self.write(first)

    def check(self) -> None:
        """Leave with :data:`WRONG` if a page does not hold its stamp."""
        if not (self.words() == np.arange(self.stamp, self.stamp + self.n_pages, dtype=np.uint64)).all():
            os._exit(WRONG)


def map_region(n_pages: int, stamp: int, node: int) -> Region:
    """Return a new mapping, stamped."""
    address = _libc.mmap(None, n_pages * PAGE_BYTES, _READ_WRITE, _PRIVATE_ANONYMOUS, -1, 0)
    assert address != _FAILED
    region = Region(address, n_pages, stamp, node)
    region.place()
    return region


def resize(region: Region, n_pages: int) -> None:
    """Grow or shrink a mapping with mremap, which may move it."""
    old = region.n_pages
    address = _libc.mremap(region.address, old * PAGE_BYTES, n_pages * PAGE_BYTES, _MAY_MOVE)
    assert address != _FAILED
    region.address, region.n_pages = address, n_pages
    if n_pages > old:
        region.place(first=old)


def fork_and_check(regions: list[Region], rng: random.Random) -> None:
    """Fork; the child checks all pages, writes some, which copies them, and ends."""
    pid = os.fork()
    if pid == 0:
        for region in regions:
            region.check()
        rng.choice(regions).write()
        os._exit(0)
    _, status = os.waitpid(pid, 0)
    if os.waitstatus_to_exitcode(status):
        os._exit(WRONG)


def main() -> None:
    """Keep some memory mapped and never stop changing it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--node", type=int, default=2)
    parser.add_argument("--mib", type=int, default=64, help="maps no more where it has as much")
    parser.add_argument("--pause-ms", type=float, default=0, help="sleep after each step")
    options = parser.parse_args()
    asked_to_end = []
    signal.signal(signal.SIGTERM, lambda number, _: asked_to_end.append(number))
    regions: list[Region] = []
    rng, n_steps, n_most = random.Random(options.seed), 0, options.mib * (1 << 20) // PAGE_BYTES
    n_largest = min(2048, n_most)
    while not asked_to_end:
        step = rng.random()
        if not regions or (step < 0.05 and sum(region.n_pages for region in regions) < n_most):
            regions.append(map_region(rng.randint(1, n_largest), rng.randrange(1 << 40), options.node))
        elif step < 0.08:
            region = regions.pop(rng.randrange(len(regions)))
            _libc.munmap(region.address, region.n_pages * PAGE_BYTES)
        elif step < 0.11:
            resize(rng.choice(regions), rng.randint(1, n_largest))
        elif step < 0.13:
            fork_and_check(regions, rng)
        else:
            region = rng.choice(regions)
            region.check()
            region.write()
        n_steps += 1
        if n_steps % REPORT_STEPS == 0:
            sys.stdout.write(json.dumps({"n_steps": n_steps, "n_regions": len(regions)}) + "\n")
            sys.stdout.flush()
        if options.pause_ms:
            time.sleep(options.pause_ms / 1e3)
    os._exit(0)


main()
