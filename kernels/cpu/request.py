"""``request``: producers ask for pages to be moved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import NODE_HAS_MEMORY, Outcome
from gpuscan.records import N_NODES_MAX

from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import atomic_compare_exchange, atomic_load
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.kernels.cpu.pages import find_flat, folio_pages, is_eligible, mark_ready, note

_HAS_MEMORY = NODE_HAS_MEMORY
_ACCEPTED, _REFRESHED = int(Outcome.ACCEPTED), int(Outcome.REFRESHED)
_UNKNOWN_TARGET, _UNKNOWN_PFN = int(Outcome.UNKNOWN_TARGET), int(Outcome.UNKNOWN_PFN)
_INELIGIBLE, _OWN_NODE = int(Outcome.INELIGIBLE), int(Outcome.OWN_NODE)


@kernel
def request(
    store: Store,
    machine: Machine,
    pfns: NDArray[np.int64],
    nids: NDArray[np.int32],
    part: int,
    n_parts: int,
    outcomes: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    """Work on the PFNs whose section number is ``part`` modulo ``n_parts``, in order.

    Requests for one page, and for pages that share index words, stay in one part:
    their order, and with it the result, does not depend on the number of threads.
    """
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
        if not is_eligible(store, head):
            note(outcomes, counts, index, _INELIGIBLE)
            continue
        if store.section_nid[head >> 15] == target:
            note(outcomes, counts, index, _OWN_NODE)
            continue
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
            note(outcomes, counts, index, _REFRESHED)
        else:
            mark_ready(store, head)
            note(outcomes, counts, index, _ACCEPTED)
