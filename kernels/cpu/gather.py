"""What producers do first: find the pages of a batch of PFNs, and bring together those that lie together.

A mark touches three cache lines: record, ready word, eligible word. PFNs in random order
miss the caches on all three; in the order of regions that fit the second-level cache, the two
bitmaps are missed once per region. A batch is ordered by a counting sort over the regions, in
two passes that threads share.

An entry of the order is one int64 with all that a mark needs: flat page, target, and position in the
batch. What was left in the caller's arrays would be read there at random, and every such load waits
for the locked instruction before it and is waited for by the next.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import plain_load, prefetch
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.pages import find_flat
from gpuscan.kernels.layout import NODE_HAS_MEMORY
from gpuscan.records.formats import N_NODES_MAX

AHEAD_ITEMS = 64
"""How many items before its mark what a mark changes begins to be loaded."""
TARGET_BITS = N_NODES_MAX.bit_length() - 1
"""Of an entry, above the position; the flat page is above both."""
INDEX_BITS_MAX = 22
"""Of an entry: the position in a batch."""
N_REGIONS = 512
"""Regions a store is divided into, by which a batch is ordered."""
UNKNOWN_PFN, UNKNOWN_TARGET = -1, -2
"""In place of a flat page: a PFN in a hole, or a target that is no node with memory, which comes first."""


def index_bits_of(n_pages: int) -> int:
    """Return how many bits of an entry are left for the position in a batch."""
    return min(INDEX_BITS_MAX, 63 - TARGET_BITS - (n_pages - 1).bit_length())


@helper
def find_page(store: Store, machine: Machine, pfn: int, nid: int) -> int:
    """Return flat page and target of a PFN, the page above TARGET_BITS."""
    fields = store.fields
    target = nid if fields.nid_max != 0 else fields.fixed_target
    if target < 0 or target >= N_NODES_MAX or machine.node_flags[target] & NODE_HAS_MEMORY == 0:
        return UNKNOWN_TARGET << TARGET_BITS
    return (find_flat(machine, pfn) << TARGET_BITS) | target


@kernel
def count_regions(
    store: Store,
    machine: Machine,
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    lo: int,
    hi: int,
    region_shift: int,
    found: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Find the pages of PFNs ``[lo, hi)`` and count them per region.

    Args:
        store, machine: the format and the extent table.
        pfns, nids: int64[n] and int32[n], a batch.
        lo, hi: what to do of it.
        region_shift: pages of a region, as a power of two.
        found: int64[n] to fill, see :func:`find_page`.
        counts: int64[N_REGIONS + 1] of zeros; the first is for what cannot be marked.
    """
    for index in range(lo, hi):
        page = find_page(store, machine, plain_load(pfns, index), plain_load(nids, index))
        found[index] = page
        counts[(page >> (TARGET_BITS + region_shift)) + 1] += 1


@kernel
def order_by_region(
    found: NDArray[np.int64],
    lo: int,
    hi: int,
    region_shift: int,
    index_bits: int,
    next_of_region: NDArray[np.int64],
    order: NDArray[np.int64],
) -> None:
    """Put pages ``[lo, hi)`` of a batch where their regions are, in the order they were in.

    Args:
        found, lo, hi, region_shift: as for :data:`count_regions`.
        index_bits: of an entry, for the position in the batch.
        next_of_region: int64[N_REGIONS + 1], the next free place of each, counted up in place.
        order: int64[n] to fill with entries: page and target as found, and position in the batch.
    """
    for index in range(lo, hi):
        page = plain_load(found, index)
        region = (page >> (TARGET_BITS + region_shift)) + 1
        place = next_of_region[region]
        next_of_region[region] = place + 1
        order[place] = (page << index_bits) | index


@helper
def find_pages(
    store: Store,
    machine: Machine,
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    index_bits: int,
    order: NDArray[np.int64],
) -> None:
    """Fill ``order`` with the entries of PFNs that are worked on as they come."""
    for index in range(len(pfns)):
        page = find_page(store, machine, plain_load(pfns, index), plain_load(nids, index))
        order[index] = (page << index_bits) | index


@helper
def load_ahead(store: Store, entry: int, index_bits: int) -> None:
    """Start loading what the mark of an item changes.

    One for each that is marked: in rounds of loading and marking the memory had nothing to do during the
    marks, which cost a quarter of the rate (random PFNs, Zen 4).
    """
    flat = max(0, entry >> (index_bits + TARGET_BITS))
    prefetch(store.records, flat)
    prefetch(store.ready_bits, flat >> 6)
    prefetch(store.eligible_bits, flat >> 6)
