"""Which pages of a process are where: virtual addresses to page frames, page frames to folios.

Evidence: Documentation/admin-guide/mm/pagemap.rst; fs/proc/task_mmu.c pagemap_read() makes one u64 per
page, in which bits 0 to 54 are the PFN of a present page.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.linux.process import Process
from gpuscan.pageflags import NO_PAGE, Kpf, bits
from gpuscan.units import PAGE_SHIFT

WORD_BYTES = 8
_PFN = np.uint64((1 << 55) - 1)
_SOFT_DIRTY = np.uint64(1 << 55)
_EXCLUSIVE = np.uint64(1 << 56)
_PRESENT = np.uint64(1 << 63)
_STRETCH_PAGES = 1 << 16
_LARGE_PAGES = 512
"""Folios on LRU lists are at most PMD-sized with 4 KiB pages, and aligned to their size."""
_GAP_PAGES = 1024
"""PFNs closer together than this are read in one go: 8 KiB cost less than another system call."""


@dataclass(frozen=True, slots=True, eq=False)
class Pages:
    """Present pages of one process, ascending by address.

    Attributes:
        address: int64[n].
        pfn: int64[n].
        exclusive: bool[n], no other mapping shares the page.
        soft_dirty: bool[n], written since the bits were last cleared.
    """

    address: NDArray[np.int64]
    pfn: NDArray[np.int64]
    exclusive: NDArray[np.bool_]
    soft_dirty: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.address)

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Pages:
        """Return a part of them."""
        return Pages(self.address[which], self.pfn[which], self.exclusive[which], self.soft_dirty[which])


NO_PAGES = Pages(
    np.empty(0, dtype=np.int64),
    np.empty(0, dtype=np.int64),
    np.empty(0, dtype=np.bool_),
    np.empty(0, dtype=np.bool_),
)


def pages_in(process: Process, ranges: Sequence[tuple[int, int]] | NDArray[np.int64]) -> Pages:
    """Return the present pages in address ranges ``[start, end)``, ascending and disjoint.

    Pages that go meanwhile, and all pages of a process that has ended, are left out.

    Raises:
        OSError: the pagemap may not be opened.
    """
    try:
        fd = os.open(process.proc / "pagemap", os.O_RDONLY)
    except (FileNotFoundError, ProcessLookupError):
        return NO_PAGES
    try:
        parts = [
            _stretch(fd, low, min(low + _STRETCH_PAGES, end >> PAGE_SHIFT))
            for start, end in ((int(start), int(end)) for start, end in ranges)
            for low in range(start >> PAGE_SHIFT, end >> PAGE_SHIFT, _STRETCH_PAGES)
        ]
    finally:
        os.close(fd)
    if not parts:
        return NO_PAGES
    numbers = np.concatenate([number for number, _ in parts])
    words = np.concatenate([word for _, word in parts])
    return Pages(
        numbers << PAGE_SHIFT,
        (words & _PFN).astype(np.int64),
        (words & _EXCLUSIVE) != 0,
        (words & _SOFT_DIRTY) != 0,
    )


def _words(fd: int, low: int, high: int) -> NDArray[np.uint64]:
    """Return the words of pages ``[low, high)``, fewer where the pagemap ends."""
    try:
        data = os.pread(fd, (high - low) * WORD_BYTES, low * WORD_BYTES)
    except (ProcessLookupError, OSError):
        data = b""
    return np.frombuffer(data, dtype=np.uint64, count=len(data) // WORD_BYTES)


def _stretch(fd: int, low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    words = _words(fd, low, high)
    present = np.flatnonzero((words & _PRESENT) != 0)
    return present + low, words[present]


def pfns_at(process: Process, addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int64[n]: the PFN behind each address (ascending), -1 where none is present.

    Raises:
        OSError: the pagemap may not be opened.
    """
    pfns = np.full(len(addresses), -1, dtype=np.int64)
    if not len(addresses):
        return pfns
    try:
        fd = os.open(process.proc / "pagemap", os.O_RDONLY)
    except (FileNotFoundError, ProcessLookupError):
        return pfns
    try:
        numbers = addresses >> PAGE_SHIFT
        cuts = (np.flatnonzero(np.diff(numbers) > _GAP_PAGES) + 1).tolist()
        for start, end in zip([0, *cuts], [*cuts, len(numbers)], strict=True):
            low = int(numbers[start])
            words = _words(fd, low, int(numbers[end - 1]) + 1)
            inside = numbers[start:end] - low
            inside = inside[inside < len(words)]
            found = words[inside]
            pfns[start : start + len(inside)] = np.where(
                (found & _PRESENT) != 0, (found & _PFN).astype(np.int64), -1
            )
    finally:
        os.close(fd)
    return pfns


