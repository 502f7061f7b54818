"""Which pages of a process are where: virtual addresses to page frames, page frames to folios.

Evidence: Documentation/admin-guide/mm/pagemap.rst; fs/proc/task_mmu.c pagemap_read() makes one u64 per
page, in which bits 0 to 54 are the PFN of a present page.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_SHIFT
from gpuscan.linux.process import Process
from gpuscan.linux.ranges import Ranges
from gpuscan.linux.syscalls import PageIs
from gpuscan.linux.system import HERE, System
from gpuscan.records.page_flags import NO_PAGE, Kpf, bits
from gpuscan.records.page_map import PageMap

WORD_BYTES = 8
_MASKED_PAGES = 1 << 14
"""Looked at to tell whether the flags are masked: 64 MiB, 2 ms."""
_PFN = np.uint64((1 << 55) - 1)
_SOFT_DIRTY = np.uint64(1 << 55)
_EXCLUSIVE = np.uint64(1 << 56)
_PRESENT = np.uint64(1 << 63)
_STRETCH_PAGES = 1 << 16
_LARGE_RANGE_PAGES = 1 << 16
"""Of ranges larger than 256 MiB PAGEMAP_SCAN says first what is there: the pagemap has 2 GiB of words for
each TiB, also of memory that is reserved only."""
_LARGE_PAGES = 512
"""Folios on LRU lists are at most PMD-sized with 4 KiB pages, and aligned to their size."""
_READ_FACTOR = 8
_GAP_PAGES = 1024
"""PFNs closer together than this are read in one go: 8 KiB cost less than another system call."""
_CALL_WORDS = 128
"""Words of a pagemap that take as long to read as another call for one."""


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


def pages_in(
    process: Process, ranges: Sequence[tuple[int, int]] | NDArray[np.int64], *, n_most: int | None = None
) -> Pages:
    """Return the present pages in address ranges ``[start, end)``, ascending and disjoint.

    Pages that go meanwhile, and all pages of a process that has ended, are left out.

    Args:
        process: whose.
        ranges: which.
        n_most: the first so many pages are enough, and no more words are read than eight for each; None for
            all.

    Raises:
        OSError: the pagemap may not be opened.
    """
    system = process.system
    fd = process.opened("pagemap")
    if fd is None:
        return NO_PAGES
    try:
        if n_most is None:
            parts = [
                _stretch(system, fd, low, high)
                for low, high in _stretches(system, fd, ranges, _STRETCH_PAGES)
            ]
        else:
            parts = _first(system, fd, ranges, n_most)
    finally:
        system.close(fd)
    if not parts:
        return NO_PAGES
    numbers = np.concatenate([number for number, _ in parts])[:n_most]
    words = np.concatenate([word for _, word in parts])[:n_most]
    return Pages(
        numbers << PAGE_SHIFT,
        (words & _PFN).astype(np.int64),
        (words & _EXCLUSIVE) != 0,
        (words & _SOFT_DIRTY) != 0,
    )


def _words(system: System, fd: int, low: int, high: int) -> NDArray[np.uint64]:
    """Return the words of pages ``[low, high)``, fewer where the pagemap ends."""
    try:
        data = system.pread(fd, (high - low) * WORD_BYTES, low * WORD_BYTES)
    except (ProcessLookupError, OSError):
        data = b""
    return np.frombuffer(data, dtype=np.uint64, count=len(data) // WORD_BYTES)


def _stretches(
    system: System, fd: int, ranges: Iterable[Sequence[int]] | NDArray[np.int64], n_pages: int
) -> Iterator[tuple[int, int]]:
    """Cut ranges, and what is there of large ones, into stretches of so many page numbers."""
    for start, end in ((int(start) >> PAGE_SHIFT, int(end) >> PAGE_SHIFT) for start, end in ranges):
        for first, last in (
            [(start, end)] if end - start <= _LARGE_RANGE_PAGES else _there(system, fd, start, end)
        ):
            for low in range(first, last, n_pages):
                yield low, min(low + n_pages, last)


def _there(system: System, fd: int, start: int, end: int) -> list[tuple[int, int]]:
    """Return the parts of a range of page numbers that have pages, as far as the kernel can tell."""
    try:
        found = system.pagemap_scan(fd, start << PAGE_SHIFT, end << PAGE_SHIFT, PageIs.PRESENT) >> PAGE_SHIFT
    except OSError:  # before v6.7
        return [(start, end)]
    if not len(found):
        return []
    breaks = np.flatnonzero(found[1:, 0] - found[:-1, 1] > _GAP_PAGES)
    firsts, lasts = found[np.append(0, breaks + 1), 0], found[np.append(breaks, -1), 1]
    return list(zip(firsts.tolist(), lasts.tolist(), strict=True))


_Part = tuple[NDArray[np.int64], NDArray[np.uint64]]


def _first(
    system: System, fd: int, ranges: Iterable[Sequence[int]] | NDArray[np.int64], n_most: int
) -> list[_Part]:
    parts: list[_Part] = []
    n_found = n_read = 0
    for low, high in _stretches(system, fd, ranges, n_most):
        parts.append(_stretch(system, fd, low, high))
        n_found += len(parts[-1][0])
        n_read += high - low
        if n_found >= n_most or n_read >= _READ_FACTOR * n_most:
            break
    return parts


def present_ranges(pages: Pages) -> Ranges:
    """Return the address ranges that pages lie in, holes of up to 4 MiB among them."""
    if not len(pages):
        return np.empty((0, 2), dtype=np.int64)
    breaks = np.flatnonzero(np.diff(pages.address) > _GAP_PAGES << PAGE_SHIFT)
    firsts, lasts = pages.address[np.append(0, breaks + 1)], pages.address[np.append(breaks, -1)]
    return np.stack([firsts, lasts + (1 << PAGE_SHIFT)], axis=1)


def _stretch(system: System, fd: int, low: int, high: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    words = _words(system, fd, low, high)
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
    system = process.system
    fd = process.opened("pagemap")
    if fd is None:
        return pfns
    try:
        numbers = addresses >> PAGE_SHIFT
        cuts = (np.flatnonzero(np.diff(numbers) > _GAP_PAGES) + 1).tolist()
        for start, end in zip([0, *cuts], [*cuts, len(numbers)], strict=True):
            low = int(numbers[start])
            words = _words(system, fd, low, int(numbers[end - 1]) + 1)
            inside = numbers[start:end] - low
            inside = inside[inside < len(words)]
            found = words[inside]
            pfns[start : start + len(inside)] = np.where(
                (found & _PRESENT) != 0, (found & _PFN).astype(np.int64), -1
            )
    finally:
        system.close(fd)
    return pfns


def words_for(addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int64[n]: what :func:`pfns_at` reads for each of these addresses, in words of a pagemap.

    A call of its own, for what is far from the address before, counts as the words that take as long.
    """
    gaps = np.diff(addresses >> PAGE_SHIFT, prepend=0)
    gaps[:1] = 1
    return np.where((gaps >= 0) & (gaps <= _GAP_PAGES), gaps, _CALL_WORDS)


