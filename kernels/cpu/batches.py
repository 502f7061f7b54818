"""The driver of ``request`` and ``record``: PFNs in batches, by region, cut into parts for threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.gather import N_REGIONS, count_regions, index_bits_of, order_by_region
from gpuscan.kernels.cpu.workers import Workers
from gpuscan.kernels.layout import StoreLayout
from gpuscan.records.page_map import SECTION_PAGES, WORD_PAGES

PARALLEL_FROM_ITEMS = 1 << 15
"""Items of a ``request``, ``record`` or ``release`` call from which they are split over threads."""
_PAGES_PER_ITEM = 128
"""A batch has at most an item for so many pages: what ordering takes, 16 bytes an item, stays below
4 % of 4-byte records, or 8 MiB in a small store."""
_BATCH_ITEMS_MIN = 1 << 19
"""A million random PFNs in a 64 GiB store, one thread: 19.7 ms, in batches of 2^17 21.8 (Zen 4)."""
_PARTS_PER_THREAD = 4


@dataclass(frozen=True, slots=True)
class Batch:
    """PFNs that are worked on together.

    Attributes:
        span: which of the call's.
        order: int64[n], see :data:`order_by_region`.
        is_ordered: False where the kernel is to fill ``order`` itself: few PFNs, as they come.
        index_bits: of an entry of ``order``, for the position in the batch.
        parts: begin and end of what one thread does. A folio, and all pages that share an index
            word, are in one part, in the order of the call: so the result does not depend on
            the number of threads.
    """

    span: slice
    order: NDArray[np.int64]
    is_ordered: bool
    index_bits: int
    parts: list[tuple[int, int]]


def batches_of(
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    store: Store,
    machine: Machine,
    layout: StoreLayout,
    workers: Workers,
) -> Iterator[Batch]:
    """Cut a call, int64[n] PFNs and int32[n] nids, into batches. Each is to be done with before the next."""
    index_bits = index_bits_of(layout.n_pages)
    if len(pfns) < min(PARALLEL_FROM_ITEMS, 1 << index_bits):
        order = np.empty(len(pfns), dtype=np.int64)
        if not len(pfns):  # how callers have everything loaded, or compiled, before it matters
            _order(pfns, nids, store, machine, layout, workers, order, order)
        yield Batch(slice(None), order, False, index_bits, [(0, len(pfns))])
        return
    batch_items = min(max(layout.n_pages // _PAGES_PER_ITEM, _BATCH_ITEMS_MIN), 1 << index_bits)
    room = min(batch_items, len(pfns))
    found, order = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
    for begin in range(0, len(pfns), batch_items):
        span = slice(begin, min(begin + batch_items, len(pfns)))
        n_items = span.stop - begin
        parts = _order(pfns[span], nids[span], store, machine, layout, workers, found, order)
        yield Batch(span, order[:n_items], True, index_bits, parts)


def _order(
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    store: Store,
    machine: Machine,
    layout: StoreLayout,
    workers: Workers,
    found: NDArray[np.int64],
    order: NDArray[np.int64],
) -> list[tuple[int, int]]:
    """Fill ``order`` and return the parts."""
    index_bits = index_bits_of(layout.n_pages)
    bits, n_items, n_shares = layout.fmt.bits, len(pfns), workers.n_threads
    least = SECTION_PAGES if layout.has_large_folios else WORD_PAGES  # what marks one record is in one part
    shift = max(-(-layout.n_pages // N_REGIONS) - 1, least - 1).bit_length()
    edges = [n_items * share // n_shares for share in range(n_shares + 1)]
    counts = np.zeros((n_shares, N_REGIONS + 1), dtype=np.int64)

    def count(share: int) -> None:
        count_regions.for_bits(bits)(
            store, machine, pfns, nids, edges[share], edges[share + 1], shift, found, counts[share]
        )

    workers.run(n_shares, count)
    ends = np.cumsum(counts.T.ravel()).reshape(N_REGIONS + 1, n_shares).T
    places = np.ascontiguousarray(ends - counts)

    def put(share: int) -> None:
        lo, hi = edges[share], edges[share + 1]
        order_by_region.for_bits(bits)(found, lo, hi, shift, index_bits, places[share], order)

    workers.run(n_shares, put)
    n_parts = n_shares * _PARTS_PER_THREAD
    wanted = n_items * np.arange(1, n_parts + 1) // n_parts
    cuts = [0, *np.unique(ends[-1][np.searchsorted(ends[-1], wanted)]).tolist()]
    return [(lo, hi) for lo, hi in pairwise(cuts) if lo < hi]