class PageFlags:
    """An open /proc/kpageflags (root).

    Raises:
        OSError: it may not be opened.
    """

    def __init__(self, path: os.PathLike[str]) -> None:
        self._fd = os.open(path, os.O_RDONLY)

    def at(self, pfns: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return uint64[n]: the flags of PFNs, in any order; ``NO_PAGE`` past the file's end."""
        if not len(pfns):
            return np.empty(0, dtype=np.uint64)
        order = np.argsort(pfns, kind="stable")
        ascending = pfns[order]
        flags = np.empty(len(pfns), dtype=np.uint64)
        cuts = np.flatnonzero(np.diff(ascending) > _GAP_PAGES) + 1
        start = 0
        for end in (*cuts.tolist(), len(ascending)):
            run = ascending[start:end]
            words = self._words(int(run[0]), int(run[-1]) + 1)
            flags[order[start:end]] = words[run - run[0]]
            start = end
        return flags

    def _words(self, low: int, high: int) -> NDArray[np.uint64]:
        data = os.pread(self._fd, (high - low) * WORD_BYTES, low * WORD_BYTES)
        words = np.full(high - low, NO_PAGE)
        words[: len(data) // WORD_BYTES] = np.frombuffer(data, dtype=np.uint64, count=len(data) // WORD_BYTES)
        return words

    def folios_of(self, pfns: NDArray[np.int64]) -> Folios:
        """Find the folios that pages belong to.

        Args:
            pfns: int64[n], in any order.
        """
        flags = self.at(pfns)
        head = pfns.copy()
        order = np.zeros(len(pfns), dtype=np.int64)
        movable = (flags & _UNMOVABLE) == 0
        movable &= (flags & _LRU) != 0
        compound = np.flatnonzero((flags & _COMPOUND) != 0)
        movable[compound] = False
        blocks = np.unique(pfns[compound] // _LARGE_PAGES) * _LARGE_PAGES
        for block in blocks.tolist():
            words = self._words(block, block + _LARGE_PAGES)
            first = np.flatnonzero((words & _TAIL) == 0)
            ends = np.append(first[1:], _LARGE_PAGES)
            sizes = ends - first
            mine = compound[(pfns[compound] >= block) & (pfns[compound] < block + _LARGE_PAGES)]
            inside = pfns[mine] - block
            which = np.searchsorted(first, inside, side="right") - 1
            known = which >= 0
            mine, which = mine[known], which[known]
            size = sizes[which]
            # Not a power of two, or not aligned to it: it was split or freed while this was read.
            whole = (size & (size - 1) == 0) & (first[which] & (size - 1) == 0)
            head_words = words[first[which]]
            whole &= ((head_words & _LRU) != 0) & ((head_words & _UNMOVABLE) == 0)
            head[mine] = block + first[which]
            order[mine] = np.log2(np.maximum(size, 1)).astype(np.int64)
            movable[mine] = whole
        return Folios(head, order, movable, flags)

    def close(self) -> None:
        """Close the file."""
        os.close(self._fd)


@dataclass(frozen=True, slots=True, eq=False)
class Folios:
    """The folios behind pages.

    Attributes:
        head: int64[n], PFN of the folio's first page.
        order: int64[n].
        movable: bool[n], a whole folio on an LRU list.
        flags: uint64[n], the flags of the page itself.
    """

    head: NDArray[np.int64]
    order: NDArray[np.int64]
    movable: NDArray[np.bool_]
    flags: NDArray[np.uint64]


_LRU = bits(Kpf.LRU)
_TAIL = bits(Kpf.COMPOUND_TAIL)
_COMPOUND = bits(Kpf.COMPOUND_HEAD, Kpf.COMPOUND_TAIL)
_UNMOVABLE = bits(Kpf.HUGE, Kpf.SLAB, Kpf.BUDDY, Kpf.HWPOISON, Kpf.NOPAGE, Kpf.OFFLINE, Kpf.ZERO_PAGE)
