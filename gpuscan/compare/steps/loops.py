"""The steps that designs are made of, compiled: what a walk does per page, and what a producer does per mark.

They do to memory what the kernel's code does (which lines are read, which words are changed by a
locked instruction), not more: no ``pfn_valid()``, no section look-up, no reference counts. So what is
measured with them is a lower bound of what the kernel would take.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import (
    atomic_and,
    atomic_compare_exchange,
    atomic_exchange,
    atomic_load,
    atomic_or,
)
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.kernels.cpu.gather import TARGET_BITS, entry_of, slot_word
from gpuscan.kernels.cpu.pages import folio_pages, publish
from gpuscan.kernels.cpu.request import request_one
from gpuscan.kernels.outcomes import Outcome

_ACCEPTED = int(Outcome.ACCEPTED)
PAGE_WORDS = 8
"""64 bytes of struct page."""
LRU = 1 << 5
NODE_SHIFT = 54
"""Of ``page->flags``; all pages here are of node 0."""
READY = 1 << 2
NID_SHIFT, NID_MASK = 3, 1023
RECORD_READY = 1 << 7
_FREQ = 3


@kernel
def walk_locked(pages: NDArray[np.int64], exts: NDArray[np.int64], found: NDArray[np.int64]) -> int:
    """RFC v1: test and clear READY of every page on an LRU list, locked, then take its nid."""
    n_found = 0
    for pfn in range(len(pages)):
        head = pages[pfn, 1]
        folio = head - 1 if head & 1 else pfn
        if pages[folio, 0] & LRU == 0:
            continue
        if atomic_and(exts, pfn, ~READY) & READY == 0:
            continue
        word = atomic_or(exts, pfn, NID_MASK << NID_SHIFT)
        found[n_found] = pfn << 10 | word >> NID_SHIFT & NID_MASK
        n_found += 1
    return n_found


@kernel
def walk_records(pages: NDArray[np.int64], records: NDArray[np.uint8], found: NDArray[np.int64]) -> int:
    """pghot in a hot section: struct page, then a record of one byte; only one that is READY is exchanged."""
    n_found = 0
    for pfn in range(len(pages)):
        head = pages[pfn, 1]
        folio = head - 1 if head & 1 else pfn
        if pages[folio, 0] & LRU == 0:
            continue
        if records[folio] & RECORD_READY == 0:
            continue
        if atomic_exchange(records, folio, 0) & RECORD_READY:
            found[n_found] = pfn
            n_found += 1
    return n_found


@kernel
def drain_list(entries: NDArray[np.int64], pages: NDArray[np.int64], found: NDArray[np.int64]) -> int:
    """A list of candidates: read an entry, then the struct page it names, wherever that is."""
    n_found = 0
    for index in range(len(entries)):
        pfn = entries[index, 0]
        head = pages[pfn, 1]
        folio = head - 1 if head & 1 else pfn
        if pages[folio, 0] & LRU:
            found[n_found] = pfn << 10 | entries[index, 1]
            n_found += 1
    return n_found


@kernel
def check_sections(hot: NDArray[np.int64]) -> int:
    """Look at the hot bit of every section: a word in each ``struct mem_section``, 2 words here."""
    n_hot = 0
    for section in range(len(hot) // 2):
        n_hot += hot[2 * section] & 1
    return n_hot


@kernel
def mark_two_atomics(
    pfns: NDArray[np.int64],
    pages: NDArray[np.int64],
    exts: NDArray[np.int64],
    flags: NDArray[np.int64],
    zone_word: int,
) -> None:
    """kmigrated_add_pfn(): exchange the nid in a loop, set READY, set the bit of the page's node, which
    ``page->flags`` says; with ``zone_word`` above 0 a zone's too."""
    for pfn in pfns:
        old = exts[pfn]
        while True:
            word = old & ~(NID_MASK << NID_SHIFT) | 1 << NID_SHIFT
            seen = atomic_compare_exchange(exts, pfn, old, word)
            if seen == old:
                break
            old = seen
        atomic_or(exts, pfn, READY)
        node = pages[pfn, 0] >> NODE_SHIFT
        if zone_word > 0:
            atomic_or(flags, zone_word + node, 1)
        atomic_or(flags, node, 1)


