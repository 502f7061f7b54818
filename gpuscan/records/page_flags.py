"""What /proc/kpageflags says: from 64 flags per page to folios, eligibility and hotness.

Pure functions on flag arrays in flat order (:mod:`gpuscan.records.page_map`), so a
section's pages stand together and an LRU folio never crosses a multiple of
32,768. They work in slices of 2**20 pages: beyond the arrays they return, their
memory does not grow with the machine.

Evidence, all Linux 6.18: fs/proc/page.c ``stable_page_flags()`` and mm/util.c
``set_ps_flags()`` make the flags; the bit numbers are
include/uapi/linux/kernel-page-flags.h (0 to 26, ABI) and
include/linux/kernel-page-flags.h (32 and up, "subject to change").
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from gpuscan.records.page_map import SECTION_PAGES

MAX_FOLIO_ORDER = 15
"""A section: what a store can hold. LRU folios are at most PMD-sized (9) or a few orders above."""

_SLICE_PAGES = 32 * SECTION_PAGES


class Kpf(IntEnum):
    """Bit numbers of a word of /proc/kpageflags."""

    LOCKED = 0
    ERROR = 1
    REFERENCED = 2
    UPTODATE = 3
    DIRTY = 4
    LRU = 5
    ACTIVE = 6
    SLAB = 7
    WRITEBACK = 8
    RECLAIM = 9
    BUDDY = 10
    """Free. Set on every page of a free block since Linux 4.6 (832fc1de01ae), on its first page only
    before that; never on pages that a per-CPU list holds, which show no flag at all."""
    MMAP = 11
    ANON = 12
    """Only meaningful on LRU pages: it is a bit of ``folio->mapping``, which a slab uses for other things."""
    SWAPCACHE = 13
    SWAPBACKED = 14
    COMPOUND_HEAD = 15
    COMPOUND_TAIL = 16
    HUGE = 17
    """hugetlb."""
    UNEVICTABLE = 18
    HWPOISON = 19
    NOPAGE = 20
    """No ``struct page``, or not online; ZONE_DEVICE pages show this too (``pfn_to_online_page()``)."""
    KSM = 21
    THP = 22
    OFFLINE = 23
    ZERO_PAGE = 24
    IDLE = 25
    PGTABLE = 26
    RESERVED = 32
    MLOCKED = 33
    OWNER_2 = 34
    PRIVATE = 35
    PRIVATE_2 = 36
    OWNER_PRIVATE = 37
    ARCH = 38
    UNCACHED = 39
    SOFTDIRTY = 40
    ARCH_2 = 41
    ARCH_3 = 42


def bits(*flags: Kpf) -> np.uint64:
    """Return the word in which exactly ``flags`` are set."""
    return np.uint64(sum(1 << flag for flag in set(flags)))


NO_PAGE = bits(Kpf.NOPAGE)
"""The word of a PFN without a page."""

# PG_lru alone is what the kernel's isolation tests (folio_isolate_lru), so an
# unevictable folio is eligible: PG_lru is set on it, and mlocked memory migrates.
# The other bits do not go together with PG_lru on a quiet machine; a capture is not quiet.
_LRU = bits(Kpf.LRU)
_NOT_ELIGIBLE = bits(Kpf.COMPOUND_TAIL, Kpf.HUGE, Kpf.SLAB, Kpf.BUDDY, Kpf.HWPOISON, Kpf.NOPAGE, Kpf.OFFLINE)
_HEAD = bits(Kpf.COMPOUND_HEAD)
_TAIL = bits(Kpf.COMPOUND_TAIL)


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """Folios that a migration could take, found in page flags.

    Attributes:
        eligible: bool[n_pages], set on the first page of every folio that is online and on an LRU list.
        hot: bool[n_pages], the eligible ones that were accessed lately (:func:`hot_rule`).
        order: uint8[n_pages], the folio's order on each of its pages; 0 outside eligible folios.
        n_torn: heads on an LRU list without a whole folio behind them (not a power of two of
            pages, or not aligned to it): the folio was split, freed or built while the flags
            were read. They are left out.
    """

    eligible: NDArray[np.bool_]
    hot: NDArray[np.bool_]
    order: NDArray[np.uint8]
    n_torn: int

    @property
    def n_pages_of(self) -> NDArray[np.int64]:
        """int64[n_folios], base pages of each eligible folio, in flat order."""
        return np.int64(1) << self.order[self.eligible].astype(np.int64)


def hot_bits(lru_gen: bool) -> np.uint64:
    """Return the flags of which one makes a page hot."""
    # lru_gen_add_folio() (include/linux/mm_inline.h) clears PG_active: the generation says it, and
    # kpageflags does not show the generation.
    return bits(Kpf.REFERENCED) if lru_gen else bits(Kpf.REFERENCED, Kpf.ACTIVE)


def hot_rule(lru_gen: bool) -> str:
    """Return the rule of :func:`hot_bits` in words, for people to read beside the numbers."""
    if lru_gen:
        return "hot = REFERENCED (the multi-generation LRU is on, where ACTIVE says little)"
    return "hot = REFERENCED or ACTIVE"


def find_frames(flags: NDArray[np.uint64], *, lru_gen: bool) -> Frames:
    """Find the folios on LRU lists.

    Args:
        flags: uint64[n_pages], words of /proc/kpageflags, n_pages a multiple of 32,768.
        lru_gen: whether the multi-generation LRU was on.
    """
    if len(flags) % SECTION_PAGES:
        raise ValueError(f"flags must be whole sections of {SECTION_PAGES} pages, not {len(flags)} pages")
    eligible = np.zeros(len(flags), dtype=np.bool_)
    hot = np.zeros(len(flags), dtype=np.bool_)
    order = np.zeros(len(flags), dtype=np.uint8)
    n_torn = 0
    for part in page_slices(len(flags)):
        words = flags[part]
        mine = (words & (_LRU | _NOT_ELIGIBLE)) == _LRU
        heads = np.flatnonzero(mine & ((words & _HEAD) != 0))
        if len(heads):
            heads_order, whole = _orders(words, heads)
            mine[heads[~whole]] = False
            n_torn += int(np.count_nonzero(~whole))
            _spread_orders(order[part], heads[whole], heads_order[whole])
        eligible[part] = mine
        hot[part] = mine & ((words & hot_bits(lru_gen)) != 0)
    return Frames(eligible, hot, order, n_torn)


def _orders(
    words: NDArray[np.uint64], heads: NDArray[np.intp]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Return the order of the folio behind each head, and whether it is a whole one."""
    not_tail = np.flatnonzero((words & _TAIL) == 0)
    after = np.searchsorted(not_tail, heads, side="right")
    ends = np.append(not_tail, len(words))[after]
    sizes = ends - heads
    # Exact: sizes stay far below 2**53.
    order = np.log2(sizes).astype(np.uint8)
    whole = (sizes > 1) & (sizes & (sizes - 1) == 0) & (heads & (sizes - 1) == 0) & (order <= MAX_FOLIO_ORDER)
    return order, whole


