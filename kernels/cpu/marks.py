"""The loop of ``request`` and ``record``: entry after entry is marked, and what became READY is indexed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import plain_load, plain_store
from gpuscan.kernels.cpu.compile import helper
from gpuscan.kernels.cpu.gather import AHEAD_ITEMS, TARGET_BITS, Items, entry_at, load_ahead
from gpuscan.kernels.cpu.pages import folio_pages, publish
from gpuscan.kernels.outcomes import Outcome

RUN_ITEMS = 64
"""Items after which pages that became READY are indexed at the latest; a power of two."""

_ACCEPTED = int(Outcome.ACCEPTED)


def marking(mark_one: Callable[[Store, Machine, int, int, int, Any], int]) -> Callable[..., None]:
    """Return a helper that marks all items by one that marks a folio.

    Pages of one ready word that come one after the other are indexed together, after their records.
    See :mod:`gpuscan.kernels.cpu.gather`.

    Args:
        mark_one: is given store, machine, head, flat page, target and params; returns the :class:`Outcome`.
    """

    @helper
    def mark_items(
        store: Store,
        machine: Machine,
        items: Items,
        is_ordered: bool,
        params: Any,
        outcomes: NDArray[np.uint8],
        counts: NDArray[np.int64],
    ) -> None:
        begin, end, index_bits = items.begin, items.end, items.index_bits
        fresh = begin
        for item in range(begin, min(end, begin + AHEAD_ITEMS)):
            fresh = load_ahead(store, machine, items, is_ordered, item, fresh)
        word_index = 0
        bits = 0
        for item in range(begin, end):
            entry = entry_at(items.order, is_ordered, item)
            ahead = item + AHEAD_ITEMS
            if ahead < end:
                if is_ordered and ahead == fresh:  # what follows takes as long as some hundred marks
                    publish(store, word_index, bits)
                    bits = 0
                fresh = load_ahead(store, machine, items, is_ordered, ahead, fresh)
            page = entry >> index_bits
            flat = page >> TARGET_BITS
            head = flat & -folio_pages(store, flat) if flat >= 0 else flat
            if head >> 6 != word_index or item & (RUN_ITEMS - 1) == 0:
                publish(store, word_index, bits)
                word_index = head >> 6
                bits = 0
            outcome = mark_one(store, machine, head, flat, page & ((1 << TARGET_BITS) - 1), params)
            if outcome == _ACCEPTED:
                bits |= 1 << (head & 63)
            plain_store(counts, outcome, plain_load(counts, outcome) + 1)
            if len(outcomes) > 0:
                plain_store(outcomes, entry & ((1 << index_bits) - 1), outcome)
        publish(store, word_index, bits)

    @helper
    def mark(
        store: Store,
        machine: Machine,
        items: Items,
        is_ordered: bool,
        params: Any,
        outcomes: NDArray[np.uint8],
        counts: NDArray[np.int64],
    ) -> None:
        # Compiled apart: what only one of them needs takes registers of the other.
        if is_ordered:
            mark_items(store, machine, items, True, params, outcomes, counts)
        else:
            mark_items(store, machine, items, False, params, outcomes, counts)

    return mark
