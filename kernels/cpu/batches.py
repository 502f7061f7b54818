"""The driver of ``request`` and ``record``: PFNs in batches, by region, cut into parts for threads."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import N_REGIONS, Machine, Store
from gpuscan.kernels.cpu.buffers import Buffers
from gpuscan.kernels.cpu.gather import (
    AHEAD_ITEMS,
    SCRATCH_ITEMS,
    count_regions,
    index_bits_of,
    order_by_region,
)
from gpuscan.kernels.cpu.workers import Workers
from gpuscan.kernels.layout import StoreLayout

PARALLEL_FROM_ITEMS = 1 << 15
"""Items of a ``request``, ``record`` or ``release`` call from which they are split over threads."""
_PAGES_PER_ITEM = 64
"""A batch has at most an item for so many pages: what ordering takes, 8 bytes an item, stays below
4 % of 4-byte records, or 4 MiB in a small store."""
_BATCH_ITEMS_MIN = 1 << 19
"""A million random PFNs in a 64 GiB store, one thread: 19.7 ms, in batches of 2^17 21.8 (Zen 4)."""
_PARTS_PER_THREAD = 4
_NOTHING = np.empty(0, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Batch:
    """PFNs that are worked on together.

    Attributes:
        span: which of the call's.
        order: int64[n], see :data:`order_by_region`; None where they are worked on as they come, since
            they are few, or by region already.
        index_bits: of an entry of ``order``, for the position in the batch.
        has_buckets: it is ordered by bucket while it is marked.
        parts: begin and end of what one thread does. A folio, and all pages that share an index
            word, are in one part, in the order of the call: so the result does not depend on
            the number of threads.
    """

    span: slice
    order: NDArray[np.int64] | None
    index_bits: int
    has_buckets: bool
    parts: list[tuple[int, int]]

    def order_and_scratch(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the order, or what a part needs in its place, and what it needs beside it."""
        if self.order is None:
            return np.empty(AHEAD_ITEMS, dtype=np.int64), _NOTHING
        return self.order, np.empty(SCRATCH_ITEMS, dtype=np.int64) if self.has_buckets else _NOTHING


def batches_of(
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    store: Store,
    machine: Machine,
    layout: StoreLayout,
    workers: Workers,
    buffers: Buffers,
) -> Iterator[Batch]:
    """Cut a call, int64[n] PFNs and int32[n] nids, into batches. Each is to be done with before the next."""
    index_bits = index_bits_of(layout.n_pages)
    if len(pfns) < min(PARALLEL_FROM_ITEMS, 1 << index_bits):
        yield Batch(slice(None), None, index_bits, False, [(0, len(pfns))])
        return
    batch_items = min(max(layout.n_pages // _PAGES_PER_ITEM, _BATCH_ITEMS_MIN), 1 << index_bits)
    order = buffers.order(min(batch_items, len(pfns)))
    for begin in range(0, len(pfns), batch_items):
        span = slice(begin, min(begin + batch_items, len(pfns)))
        is_by_region, parts = _order(pfns[span], nids[span], store, machine, layout, workers, order)
        ordered = None if is_by_region else order[: span.stop - begin]
        yield Batch(span, ordered, index_bits, machine.bucket_shift >= 0, parts)
    buffers.give_order(order)


def load_ordering(store: Store, machine: Machine, layout: StoreLayout) -> None:
    """Load, or compile, what orders large calls."""
    pfns, nids = machine.pfn_start[:1], np.zeros(1, dtype=np.int32)
    counts, order = np.zeros(N_REGIONS, dtype=np.int64), np.empty(1, dtype=np.int64)
    bits = layout.fmt.bits
    count_regions.for_bits(bits)(machine, pfns, 0, 1, counts)
    next_of_region = np.zeros(N_REGIONS, dtype=np.int64)
    order_by_region.for_bits(bits)(
        store, machine, pfns, nids, 0, 1, index_bits_of(layout.n_pages), next_of_region, order
    )


def _order(
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    store: Store,
    machine: Machine,
    layout: StoreLayout,
    workers: Workers,
    order: NDArray[np.int64],
) -> tuple[bool, list[tuple[int, int]]]:
    """Fill ``order``, unless the pages are by region already; return whether they are, and the parts."""
    index_bits = index_bits_of(layout.n_pages)
    bits, n_items, n_shares = layout.fmt.bits, len(pfns), workers.n_threads
    edges = [n_items * share // n_shares for share in range(n_shares + 1)]
    counts = np.zeros((n_shares, N_REGIONS), dtype=np.int64)
    is_ascending = [True] * n_shares

    def count(share: int) -> None:
        lo, hi = edges[share], edges[share + 1]
        if lo < hi:
            is_ascending[share] = count_regions.for_bits(bits)(machine, pfns, lo, hi, counts[share])

    workers.run(n_shares, count)
    ends = np.cumsum(counts.T.ravel()).reshape(N_REGIONS, n_shares).T
    n_parts = n_shares * _PARTS_PER_THREAD
    wanted = n_items * np.arange(1, n_parts + 1) // n_parts
    cuts = [0, *np.unique(ends[-1][np.searchsorted(ends[-1], wanted)]).tolist()]
    parts = [(lo, hi) for lo, hi in pairwise(cuts) if lo < hi]
    if all(is_ascending) and _is_joined(counts):
        return True, parts
    places = np.ascontiguousarray(ends - counts)

    def put(share: int) -> None:
        lo, hi = edges[share], edges[share + 1]
        order_by_region.for_bits(bits)(store, machine, pfns, nids, lo, hi, index_bits, places[share], order)

    workers.run(n_shares, put)
    return False, parts


def _is_joined(counts: NDArray[np.int64]) -> bool:
    """Return whether no share begins in a lower region than the one before it ends in."""
    counts = counts[counts.any(axis=1)]
    last = N_REGIONS - 1 - np.argmax(counts[:, ::-1] > 0, axis=1)
    first = np.argmax(counts > 0, axis=1)
    return bool((first[1:] >= last[:-1]).all())
