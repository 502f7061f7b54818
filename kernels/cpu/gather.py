"""What producers do first: find the pages of a batch of PFNs, and bring together those that lie together.

A mark touches three cache lines: record, ready word, eligible word. PFNs in random order
miss the caches on all three; in the order of regions that fit the second-level cache, the two
bitmaps are missed once per region. A batch is ordered by a counting sort over the regions, in
two passes that threads share.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import plain_load, prefetch
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.pages import find_flat

GATHERED_PFNS = 64
"""PFNs whose records and bits are on their way to the cache before the first is worked on."""
INDEX_BITS = 22
"""Of an entry of the order: the position in the batch; the flat page is above."""
N_REGIONS = 512
"""Regions a store is divided into, by which a batch is ordered."""


@kernel
def count_regions(
    machine: Machine,
    pfns: NDArray[np.int64],
    lo: int,
    hi: int,
    region_shift: int,
    flats: NDArray[np.int64],
    counts: NDArray[np.int64],
) -> None:
    """Find the pages of PFNs ``[lo, hi)`` and count them per region.

    Args:
        machine: the extent table.
        pfns: int64[n], a batch.
        lo, hi: what to do of it.
        region_shift: pages of a region, as a power of two.
        flats: int64[n] to fill, -1 for a PFN in a hole.
        counts: int64[N_REGIONS + 1] of zeros; the first is for holes.
    """
    for index in range(lo, hi):
        flat = find_flat(machine, plain_load(pfns, index))
        flats[index] = flat
        counts[(flat >> region_shift) + 1] += 1


@kernel
def order_by_region(
    flats: NDArray[np.int64],
    lo: int,
    hi: int,
    region_shift: int,
    next_of_region: NDArray[np.int64],
    order: NDArray[np.int64],
) -> None:
    """Put pages ``[lo, hi)`` of a batch where their regions are, in the order they were in.

    Args:
        flats, lo, hi, region_shift: as for :data:`count_regions`.
        next_of_region: int64[N_REGIONS + 1], the next free place of each, counted up in place.
        order: int64[n] to fill: flat page and position in the batch.
    """
    for index in range(lo, hi):
        flat = plain_load(flats, index)
        region = (flat >> region_shift) + 1
        place = next_of_region[region]
        next_of_region[region] = place + 1
        order[place] = (flat << INDEX_BITS) | index


@helper
def gather_pfns(
    store: Store,
    machine: Machine,
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    order: NDArray[np.int64],
    begin: int,
    end: int,
    gathered: NDArray[np.int64],
) -> int:
    """Gather the next PFNs of ``[begin, end)`` and start loading what a mark changes.

    Args:
        order: int64[n], or empty for PFNs that are worked on as they come.
        gathered: int64[GATHERED_PFNS, 3] to fill with positions in ``pfns``, flat pages and targets.

    Returns:
        How many.
    """
    n_gathered = min(end - begin, GATHERED_PFNS)
    for slot in range(n_gathered):
        if len(order) > 0:
            entry = plain_load(order, begin + slot)
            gathered[slot, 0] = entry & ((1 << INDEX_BITS) - 1)
            gathered[slot, 1] = entry >> INDEX_BITS
        else:
            gathered[slot, 0] = begin + slot
            gathered[slot, 1] = find_flat(machine, plain_load(pfns, begin + slot))
    # What is not at hand is loaded here: a load waits for the locked instruction before it, so in the
    # marks these would be waited for one by one.
    fields = store.fields
    for slot in range(n_gathered):
        gathered[slot, 2] = nids[gathered[slot, 0]] if fields.nid_max != 0 else fields.fixed_target
        flat = gathered[slot, 1]
        if flat >= 0:
            prefetch(store.records, flat)
            prefetch(store.ready_bits, flat >> 6)
            prefetch(store.eligible_bits, flat >> 6)
    return n_gathered