def _spread_orders(order: NDArray[np.uint8], heads: NDArray[np.intp], heads_order: NDArray[np.uint8]) -> None:
    for value in np.unique(heads_order).tolist():
        pages = heads[heads_order == value, None] + np.arange(1 << value)
        order[pages.ravel()] = value


PAGE_KINDS = (
    "lru", "anon", "shmem", "file", "dirty", "large", "hot", "unevictable",
    "free", "slab", "page_table", "reserved", "no_page", "unflagged",
)  # fmt: skip
"""What :func:`count_pages` counts. The first eight are pages of eligible folios: ``lru`` is ``anon``,
``shmem`` and ``file`` together, the others are subsets of it. ``unflagged`` pages show nothing: kernel
memory, pages in per-CPU free lists, or memory that is present but not in use."""


def count_pages(flags: NDArray[np.uint64], frames: Frames) -> dict[str, NDArray[np.int64]]:
    """Return int64[n_sections] for each of ``PAGE_KINDS``: base pages per section."""
    n_sections = len(flags) // SECTION_PAGES
    counts = {kind: np.zeros(n_sections, dtype=np.int64) for kind in PAGE_KINDS}
    for part in page_slices(len(flags)):
        words = flags[part]
        n_pages = np.where(frames.eligible[part], np.int64(1) << frames.order[part].astype(np.int64), 0)
        anon = _any(words, Kpf.ANON)
        swap_backed = _any(words, Kpf.SWAPBACKED)
        sections = slice(part.start // SECTION_PAGES, part.stop // SECTION_PAGES)
        for kind, folios in {
            "lru": np.True_,
            "anon": anon,
            "shmem": swap_backed & ~anon,
            "file": ~swap_backed & ~anon,
            "dirty": _any(words, Kpf.DIRTY),
            "large": frames.order[part] > 0,
            "hot": frames.hot[part],
            "unevictable": _any(words, Kpf.UNEVICTABLE),
        }.items():
            counts[kind][sections] = _per_section(n_pages * folios)
        for kind, pages in {
            "free": _any(words, Kpf.BUDDY),
            "slab": _any(words, Kpf.SLAB),
            "page_table": _any(words, Kpf.PGTABLE),
            "reserved": _any(words, Kpf.RESERVED),
            "no_page": _any(words, Kpf.NOPAGE),
            "unflagged": words == 0,
        }.items():
            counts[kind][sections] = _per_section(pages)
    return counts


def _any(words: NDArray[np.uint64], flag: Kpf) -> NDArray[np.bool_]:
    found: NDArray[np.bool_] = (words & bits(flag)) != 0
    return found


def _per_section(pages: NDArray[np.int64] | NDArray[np.bool_]) -> NDArray[np.int64]:
    counts: NDArray[np.int64] = pages.reshape(-1, SECTION_PAGES).sum(axis=1, dtype=np.int64)
    return counts


def page_slices(n_pages: int) -> Iterator[slice]:
    """Cut flat pages into slices of whole sections that are worked on at once."""
    for start in range(0, n_pages, _SLICE_PAGES):
        yield slice(start, min(start + _SLICE_PAGES, n_pages))
