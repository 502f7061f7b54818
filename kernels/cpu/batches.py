"""The driver of ``request`` and ``record``: PFNs in batches, by region, cut into parts for threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import StoreLayout
from gpuscan.kernels.cpu.arguments import Machine
from gpuscan.kernels.cpu.gather import INDEX_BITS, N_REGIONS, count_regions, order_by_region
from gpuscan.kernels.cpu.workers import Workers
from gpuscan.pagemap import SECTION_PAGES, WORD_PAGES

PARALLEL_FROM_ITEMS = 1 << 15
"""Items of a ``request``, ``record`` or ``release`` call from which they are split over threads."""
_PAGES_PER_ITEM = 128
"""A batch has at most an item for so many pages: what ordering takes, 16 bytes an item, stays below
4 % of 4-byte records."""
_PARTS_PER_THREAD = 4

_NO_ORDER = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Batch:
    """PFNs that are worked on together.

    Attributes:
        span: which of the call's.
        order: int64[n], see :data:`order_by_region`; empty for PFNs that are worked on as they come.
        parts: begin and end of what one thread does. A folio, and all pages that share an index
            word, are in one part, in the order of the call: so the result does not depend on
            the number of threads.
    """

    span: slice
    order: NDArray[np.int64]
    parts: list[tuple[int, int]]


def batches_of(
    pfns: NDArray[np.int64], machine: Machine, layout: StoreLayout, workers: Workers
) -> Iterator[Batch]:
    """Cut the PFNs of a call, int64[n], into batches. Each is to be done with before the next is taken."""
    if len(pfns) < PARALLEL_FROM_ITEMS:
        if not len(pfns):  # how callers have everything loaded, or compiled, before it matters
            _order(pfns, machine, layout, workers, _NO_ORDER, _NO_ORDER)
        yield Batch(slice(None), _NO_ORDER, [(0, len(pfns))])
        return
    batch_items = min(max(layout.n_pages // _PAGES_PER_ITEM, PARALLEL_FROM_ITEMS), 1 << INDEX_BITS)
    room = min(batch_items, len(pfns))
    flats, order = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
    for begin in range(0, len(pfns), batch_items):
        span = slice(begin, min(begin + batch_items, len(pfns)))
        n_items = span.stop - begin
        parts = _order(pfns[span], machine, layout, workers, flats, order)
        yield Batch(span, order[:n_items], parts)


def _order(
    pfns: NDArray[np.int64],
    machine: Machine,
    layout: StoreLayout,
    workers: Workers,
    flats: NDArray[np.int64],
    order: NDArray[np.int64],
) -> list[tuple[int, int]]:
    """Fill ``order`` and return the parts."""
    bits, n_items, n_shares = layout.fmt.bits, len(pfns), workers.n_threads
    least = SECTION_PAGES if layout.has_large_folios else WORD_PAGES  # what marks one record is in one part
    shift = max(-(-layout.n_pages // N_REGIONS) - 1, least - 1).bit_length()
    edges = [n_items * share // n_shares for share in range(n_shares + 1)]
    counts = np.zeros((n_shares, N_REGIONS + 1), dtype=np.int64)

    def count(share: int) -> None:
        count_regions.for_bits(bits)(
            machine, pfns, edges[share], edges[share + 1], shift, flats, counts[share]
        )

    workers.run(n_shares, count)
    ends = np.cumsum(counts.T.ravel()).reshape(N_REGIONS + 1, n_shares).T
    places = np.ascontiguousarray(ends - counts)

    def put(share: int) -> None:
        order_by_region.for_bits(bits)(flats, edges[share], edges[share + 1], shift, places[share], order)

    workers.run(n_shares, put)
    n_parts = n_shares * _PARTS_PER_THREAD
    wanted = n_items * np.arange(1, n_parts + 1) // n_parts
    cuts = [0, *np.unique(ends[-1][np.searchsorted(ends[-1], wanted)]).tolist()]
    return [(lo, hi) for lo, hi in pairwise(cuts) if lo < hi]