def resident_by_nid(process: Process, page_map: PageMap, flags: PageFlags) -> dict[int, int]:
    """Return the base pages that a process has mapped, by the node of ``page_map`` that each frame is on.

    What numa_maps says of the kernel's nodes (fs/proc/task_mmu.c, can_gather_numa_stats(): no zero pages), of
    a machine whose nodes the kernel does not know.

    Args:
        process: whose.
        page_map: of the machine.
        flags: /proc/kpageflags.
    """
    ranges = [(one.start, one.end) for one in process.mappings() if not one.is_special]
    flats = page_map.flat_of_pfn(pages_in(process, ranges).pfn)
    flats = flats[flats >= 0]
    flats = flats[(flags.at(page_map.pfn_of_flat(flats)) & _ZERO_PAGE) == 0]
    nids, counts = np.unique(page_map.nid_of_flat(flats), return_counts=True)
    return dict(zip(nids.tolist(), counts.tolist(), strict=True))


def masked(path: Path, what: str = "flag") -> InputError:
    """Return what is said of /proc/kpageflags, or one of those beside it, where it shows nothing."""
    return InputError(
        f"{path} shows no {what} of any page: it is masked, as container runtimes do; run gpuscan on the "
        "host itself"
    )


class FrameWords:
    """An open file with a word for each page frame: /proc/kpageflags, /proc/kpagecount (root).

    Raises:
        OSError: it may not be opened.
    """

    _past_the_end = np.uint64(0)

    def __init__(self, path: Path, system: System = HERE) -> None:
        self._system, self._path = system, path
        self._fd = system.open(path, os.O_RDONLY)

    def at(self, pfns: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return uint64[n]: the words of PFNs, in any order."""
        if not len(pfns):
            return np.empty(0, dtype=np.uint64)
        order = np.argsort(pfns, kind="stable")
        ascending = pfns[order]
        found = np.empty(len(pfns), dtype=np.uint64)
        cuts = np.flatnonzero(np.diff(ascending) > _GAP_PAGES) + 1
        start = 0
        for end in (*cuts.tolist(), len(ascending)):
            run = ascending[start:end]
            words = self._words(int(run[0]), int(run[-1]) + 1)
            found[order[start:end]] = words[run - run[0]]
            start = end
        return found

    def _words(self, low: int, high: int) -> NDArray[np.uint64]:
        data = self._system.pread(self._fd, (high - low) * WORD_BYTES, low * WORD_BYTES)
        words = np.full(high - low, self._past_the_end)
        words[: len(data) // WORD_BYTES] = np.frombuffer(data, dtype=np.uint64, count=len(data) // WORD_BYTES)
        return words

    def close(self) -> None:
        """Close the file."""
        self._system.close(self._fd)


class PageFlags(FrameWords):
    """An open /proc/kpageflags (root); past its end there is ``NO_PAGE``.

    Raises:
        OSError: it may not be opened.
    """

    _past_the_end = NO_PAGE

    def check_shown(self) -> None:
        """Check that the kernel shows its flags here.

        Raises:
            InputError: the file is masked.
        """
        # No kernel has so many frames without a flag: where no page is, a flag says that.
        if not any(self._system.pread(self._fd, _MASKED_PAGES * WORD_BYTES, 0)):
            raise masked(self._path)

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
        # By block, and pages of a block next to each other: to look for each block's pages among all of them
        # takes the square of the time.
        block_of = pfns[compound] // _LARGE_PAGES
        by_block = np.argsort(block_of, kind="stable")
        compound, block_of = compound[by_block], block_of[by_block]
        cuts = (np.flatnonzero(np.diff(block_of)) + 1).tolist()
        for start, end in zip([0, *cuts], [*cuts, len(compound)], strict=True) if len(compound) else ():
            block = int(block_of[start]) * _LARGE_PAGES
            words = self._words(block, block + _LARGE_PAGES)
            first = np.flatnonzero((words & _TAIL) == 0)
            ends = np.append(first[1:], _LARGE_PAGES)
            sizes = ends - first
            mine = compound[start:end]
            inside = pfns[mine] - block
            which = np.searchsorted(first, inside, side="right") - 1
            known = which >= 0
            mine, which = mine[known], which[known]
            size = sizes[which]
            # Not a power of two, or not aligned to it: it was split or freed while this was read.
            whole = (size & (size - 1) == 0) & (first[which] & (size - 1) == 0)
            head_words = words[first[which]]
            whole &= ((head_words & _LRU) != 0) & ((head_words & _UNMOVABLE) == 0) | self._is_hugetlb(
                block, head_words, size
            )
            head[mine] = block + first[which]
            order[mine] = np.log2(np.maximum(size, 1)).astype(np.int64)
            movable[mine] = whole
        return Folios(head, order, movable, flags)

    def _is_hugetlb(
        self, block: int, head_words: NDArray[np.uint64], sizes: NDArray[np.int64]
    ) -> NDArray[np.bool_]:
        """Return bool[n]: which are hugetlb pages of 2 MiB; larger ones are not moved."""
        found: NDArray[np.bool_] = ((head_words & _UNMOVABLE) == _HUGE) & (sizes == _LARGE_PAGES)
        if found.any() and self._is_larger(block):
            found[:] = False
        return found

    def _is_larger(self, block: int) -> bool:
        """Whether a folio that fills a block goes on in the next one: a hugetlb page of more than 2 MiB."""
        after = block + _LARGE_PAGES
        return bool(self._words(after, after + 1)[0] & _TAIL)


@dataclass(frozen=True, slots=True, eq=False)
class Folios:
    """The folios behind pages.

    Attributes:
        head: int64[n], PFN of the folio's first page.
        order: int64[n].
        movable: bool[n], a whole folio on an LRU list, or a hugetlb page of 2 MiB.
        flags: uint64[n], the flags of the page itself.
    """

    head: NDArray[np.int64]
    order: NDArray[np.int64]
    movable: NDArray[np.bool_]
    flags: NDArray[np.uint64]

    @property
    def hugetlb(self) -> NDArray[np.bool_]:
        """bool[n]: which pages are of hugetlbfs, movable or not."""
        found: NDArray[np.bool_] = (self.flags & _HUGE) != 0
        return found

    @property
    def is_zero(self) -> NDArray[np.bool_]:
        """bool[n]: which are zero pages, which all processes map and none has."""
        found: NDArray[np.bool_] = (self.flags & _ZERO_PAGE) != 0
        return found


_LRU = bits(Kpf.LRU)
_TAIL = bits(Kpf.COMPOUND_TAIL)
_COMPOUND = bits(Kpf.COMPOUND_HEAD, Kpf.COMPOUND_TAIL)
_ZERO_PAGE = bits(Kpf.ZERO_PAGE)
_HUGE = bits(Kpf.HUGE)
_UNMOVABLE = bits(Kpf.HUGE, Kpf.SLAB, Kpf.BUDDY, Kpf.HWPOISON, Kpf.NOPAGE, Kpf.OFFLINE, Kpf.ZERO_PAGE)
