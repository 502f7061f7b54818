"""What the simulated kernel moves by itself: NUMA balancing between tiers, and demotion by reclaim.

Evidence: Documentation/admin-guide/sysctl/kernel.rst (numa_balancing), mm/vmscan.c and mm/migrate.c, v6.12.
"""

from __future__ import annotations

import errno
from typing import ClassVar

import numpy as np

from gpuscan.linux.kernel_settings import DEMOTION, NUMA_BALANCING, PROMOTION_RATE

from .world import FAR, NEAR, NIDS, PFN_BITS, SECTION, Proc, World

_EVERY_NS = 100_000_000
_AT_A_TIME = 8
_LOW_PAGES = 40
"""Reclaim begins where a node has fewer free pages."""


class OwnMoves:
    """The settings, the counters of /proc/vmstat, and the moves."""

    AT_BOOT: ClassVar = {NUMA_BALANCING: "0", PROMOTION_RATE: "65536", DEMOTION: "false"}

    def __init__(self, world: World) -> None:
        self._world = world
        self.settings = dict(self.AT_BOOT)
        self.n_promoted = self.n_demoted = 0
        self._next_ns = world.now_ns + _EVERY_NS

    def read(self, name: str) -> str:
        """Return the text of a setting."""
        return f"{self.settings[name]}\n"

    def write(self, name: str, value: str) -> None:
        """Set one; what it does not take is refused."""
        fits = value in ("true", "false") if name == DEMOTION else value.isdigit()
        if not fits or (name == NUMA_BALANCING and int(value) > 4):
            raise OSError(errno.EINVAL, "Invalid argument", name)
        self.settings[name] = value

    def vmstat(self) -> str:
        """Return what /proc/vmstat says of it."""
        return (
            f"nr_free_pages 1\npgpromote_success {self.n_promoted}\npgpromote_candidate 7\n"
            f"pgdemote_kswapd {self.n_demoted}\npgdemote_direct 0\n"
        )

    def pass_time(self) -> None:
        """Move pages, as often as time has passed for."""
        if self._world.now_ns < self._next_ns:
            return
        self._next_ns = self._world.now_ns + _EVERY_NS
        if int(self.settings[NUMA_BALANCING]) & 2:
            self.n_promoted += self._move({FAR}, NEAR, is_hot=True)
        if self.settings.get(DEMOTION) == "true":
            short = {nid for nid in NIDS if nid != FAR and self._world.free_pages(nid) < _LOW_PAGES}
            self.n_demoted += self._move(short, FAR, is_hot=False)

    def _move(self, from_nids: set[int], nid: int, *, is_hot: bool) -> int:
        found = [
            (proc, page)
            for proc in self._world.running()
            for page in pages_on(proc, from_nids, is_hot=is_hot)
        ]
        n_moved = 0
        for proc, page in found[:_AT_A_TIME]:
            if self._world.free_pages(nid) > 0 and nid not in self._world.offline:
                self._world.move(proc, page, nid)
                n_moved += 1
        return n_moved


def pages_on(proc: Proc, nids: set[int], *, is_hot: bool) -> list[int]:
    """Return which pages of a process are on some nodes and hot, or not."""
    on = np.isin((proc.words & PFN_BITS) // np.uint64(SECTION), list(nids))
    return np.flatnonzero((proc.words != 0) & on & (proc.hot == is_hot)).tolist()
