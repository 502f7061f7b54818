"""``request``: producers ask for pages to be moved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import atomic_compare_exchange, atomic_load, plain_load, plain_store
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.gather import (
    AHEAD_ITEMS,
    RUN_ITEMS,
    TARGET_BITS,
    UNKNOWN_TARGET,
    entry_at,
    load_ahead,
)
from gpuscan.kernels.cpu.pages import folio_pages, is_eligible, publish
from gpuscan.kernels.outcomes import Outcome

_ACCEPTED, _REFRESHED = int(Outcome.ACCEPTED), int(Outcome.REFRESHED)
_UNKNOWN_TARGET, _UNKNOWN_PFN = int(Outcome.UNKNOWN_TARGET), int(Outcome.UNKNOWN_PFN)
_INELIGIBLE, _OWN_NODE = int(Outcome.INELIGIBLE), int(Outcome.OWN_NODE)


@helper
def request_one(store: Store, head: int, flat: int, target: int) -> int:
    """Mark a folio and return the :class:`Outcome`; whoever calls this indexes what was accepted.

    Args:
        store: of the folio.
        head: its first page.
        flat: the page that was asked for; that of no page says why there is none.
        target: the node.
    """
    fields = store.fields
    if flat < 0:
        return _UNKNOWN_TARGET if flat == UNKNOWN_TARGET else _UNKNOWN_PFN
    if not is_eligible(store, head):
        return _INELIGIBLE
    if plain_load(store.section_nid, head >> 15) == target:
        return _OWN_NODE
    nid_field = (target & fields.nid_max) << fields.nid_shift
    keep = ~(fields.nid_max << fields.nid_shift)
    word = atomic_load(store.records, head)
    while True:
        marked = (word & keep) | nid_field | fields.ready
        if marked == word:
            return _REFRESHED  # READY with this target already: there is nothing to write
        seen = atomic_compare_exchange(store.records, head, word, marked)
        if seen == word:
            break
        word = seen
    # Whoever made it READY owes the index bits: they are set, or about to be.
    return _REFRESHED if word & fields.ready != 0 else _ACCEPTED


@helper
def _mark(
    store: Store,
    machine: Machine,
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    order: NDArray[np.int64],
    scratch: NDArray[np.int64],
    is_ordered: bool,
    index_bits: int,
    begin: int,
    end: int,
    outcomes: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    fresh = begin
    for item in range(begin, min(end, begin + AHEAD_ITEMS)):
        fresh = load_ahead(
            store, machine, pfns, nids, order, scratch, is_ordered, index_bits, item, end, fresh
        )
    word_index = 0
    bits = 0
    for item in range(begin, end):
        entry = entry_at(order, is_ordered, item)
        ahead = item + AHEAD_ITEMS
        if ahead < end:
            if is_ordered and ahead == fresh:  # what follows takes as long as some hundred marks
                publish(store, word_index, bits)
                bits = 0
            fresh = load_ahead(
                store, machine, pfns, nids, order, scratch, is_ordered, index_bits, ahead, end, fresh
            )
        page = entry >> index_bits
        flat = page >> TARGET_BITS
        head = flat & -folio_pages(store, flat) if flat >= 0 else flat
        if head >> 6 != word_index or item & (RUN_ITEMS - 1) == 0:
            publish(store, word_index, bits)
            word_index = head >> 6
            bits = 0
        outcome = request_one(store, head, flat, page & ((1 << TARGET_BITS) - 1))
        if outcome == _ACCEPTED:
            bits |= 1 << (head & 63)
        plain_store(counts, outcome, plain_load(counts, outcome) + 1)
        if len(outcomes) > 0:
            plain_store(outcomes, entry & ((1 << index_bits) - 1), outcome)
    publish(store, word_index, bits)


@kernel
def request(
    store: Store,
    machine: Machine,
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    order: NDArray[np.int64],
    scratch: NDArray[np.int64],
    is_ordered: bool,
    index_bits: int,
    begin: int,
    end: int,
    outcomes: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    """Mark pages ``[begin, end)`` of ``order``, or of ``pfns``; then ``order`` is scratch.

    Pages of one ready word that come one after the other are indexed together, after their records.
    See :mod:`gpuscan.kernels.cpu.gather`.
    """
    # Compiled apart: what only one of them needs takes registers of the other.
    where = (index_bits, begin, end, outcomes, counts)
    if is_ordered:
        _mark(store, machine, pfns, nids, order, scratch, True, *where)
    else:
        _mark(store, machine, pfns, nids, order, scratch, False, *where)