@kernel
def mark_head(
    pfns: NDArray[np.int64], pages: NDArray[np.int64], exts: NDArray[np.int64], flags: NDArray[np.int64]
) -> None:
    """The same on the folio's record: its head and the LRU bit are read first."""
    for pfn in pfns:
        head = pages[pfn, 1]
        folio = head - 1 if head & 1 else pfn
        if pages[folio, 0] & LRU == 0:
            continue
        old = exts[folio]
        while True:
            word = old & ~(NID_MASK << NID_SHIFT) | 1 << NID_SHIFT
            seen = atomic_compare_exchange(exts, folio, old, word)
            if seen == old:
                break
            old = seen
        atomic_or(exts, folio, READY)
        atomic_or(flags, pages[folio, 0] >> NODE_SHIFT, 1)


@kernel
def mark_record(
    pfns: NDArray[np.int64],
    pages: NDArray[np.int64],
    records: NDArray[np.uint8],
    hot: NDArray[np.int64],
    flags: NDArray[np.int64],
) -> None:
    """pghot_record_access(): struct page, one exchange of the record, and for a READY one the bits of
    section and node. The second access makes a page READY, as the default threshold does."""
    for pfn in pfns:
        if pages[pfn, 0] & LRU == 0:
            continue
        old = np.int64(records[pfn])
        while True:
            freq = (old & _FREQ) + (1 if old & _FREQ < _FREQ else 0)
            word = freq | (RECORD_READY if freq >= 2 else 0)
            seen = atomic_compare_exchange(records, pfn, old, word)
            if seen == old:
                break
            old = seen
        if word & RECORD_READY:
            atomic_or(hot, 2 * (pfn >> 15), 1)
            atomic_or(flags, pages[pfn, 0] >> NODE_SHIFT, 1)


@kernel
def append(
    pfns: NDArray[np.int64], pages: NDArray[np.int64], entries: NDArray[np.int64], flags: NDArray[np.int64]
) -> None:
    """A list per CPU: read where the page is, append (PFN, nid) to one's own list, set the node's bit where
    it is clear."""
    at = 0
    for pfn in pfns:
        word = pages[pfn, 0]
        if word & LRU == 0:
            continue
        entries[at, 0] = pfn
        entries[at, 1] = 1
        at = (at + 1) % len(entries)
        node = word >> NODE_SHIFT
        if atomic_load(flags, node) & 1 == 0:
            atomic_or(flags, node, 1)


@kernel
def mark_single(
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    store: Store,
    machine: Machine,
    counts: NDArray[np.int64],
) -> None:
    """Our own request, page after page as they come: the page of a PFN is found and its record changed before
    the next one is looked at, nothing is sorted and nothing loaded ahead. Counts outcomes."""
    for index in range(len(pfns)):
        pfn = pfns[index]
        page = entry_of(store, machine, slot_word(machine, pfn), pfn, nids[index], 0, 0)
        flat = page >> TARGET_BITS
        head = flat & -folio_pages(store, flat) if flat >= 0 else flat
        outcome = request_one(store, head, flat, page & ((1 << TARGET_BITS) - 1))
        if outcome == _ACCEPTED:
            publish(store, head >> 6, 1 << (head & 63))
        counts[outcome] += 1


def struct_pages(n_pages: int) -> NDArray[Any]:
    """Return int64[n, 8]: pages on an LRU list, every one a folio of its own, written."""
    pages = np.zeros((n_pages, PAGE_WORDS), dtype=np.int64)
    pages[:, 0] = LRU
    return pages


def written(n: int, dtype: Any = np.int64) -> NDArray[Any]:
    """Return zeros that were written once: memory nobody wrote is all one page of zeros."""
    words = np.ones(n, dtype=dtype)
    words[:] = 0
    return words
