"""``request``: producers ask for pages to be moved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import NODE_HAS_MEMORY, Outcome
from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import atomic_compare_exchange, atomic_load
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.gather import gather_pfns
from gpuscan.kernels.cpu.pages import folio_pages, is_eligible, mark_ready
from gpuscan.records import N_NODES_MAX

_ACCEPTED, _REFRESHED = int(Outcome.ACCEPTED), int(Outcome.REFRESHED)
_UNKNOWN_TARGET, _UNKNOWN_PFN = int(Outcome.UNKNOWN_TARGET), int(Outcome.UNKNOWN_PFN)
_INELIGIBLE, _OWN_NODE = int(Outcome.INELIGIBLE), int(Outcome.OWN_NODE)


@helper
def request_one(store: Store, machine: Machine, flat: int, target: int) -> int:
    """Mark the folio of a page and return the :class:`Outcome`; ``flat`` is negative for an unknown PFN."""
    fields = store.fields
    if target < 0 or target >= N_NODES_MAX or machine.node_flags[target] & NODE_HAS_MEMORY == 0:
        return _UNKNOWN_TARGET
    if flat < 0:
        return _UNKNOWN_PFN
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
    begin: int,
    end: int,
    gathered: NDArray[np.int64],
    outcomes: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    """Mark PFNs ``[begin, end)`` of ``order``, or of ``pfns`` if that is empty.

    See :func:`gpuscan.kernels.cpu.gather.gather_pfns`.
    """
    while begin < end:
        n_gathered = gather_pfns(store, machine, pfns, nids, order, begin, end, gathered)
        begin += n_gathered
        for slot in range(n_gathered):
            index = gathered[slot, 0]
            flat = gathered[slot, 1]
            target = gathered[slot, 2]
            outcome = request_one(store, machine, flat, target)
            counts[outcome] += 1
            if len(outcomes) > 0:
                outcomes[index] = outcome
