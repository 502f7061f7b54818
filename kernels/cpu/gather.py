"""What producers do first: find the pages of a batch of PFNs and start loading what they will change."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import plain_load, prefetch
from gpuscan.kernels.cpu.compile import helper
from gpuscan.kernels.cpu.pages import find_flat

GATHERED_PFNS = 64
"""PFNs whose records and bits are on their way to the cache before the first is worked on."""


@helper
def gather_pfns(
    store: Store,
    machine: Machine,
    pfns: NDArray[np.int64],
    begin: int,
    part: int,
    n_parts: int,
    gathered: NDArray[np.int64],
) -> tuple[int, int]:
    """Gather PFNs from ``begin`` on whose section number is ``part`` modulo ``n_parts``, a power of two.

    Requests for one page, and for pages that share index words, are in one part, in
    order: the result does not depend on the number of threads.

    Args:
        gathered: int64[GATHERED_PFNS + 1, 2] to fill with positions in ``pfns`` and flat pages.

    Returns:
        Where the next batch begins, and how many are in this one.
    """
    n_gathered = 0
    index = begin
    while index < len(pfns) and n_gathered < GATHERED_PFNS:
        pfn = plain_load(pfns, index)
        gathered[n_gathered, 0] = index
        n_gathered += 1 if (pfn >> 15) & (n_parts - 1) == part else 0
        index += 1
    for slot in range(n_gathered):
        flat = find_flat(machine, plain_load(pfns, gathered[slot, 0]))
        gathered[slot, 1] = flat
        if flat >= 0:
            prefetch(store.records, flat)
            prefetch(store.ready_bits, flat >> 6)
            prefetch(store.eligible_bits, flat >> 6)
    return index, n_gathered
