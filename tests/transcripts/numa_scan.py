"""NUMA balancing's scanner, address by address: which page table entries a visit makes PROT_NONE.

task_numa_work() of kernel/sched/fair.c (Linux 6.1 to 6.16), for VMAs that nothing makes it skip, and what
change_prot_numa() does to them: an entry that is PROT_NONE already, or whose page is on a node that is not
scanned, is not updated.
"""

from __future__ import annotations

from dataclasses import dataclass, field

PAGE = 4096
HPAGE = 2 << 20


@dataclass
class Entry:
    """A page table entry: of a page, or of a huge page."""

    address: int
    size: int
    scanned: bool
    protnone: bool = False


@dataclass
class Vma:
    start: int
    end: int
    entries: list[Entry]


@dataclass
class Scan:
    """What mm_struct keeps (numa_scan_offset, numa_scan_seq), the VMAs, and numa_balancing_scan_size."""

    vmas: list[Vma]
    scan_pages: int
    offset: int = 0
    seq: int = 0
    walked: int = field(default=0)

    def vma_from(self, address: int) -> int | None:
        """vma_next(): the first VMA that ends behind an address."""
        return next((i for i, vma in enumerate(self.vmas) if vma.end > address), None)

    def reset(self) -> None:
        """reset_ptenuma_scan."""
        self.seq += 1
        self.offset = 0

    def visit(self) -> None:
        pages = self.scan_pages
        virtpages = pages * 8
        start = self.offset
        i = self.vma_from(start)
        if i is None:
            self.reset()
            start = 0
            i = 0
        while i < len(self.vmas):
            vma = self.vmas[i]
            while True:
                start = max(start, vma.start)
                end = start + pages * PAGE
                end = (end + HPAGE - 1) // HPAGE * HPAGE
                end = min(end, vma.end)
                if self.change_prot(vma, start, end):
                    pages -= (end - start) // PAGE
                virtpages -= (end - start) // PAGE
                start = end
                if pages <= 0 or virtpages <= 0:
                    self.offset = start  # goto out: there is a VMA still
                    return
                if end == vma.end:
                    break
            i += 1
        self.reset()

    def change_prot(self, vma: Vma, start: int, end: int) -> int:
        updated = 0
        for entry in vma.entries:
            if start <= entry.address < end:
                self.walked += 1
                if entry.scanned and not entry.protnone:
                    entry.protnone = True
                    updated += 1
        return updated
