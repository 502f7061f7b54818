"""What the kernel counts of pages that it moved by itself, out of /proc/vmstat."""

from __future__ import annotations

from typing import NamedTuple

from gpuscan.linux.system import System

_PROMOTED = "pgpromote_success"
_DEMOTED = "pgdemote_"


class MovedByKernel(NamedTuple):
    """Base pages since boot.

    Attributes:
        promoted_pages: by NUMA balancing, from a lower tier to the top (migrate_misplaced_folio(),
            mm/migrate.c).
        demoted_pages: by reclaim, whoever reclaimed: kswapd, an allocation, khugepaged
            (demote_folio_list(), mm/vmscan.c).
    """

    promoted_pages: int = 0
    demoted_pages: int = 0


def moved_by_kernel(system: System) -> MovedByKernel:
    """Read /proc/vmstat; what this kernel does not count is 0."""
    promoted = demoted = 0
    for line in system.read_text(system.root / "proc/vmstat").splitlines():
        name, _, value = line.partition(" ")
        if name == _PROMOTED:
            promoted = int(value)
        elif name.startswith(_DEMOTED):
            demoted += int(value)
    return MovedByKernel(promoted, demoted)
