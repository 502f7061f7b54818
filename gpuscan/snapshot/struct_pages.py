"""Words of /proc/kpageflags and /proc/kpagecount, from the kernel's own records of pages in memory.

For each page frame the kernel keeps a ``struct page``. What /proc/kpageflags makes of it is
stable_page_flags() in fs/proc/page.c, what /proc/kpagecount does folio_precise_page_mapcount() in
fs/proc/internal.h (both v6.12). Where fields lie and which bit is which differ from kernel to kernel:
:class:`PageLayout` says it. Not made are the flags that nothing here asks for: idle, zero page, KSM, THP,
what file systems and other owners use as they like, and those of architectures.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.records.page_flags import Kpf, bits

_COPIED = {
    "PG_locked": Kpf.LOCKED,
    "PG_referenced": Kpf.REFERENCED,
    "PG_uptodate": Kpf.UPTODATE,
    "PG_dirty": Kpf.DIRTY,
    "PG_lru": Kpf.LRU,
    "PG_active": Kpf.ACTIVE,
    "PG_slab": Kpf.SLAB,
    "PG_writeback": Kpf.WRITEBACK,
    "PG_reclaim": Kpf.RECLAIM,
    "PG_swapbacked": Kpf.SWAPBACKED,
    "PG_unevictable": Kpf.UNEVICTABLE,
    "PG_mlocked": Kpf.MLOCKED,
    "PG_hwpoison": Kpf.HWPOISON,
    "PG_reserved": Kpf.RESERVED,
}
"""Bits of ``page->flags`` that are flags as they are, by their name in ``enum pageflags``."""
_TYPES = {
    "buddy": Kpf.BUDDY,
    "offline": Kpf.OFFLINE,
    "table": Kpf.PGTABLE,
    "slab": Kpf.SLAB,
    "hugetlb": Kpf.HUGE,
}
"""Types of pages that are flags."""
OF_FOLIO = ("slab", "hugetlb")
"""Types that the first page of a folio has for all of it."""
FLAG_NAMES = (*_COPIED, "PG_head", "PG_swapcache")

_ANON = np.uint64(1)
"""Of ``page->mapping`` (PAGE_MAPPING_ANON, include/linux/page-flags.h, v6.12)."""
_MEMCG_OTHER = np.uint64(3)
"""Low bits of ``page->memcg_data`` of what is no page of a process (include/linux/memcontrol.h, v6.12)."""
_TOP_BYTE = 0xFF000000
_BUDDY_ORDER_MAX = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class PageLayout:
    """Where things lie in a ``struct page``.

    Attributes:
        size: bytes of one.
        flags, compound_head, mapping, mapcount, private: offsets of these fields; a page's type is where its
            mapcount is.
        memcg_data: likewise, None in kernels without memory cgroups.
        entire_mapcount: offset of ``_entire_mapcount``, from the first page of a folio; None where it is not
            known.
        bits: numbers of page flags, by their names in ``enum pageflags``; those a kernel lacks are left out.
        types: what the mapcount of a page of a type is, as an unsigned number, by name: ``buddy``.
    """

    size: int
    flags: int
    compound_head: int
    mapping: int
    mapcount: int
    private: int
    memcg_data: int | None
    entire_mapcount: int | None
    bits: Mapping[str, int]
    types: Mapping[str, int]


@dataclass(frozen=True, slots=True, eq=False)
class PageWords:
    """What is said of pages.

    Attributes:
        flags: uint64[n], as a word of /proc/kpageflags.
        mapcounts: uint32[n], as one of /proc/kpagecount.
        memcg: uint64[n], address of the ``struct mem_cgroup`` that a folio is charged to, on its first page;
            0 for none.
    """

    flags: NDArray[np.uint64]
    mapcounts: NDArray[np.uint32]
    memcg: NDArray[np.uint64]


def page_words(raw: bytes, address: int, layout: PageLayout) -> PageWords:
    """Return what is said of the pages in a piece of the array of ``struct page``.

    Args:
        raw: the piece; it begins with the first page of a folio, unless that is larger than a piece may be
            (a gigantic page of hugetlb).
        address: of its first byte in the kernel's memory.
        layout: of a ``struct page``.
    """
    n_pages = len(raw) // layout.size
    table = np.frombuffer(raw, dtype=np.uint8, count=n_pages * layout.size).reshape(n_pages, layout.size)
    compound = _field(table, layout.compound_head, np.uint64)
    is_tail = (compound & np.uint64(1)) != 0
    own = np.arange(n_pages, dtype=np.int64)
    head_address = (compound - np.uint64(1) - np.uint64(address)).astype(np.int64)
    head = np.where(is_tail, head_address // layout.size, own)
    is_known = (head >= 0) & (head <= own)
    head = np.where(is_known, head, own)

    flags = np.zeros(n_pages, dtype=np.uint64)
    said = _field(table, layout.flags, np.uint64)
    of_folio = said[head]
    for name, flag in _COPIED.items():
        if name in layout.bits:
            flags[_bit(of_folio, layout, name)] |= bits(flag)
    swapped = _bit(of_folio, layout, "PG_swapcache") & _bit(of_folio, layout, "PG_swapbacked")
    flags[swapped] |= bits(Kpf.SWAPCACHE)
    is_anon = (_field(table, layout.mapping, np.uint64)[head] & _ANON) != 0
    flags[is_anon] |= bits(Kpf.ANON)
    flags[~is_tail & _bit(said, layout, "PG_head")] |= bits(Kpf.COMPOUND_HEAD)
    flags[is_tail] |= bits(Kpf.COMPOUND_TAIL)
    flags[is_tail & ~is_known] |= bits(Kpf.HUGE)

    mapcount = _field(table, layout.mapcount, np.uint32)
    for name, value in layout.types.items():
        is_one = _is_type(mapcount, value)
        flags[is_one[head] if name in OF_FOLIO else is_one] |= bits(_TYPES[name])
    _spread_buddies(flags, _field(table, layout.private, np.uint64))
    mapcounts = _mapcounts(table, mapcount, head, layout)
    flags[mapcounts > 0] |= bits(Kpf.MMAP)
    memcg = np.zeros(n_pages, dtype=np.uint64)
    if layout.memcg_data is not None:
        charged = _field(table, layout.memcg_data, np.uint64)
        memcg = np.where(is_tail | ((charged & _MEMCG_OTHER) != 0), np.uint64(0), charged)
    return PageWords(flags, mapcounts, memcg)


def _field(table: NDArray[np.uint8], offset: int, dtype: type[np.unsignedinteger[Any]]) -> NDArray[Any]:
    width = np.dtype(dtype).itemsize
    return np.ascontiguousarray(table[:, offset : offset + width]).view(dtype).ravel()


def _bit(words: NDArray[np.uint64], layout: PageLayout, name: str) -> NDArray[np.bool_]:
    number = layout.bits.get(name)
    if number is None:
        return np.zeros(len(words), dtype=np.bool_)
    found: NDArray[np.bool_] = (words & np.uint64(1 << number)) != 0
    return found


def _is_type(mapcount: NDArray[np.uint32], value: int) -> NDArray[np.bool_]:
    """Whether pages are of a type: since v6.12 the highest byte says it, before all of the word."""
    mask = _TOP_BYTE if not value & ~_TOP_BYTE else 0xFFFFFFFF
    found: NDArray[np.bool_] = (mapcount & np.uint32(mask)) == np.uint32(value)
    return found


def _spread_buddies(flags: NDArray[np.uint64], private: NDArray[np.uint64]) -> None:
    """Call all pages of a free block free, whose first page alone has the type; its order is private."""
    first = np.flatnonzero((flags & bits(Kpf.BUDDY)) != 0)
    order = np.minimum(private[first], np.uint64(_BUDDY_ORDER_MAX)).astype(np.int64)
    edges = np.zeros(len(flags) + 1, dtype=np.int64)
    edges[first] += 1
    np.add.at(edges, np.minimum(first + (np.int64(1) << order), len(flags)), -1)
    flags[np.cumsum(edges[:-1]) > 0] |= bits(Kpf.BUDDY)


def _mapcounts(
    table: NDArray[np.uint8], mapcount: NDArray[np.uint32], head: NDArray[np.int64], layout: PageLayout
) -> NDArray[np.uint32]:
    signed = mapcount.view(np.int32).astype(np.int64) + 1
    signed[signed < 0] = 0  # it is a type
    if layout.entire_mapcount is not None:
        page, offset = divmod(layout.entire_mapcount, layout.size)
        entire = _field(table, offset, np.uint32).view(np.int32).astype(np.int64) + 1
        is_large = _bit(_field(table, layout.flags, np.uint64), layout, "PG_head")
        of_folio = np.where(is_large & (np.arange(len(head)) == head), np.pad(entire, (0, page))[page:], 0)
        signed += np.maximum(of_folio[head], 0)
    return np.minimum(signed, np.iinfo(np.uint32).max).astype(np.uint32)
