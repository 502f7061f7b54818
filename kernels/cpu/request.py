"""``request``: producers ask for pages to be moved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import atomic_compare_exchange, atomic_load, plain_load
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.gather import (
    AHEAD_ITEMS,
    TARGET_BITS,
    UNKNOWN_TARGET,
    find_pages,
    load_ahead,
)
from gpuscan.kernels.cpu.pages import folio_pages, is_eligible, mark_ready
from gpuscan.kernels.outcomes import Outcome

_ACCEPTED, _REFRESHED = int(Outcome.ACCEPTED), int(Outcome.REFRESHED)
_UNKNOWN_TARGET, _UNKNOWN_PFN = int(Outcome.UNKNOWN_TARGET), int(Outcome.UNKNOWN_PFN)
_INELIGIBLE, _OWN_NODE = int(Outcome.INELIGIBLE), int(Outcome.OWN_NODE)


@helper
def request_one(store: Store, flat: int, target: int) -> int:
    """Mark the folio of a page and return the :class:`Outcome`; ``flat`` may be that of no page."""
    fields = store.fields
    if flat < 0:
        return _UNKNOWN_TARGET if flat == UNKNOWN_TARGET else _UNKNOWN_PFN
    head = flat & -folio_pages(store, flat)
    if not is_eligible(store, head):
        return _INELIGIBLE
    if store.section_nid[head >> 15] == target:
        return _OWN_NODE
    nid_field = (target & fields.nid_max) << fields.nid_shift
    keep = ~(fields.nid_max << fields.nid_shift)
    word = atomic_load(store.records, head)
    while True:
        seen = atomic_compare_exchange(store.records, head, word, (word & keep) | nid_field | fields.ready)
        if seen == word:
            break
        word = seen
    if word & fields.ready != 0:
        # Whoever made it READY owes the index bits: they are set, or about to be.
        return _REFRESHED
    mark_ready(store, head)
    return _ACCEPTED


@kernel
def request(
    store: Store,
    machine: Machine,
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    order: NDArray[np.int64],
    is_ordered: bool,
    index_bits: int,
    begin: int,
    end: int,
    outcomes: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    """Mark pages ``[begin, end)`` of ``order``; unless it is ordered, ``pfns`` are put there first.

    See :mod:`gpuscan.kernels.cpu.gather`.
    """
    if not is_ordered:
        find_pages(store, machine, pfns, nids, index_bits, order)
    for item in range(begin, min(end, begin + AHEAD_ITEMS)):
        load_ahead(store, plain_load(order, item), index_bits)
    for item in range(begin, end):
        load_ahead(store, plain_load(order, min(item + AHEAD_ITEMS, end - 1)), index_bits)
        entry = plain_load(order, item)
        page = entry >> index_bits
        outcome = request_one(store, page >> TARGET_BITS, page & ((1 << TARGET_BITS) - 1))
        counts[outcome] += 1
        if len(outcomes) > 0:
            outcomes[entry & ((1 << index_bits) - 1)] = outcome
