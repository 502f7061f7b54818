"""Pages that belong to nobody: what a leak of page frames would look like, counted two ways.

A frame whose reference somebody forgot to drop is not freed when its process ends. Then either

- it is an *orphan*: an anonymous page that no page table maps. kpageflags calls it ANON until it is freed
  (``page->mapping`` stays, ``stable_page_flags()``, fs/proc/page.c), kpagecount says 0; or
- it is *unaccounted*: neither free nor in any counter of the kernel. An orphan is, since the counter of
  anonymous pages follows the mapcount (``folio_remove_rmap_ptes()``, mm/rmap.c), and so is a frame that was
  allocated as the target of a move and then forgotten.

Free pages alone do not tell: thousands lie on the lists of the CPUs, whose length the kernel tunes to how
much is freed, and drop_caches leaves those alone.
"""

from __future__ import annotations

import mmap
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES
from gpuscan.linux import syscalls
from gpuscan.records.page_flags import Kpf, bits

_PER_FRAME = ("kpageflags", "kpagecount")
_SETTLED_PAGES = 16
_KIB_PER_PAGE = PAGE_BYTES // 1024
_NOT_ANONYMOUS = bits(Kpf.SLAB, Kpf.PGTABLE, Kpf.BUDDY, Kpf.NOPAGE, Kpf.OFFLINE, Kpf.RESERVED)
"""Frames of which the bit that says ANON means something else."""
# VmallocUsed has the kernel's stacks, too (CONFIG_VMAP_STACK); Cached has Shmem.
_COUNTED = (
    "Buffers", "Cached", "SwapCached", "AnonPages", "Slab", "PageTables", "SecPageTables", "VmallocUsed",
    "Percpu",
)  # fmt: skip


@dataclass(frozen=True)
class Strays:
    """Pages that nobody owns, in base pages: see the module."""

    orphans: int
    unaccounted: int


def strays(limit_s: float = 10.0) -> Strays:
    """Count them once the kernel has settled: what it frees late (RCU, work queues) is lost to nobody."""
    deadline = time.monotonic() + limit_s
    seen = _look()
    while time.monotonic() < deadline:
        time.sleep(0.05)
        before, seen = seen, _look()
        if before.orphans == seen.orphans and abs(before.unaccounted - seen.unaccounted) <= _SETTLED_PAGES:
            break
    return seen


def _look() -> Strays:
    _drain()
    # Writing it adds up what each CPU has counted (mm/vmstat.c vmstat_refresh()).
    Path("/proc/sys/vm/stat_refresh").write_text("1")
    return Strays(_orphans(), unaccounted_pages(*map(_text, ("meminfo", "zoneinfo"))))


def unaccounted_pages(meminfo: str, zoneinfo: str) -> int:
    """Return the pages that are neither free nor in a counter, from the texts of both files."""
    kib = {name: int(value) for name, value in re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.MULTILINE)}
    known = sum(kib[name] for name in _COUNTED) // _KIB_PER_PAGE
    free = sum(map(int, re.findall(r"^  pages free\s+(\d+)$", zoneinfo, re.MULTILINE)))
    on_cpu_lists = sum(map(int, re.findall(r"^\s+count:\s+(\d+)$", zoneinfo, re.MULTILINE)))
    return kib["MemTotal"] // _KIB_PER_PAGE - known - free - on_cpu_lists


def _orphans() -> int:
    flags, maps = (_words(Path("/proc", name)) for name in _PER_FRAME)
    anonymous = (flags & (bits(Kpf.ANON) | _NOT_ANONYMOUS)) == bits(Kpf.ANON)
    return int((anonymous & (maps == 0)).sum())


def _words(path: Path) -> NDArray[np.uint64]:
    # Neither file takes a read that is no multiple of 8 bytes, as Python's own are.
    with path.open("rb", buffering=0) as file:
        parts = list(iter(lambda: file.read(1 << 20), b""))
    return np.frombuffer(b"".join(parts), dtype=np.uint64)


def _drain() -> None:
    """Take all pages off the lists on which CPUs collect them for the LRU, each with a reference.

    move_pages(2) begins with that, whatever it moves (``lru_cache_disable()`` in ``do_pages_move()``,
    mm/migrate.c).
    """
    with mmap.mmap(-1, PAGE_BYTES) as page:
        page[0] = 1
        address = np.frombuffer(page, dtype=np.uint8).ctypes.data
        syscalls.move_pages(0, np.array([address], dtype=np.uint64), np.array([0], dtype=np.int32))


def _text(name: str) -> str:
    return Path("/proc", name).read_text()
