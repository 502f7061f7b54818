"""What producers do first: find the pages of a batch of PFNs, and bring together those that lie together.

A mark touches three cache lines: record, ready word, eligible word. PFNs in random order
miss the caches on all three; in the order of regions that fit the second-level cache, the two
bitmaps are missed once per region. A batch is ordered by a counting sort over the regions, in
two passes that threads share. Just before they are marked, some thousand entries at a time are ordered by
bucket as well, so that the bitmaps stay in the first-level cache; more regions at once would take longer
to order than that saves.

An entry of the order is one int64 with all that a mark needs: flat page, target, and position in the
batch. What was left in the caller's arrays would be read there at random, and every such load waits
for the locked instruction before it and is waited for by the next.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import N_BUCKETS, N_REGIONS, OFFSET_SHIFT, SLOT_IS_SEARCHED, Machine, Store
from gpuscan.kernels.cpu.atomics import plain_load, plain_store, prefetch
from gpuscan.kernels.cpu.compile import helper, kernel, shared_step
from gpuscan.kernels.cpu.pages import find_flat
from gpuscan.kernels.layout import NODE_HAS_MEMORY
from gpuscan.records.formats import N_NODES_MAX

AHEAD_ITEMS = 64
"""How many items before its mark what a mark changes begins to be loaded; a power of two."""
_REFINED_ITEMS = 8_192
"""Entries that are ordered by bucket together: 128 KiB with their copies, of the second-level cache."""
SCRATCH_ITEMS = N_BUCKETS + _REFINED_ITEMS
"""What that takes."""
TARGET_BITS = N_NODES_MAX.bit_length() - 1
"""Of an entry, above the position; the flat page is above both."""
INDEX_BITS_MAX = 22
"""Of an entry: the position in a batch."""
_LENGTH_MAX = (1 << 62) - 1
"""What is masked with it is not negative, as LLVM can see: one comparison has both ends of a range."""
UNKNOWN_PFN, UNKNOWN_TARGET = -1, -2
"""In place of a flat page: a PFN in a hole, or a target that is no node with memory, which comes first."""


class Items(NamedTuple):
    """What a part of a producer's call is to mark.

    Attributes:
        pfns, nids: int64[n] and int32[n], a batch.
        order: its entries, or scratch for :data:`AHEAD_ITEMS` of them where they are not ordered.
        scratch: int64[SCRATCH_ITEMS], where they are ordered by bucket.
        index_bits: of an entry, for the position in the batch.
        begin, end: what to do of ``order``, or of ``pfns``.
    """

    pfns: NDArray[np.int64]
    nids: NDArray[np.int32]
    order: NDArray[np.int64]
    scratch: NDArray[np.int64]
    index_bits: int
    begin: int
    end: int


def index_bits_of(n_pages: int) -> int:
    """Return how many bits of an entry are left for the position in a batch."""
    return min(INDEX_BITS_MAX, 63 - TARGET_BITS - (n_pages - 1).bit_length())


@helper
def slot_word(machine: Machine, pfn: int) -> int:
    """Return the word of the slot of a PFN. Pages of one section have one word."""
    slot = (pfn >> machine.slot_shift) - machine.first_slot
    if slot < 0 or slot >= len(machine.slot_words) & _LENGTH_MAX:
        return SLOT_IS_SEARCHED
    word: int = plain_load(machine.slot_words, slot)
    return word


@helper
def region_of(machine: Machine, pfn: int) -> int:
    """Return the region of a PFN."""
    return slot_word(machine, pfn) & (N_REGIONS - 1)


@shared_step
def _searched_flat(machine: Machine, pfn: int) -> int:
    """Return what :func:`find_flat` does: rare, and out of the way of what is not."""
    return find_flat(machine, pfn)


@helper
def entry_of(
    store: Store, machine: Machine, word: int, pfn: int, nid: int, index: int, index_bits: int
) -> int:
    """Return the entry of a PFN: its flat page, its target, and where it stands in the batch."""
    fields = store.fields
    target = nid if fields.nid_max != 0 else fields.fixed_target
    page = UNKNOWN_TARGET << TARGET_BITS
    if 0 <= target < N_NODES_MAX and plain_load(machine.node_flags, target) & NODE_HAS_MEMORY != 0:
        if word & SLOT_IS_SEARCHED == 0:
            flat = pfn + plain_load(machine.offsets, word >> OFFSET_SHIFT)
        else:
            flat = _searched_flat(machine, pfn)
        page = (flat << TARGET_BITS) | target
    return (page << index_bits) | index


@kernel
def count_regions(
    machine: Machine, pfns: NDArray[np.int64], lo: int, hi: int, counts: NDArray[np.int64]
) -> bool:
    """Count PFNs ``[lo, hi)``, of which there are some, per region.

    Args:
        machine: the extent table.
        pfns: int64[n], a batch.
        lo: first of what to do of it.
        hi: end of that.
        counts: int64[N_REGIONS] of zeros.

    Returns:
        Whether none is in a lower region than the one before it.
    """
    region = region_of(machine, plain_load(pfns, lo))
    begin, index = lo, lo + 1
    following = region
    while index < hi and following >= region:
        following = region_of(machine, plain_load(pfns, index))
        if following > region:
            plain_store(counts, region, plain_load(counts, region) + index - begin)
            region = following
            begin = index
        index += 1
    is_ascending = following >= region
    end = index if is_ascending else index - 1
    plain_store(counts, region, plain_load(counts, region) + end - begin)
    # One by one from here on: to look for runs takes half as long again where there are none.
    for unordered in range(end, hi):
        region = region_of(machine, plain_load(pfns, unordered))
        plain_store(counts, region, plain_load(counts, region) + 1)
    return is_ascending


@kernel
def order_by_region(
    store: Store,
    machine: Machine,
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    lo: int,
    hi: int,
    index_bits: int,
    next_of_region: NDArray[np.int64],
    order: NDArray[np.int64],
) -> None:
    """Put entries of PFNs ``[lo, hi)`` where their regions are, in the order they were in.

    Args:
        store, machine: the format and the extent table.
        pfns, nids: int64[n] and int32[n], a batch.
        lo, hi: what to do of it.
        index_bits: of an entry, for the position in the batch.
        next_of_region: int64[N_REGIONS], the next free place of each, counted up in place.
        order: int64[n] to fill with entries.
    """
    for index in range(lo, hi):
        pfn = plain_load(pfns, index)
        word = slot_word(machine, pfn)
        region = word & (N_REGIONS - 1)
        place = plain_load(next_of_region, region)
        plain_store(next_of_region, region, place + 1)
        entry = entry_of(store, machine, word, pfn, plain_load(nids, index), index, index_bits)
        plain_store(order, place, entry)


@shared_step
def refined(
    order: NDArray[np.int64],
    begin: int,
    end: int,
    shift: int,
    scratch: NDArray[np.int64],
) -> int:
    """Order the next entries by bucket, those of a bucket as they were; return the first that is not.

    Args:
        order: int64[n], entries by region.
        begin: the first that is not ordered by bucket yet.
        end: the one after the last.
        shift: of an entry, to its bucket; -1 where there are none.
        scratch: int64[SCRATCH_ITEMS], counts and copies.
    """
    if shift < 0:
        return end
    end = min(end, begin + _REFINED_ITEMS)
    for bucket in range(N_BUCKETS):
        plain_store(scratch, bucket, 0)
    for item in range(begin, end):
        bucket = (plain_load(order, item) >> shift) & (N_BUCKETS - 1)
        plain_store(scratch, bucket, plain_load(scratch, bucket) + 1)
    place = N_BUCKETS
    for bucket in range(N_BUCKETS):
        n_items = plain_load(scratch, bucket)
        plain_store(scratch, bucket, place)
        place += n_items
    for item in range(begin, end):
        entry = plain_load(order, item)
        bucket = (entry >> shift) & (N_BUCKETS - 1)
        place = plain_load(scratch, bucket)
        plain_store(scratch, bucket, place + 1)
        plain_store(scratch, place, entry)
    for item in range(end - begin):
        plain_store(order, begin + item, plain_load(scratch, N_BUCKETS + item))
    return end


@helper
def load_ahead(
    store: Store, machine: Machine, items: Items, is_ordered: bool, item: int, n_refined: int
) -> int:
    """Start loading what the mark of an item changes; unless it is ordered, find its page, too.

    One for each that is marked: in rounds of loading and marking the memory had nothing to do during the
    marks, which cost a quarter of the rate (random PFNs, Zen 4).

    Returns:
        The first item that is not ordered by bucket yet, which ``n_refined`` was.
    """
    order, index_bits = items.order, items.index_bits
    if is_ordered:
        if item == n_refined:
            shift = machine.bucket_shift
            shift = shift if shift < 0 else shift + index_bits + TARGET_BITS
            n_refined = refined(order, item, items.end, shift, items.scratch)
        entry = plain_load(order, item)
    else:
        pfn = plain_load(items.pfns, item)
        word = slot_word(machine, pfn)
        entry = entry_of(store, machine, word, pfn, plain_load(items.nids, item), item, index_bits)
        plain_store(order, item & (AHEAD_ITEMS - 1), entry)
    flat = max(0, entry >> (index_bits + TARGET_BITS))
    prefetch(store.records, flat)
    prefetch(store.ready_bits, flat >> 6)
    prefetch(store.eligible_bits, flat >> 6)
    return n_refined


@helper
def entry_at(order: NDArray[np.int64], is_ordered: bool, item: int) -> int:
    """Return the entry of an item that was loaded ahead and is marked now."""
    entry: int = plain_load(order, item if is_ordered else item & (AHEAD_ITEMS - 1))
    return entry
