"""``record``: producers count accesses; a page that is hot enough becomes READY."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import NODE_HAS_MEMORY, NODE_TOP_TIER, Outcome
from gpuscan.records import N_NODES_MAX

from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import atomic_compare_exchange, atomic_load
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.kernels.cpu.pages import find_flat, folio_pages, is_eligible, mark_ready, note

_HAS_MEMORY, _TOP_TIER_NODE = NODE_HAS_MEMORY, NODE_TOP_TIER
_ACCEPTED, _REFRESHED, _COUNTED = int(Outcome.ACCEPTED), int(Outcome.REFRESHED), int(Outcome.COUNTED)
_UNKNOWN_TARGET, _UNKNOWN_PFN = int(Outcome.UNKNOWN_TARGET), int(Outcome.UNKNOWN_PFN)
_TOP_TIER, _INELIGIBLE, _OWN_NODE = int(Outcome.TOP_TIER), int(Outcome.INELIGIBLE), int(Outcome.OWN_NODE)


@kernel
def record(
    store: Store,
    machine: Machine,
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    part: int,
    n_parts: int,
    now: int,
    window: int,
    threshold: int,
    drop_top_tier: bool,
    outcomes: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    """Work on the PFNs of one part, as :data:`request` does. ``now`` and ``window`` are in TIME units."""
    fields = store.fields
    extent = 0
    for index in range(len(pfns)):
        pfn = pfns[index]
        if (pfn >> 15) % n_parts != part:
            continue
        target = nids[index] if fields.nid_max != 0 else fields.fixed_target
        if target < 0 or target >= N_NODES_MAX or machine.node_flags[target] & _HAS_MEMORY == 0:
            note(outcomes, counts, index, _UNKNOWN_TARGET)
            continue
        flat, extent = find_flat(machine, pfn, extent)
        if flat < 0:
            note(outcomes, counts, index, _UNKNOWN_PFN)
            continue
        head = flat & -folio_pages(store, flat)
        nid = store.section_nid[head >> 15]
        if drop_top_tier and machine.node_flags[nid] & _TOP_TIER_NODE != 0:
            note(outcomes, counts, index, _TOP_TIER)
            continue
        if not is_eligible(store, head):
            note(outcomes, counts, index, _INELIGIBLE)
            continue
        if nid == target:
            note(outcomes, counts, index, _OWN_NODE)
            continue
        renewed = ((target & fields.nid_max) << fields.nid_shift) | (now << fields.time_shift)
        word = atomic_load(store.records, head)
        while True:
            age = (now - ((word >> fields.time_shift) & fields.time_max)) & fields.time_max
            freq = (word >> fields.freq_shift) & fields.freq_max
            freq = 1 if age > window else min(freq + 1, fields.freq_max)
            ready = word & fields.ready
            if freq >= threshold:
                ready = fields.ready
            seen = atomic_compare_exchange(
                store.records, head, word, renewed | (freq << fields.freq_shift) | ready
            )
            if seen == word:
                break
            word = seen
        if word & fields.ready != 0:
            note(outcomes, counts, index, _REFRESHED)
        elif ready == 0:
            note(outcomes, counts, index, _COUNTED)
        else:
            mark_ready(store, head)
            note(outcomes, counts, index, _ACCEPTED)
