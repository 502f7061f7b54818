"""/proc of processes in a folder: pagemap, maps, numa_maps, kpageflags, as the kernel writes them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from gpuscan.linux.process import Process
from gpuscan.linux.system import System
from gpuscan.records.page_flags import Kpf

PRESENT, EXCLUSIVE, SOFT_DIRTY = 1 << 63, 1 << 56, 1 << 55
LRU_PAGE = 1 << Kpf.LRU | 1 << Kpf.ANON


class FakeProcess(Process):
    """What the readers ask of a :class:`gpuscan.linux.process.Process`, on files below ``root``."""

    def __init__(self, root: Path, pid: int = 77) -> None:
        self.root = root
        self.system = System(root)
        self.pid = pid
        self.comm = "fake"
        self.alive = True
        self.proc.mkdir(parents=True, exist_ok=True)
        (self.proc / "maps").write_text("")
        self._pages: dict[int, int] = {}
        self._write()

    def is_alive(self) -> bool:
        return self.alive

    def text(self, name: str) -> str:
        path = self.proc / name
        return path.read_text() if path.exists() else ""

    _one_of_many = False

    def mappings(self):
        from gpuscan.linux.process import parse_maps

        return parse_maps(self.text("maps"))

    def map(self, address: int, pfns, *, exclusive: bool = True, soft_dirty: bool = False) -> None:
        """Put pages at consecutive addresses."""
        word = PRESENT | (EXCLUSIVE if exclusive else 0) | (SOFT_DIRTY if soft_dirty else 0)
        for number, pfn in enumerate(pfns, start=address >> 12):
            self._pages[number] = word | int(pfn)
        self._write()

    def unmap(self, address: int, n: int = 1) -> None:
        for number in range(address >> 12, (address >> 12) + n):
            self._pages.pop(number, None)
        self._write()

    def pfn_at(self, address: int) -> int | None:
        word = self._pages.get(address >> 12)
        return None if word is None else word & ((1 << 55) - 1)

    def add_mapping(self, start: int, end: int, permissions: str = "rw-p", name: str = "") -> None:
        with (self.proc / "maps").open("a") as maps:
            maps.write(f"{start:x}-{end:x} {permissions} 00000000 00:00 0 {name}\n")

    def _write(self) -> None:
        words = np.zeros(max(self._pages, default=0) + 1, dtype=np.uint64)
        for number, word in self._pages.items():
            words[number] = word
        (self.proc / "pagemap").write_bytes(words.tobytes())


def write_flags(root: Path, n_pages: int, flags: dict[int, int] | None = None) -> None:
    """Write /proc/kpageflags: movable single pages, but for ``flags`` by PFN."""
    words = np.full(n_pages, LRU_PAGE, dtype=np.uint64)
    for pfn, word in (flags or {}).items():
        words[pfn] = word
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/kpageflags").write_bytes(words.tobytes())


def large_folio(head: int, order: int) -> dict[int, int]:
    """Return the flags of a large folio, for :func:`write_flags`."""
    thp = LRU_PAGE | 1 << Kpf.THP
    tails = dict.fromkeys(range(head + 1, head + (1 << order)), thp | 1 << Kpf.COMPOUND_TAIL)
    return {head: thp | 1 << Kpf.COMPOUND_HEAD, **tails}
