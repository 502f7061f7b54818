"""``record``: producers count accesses; a page that is hot enough becomes READY."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import NODE_HAS_MEMORY, NODE_TOP_TIER, Outcome
from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import atomic_compare_exchange, atomic_load
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.gather import gather_pfns
from gpuscan.kernels.cpu.pages import folio_pages, is_eligible, mark_ready
from gpuscan.records import N_NODES_MAX

_ACCEPTED, _REFRESHED, _COUNTED = int(Outcome.ACCEPTED), int(Outcome.REFRESHED), int(Outcome.COUNTED)
_UNKNOWN_TARGET, _UNKNOWN_PFN = int(Outcome.UNKNOWN_TARGET), int(Outcome.UNKNOWN_PFN)
_TOP_TIER, _INELIGIBLE, _OWN_NODE = int(Outcome.TOP_TIER), int(Outcome.INELIGIBLE), int(Outcome.OWN_NODE)


@helper
def record_one(
    store: Store,
    machine: Machine,
    flat: int,
    target: int,
    now: int,
    window: int,
    threshold: int,
    drop_top_tier: bool,
) -> int:
    """Count an access to the folio of a page and return the :class:`Outcome`; times in TIME units."""
    fields = store.fields
    if target < 0 or target >= N_NODES_MAX or machine.node_flags[target] & NODE_HAS_MEMORY == 0:
        return _UNKNOWN_TARGET
    if flat < 0:
        return _UNKNOWN_PFN
    head = flat & -folio_pages(store, flat)
    nid = store.section_nid[head >> 15]
    if drop_top_tier and machine.node_flags[nid] & NODE_TOP_TIER != 0:
        return _TOP_TIER
    if not is_eligible(store, head):
        return _INELIGIBLE
    if nid == target:
        return _OWN_NODE
    renewed = ((target & fields.nid_max) << fields.nid_shift) | (now << fields.time_shift)
    word = atomic_load(store.records, head)
    while True:
        age = (now - ((word >> fields.time_shift) & fields.time_max)) & fields.time_max
        freq = (word >> fields.freq_shift) & fields.freq_max
        freq = 1 if age > window else min(freq + 1, fields.freq_max)
        ready = fields.ready if freq >= threshold else word & fields.ready
        seen = atomic_compare_exchange(
            store.records, head, word, renewed | (freq << fields.freq_shift) | ready
        )
        if seen == word:
            break
        word = seen
    if word & fields.ready != 0:
        return _REFRESHED
    if ready == 0:
        return _COUNTED
    mark_ready(store, head)
    return _ACCEPTED


@kernel
def record(
    store: Store,
    machine: Machine,
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    order: NDArray[np.int64],
    begin: int,
    end: int,
    gathered: NDArray[np.int64],
    now: int,
    window: int,
    threshold: int,
    drop_top_tier: bool,
    outcomes: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    """Count accesses to PFNs ``[begin, end)``, as :data:`request` marks them."""
    while begin < end:
        n_gathered = gather_pfns(store, machine, pfns, nids, order, begin, end, gathered)
        begin += n_gathered
        for slot in range(n_gathered):
            index = gathered[slot, 0]
            flat = gathered[slot, 1]
            target = gathered[slot, 2]
            outcome = record_one(store, machine, flat, target, now, window, threshold, drop_top_tier)
            counts[outcome] += 1
            if len(outcomes) > 0:
                outcomes[index] = outcome
