"""``record``: producers count accesses; a page that is hot enough becomes READY."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import atomic_compare_exchange, atomic_load, plain_load
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.gather import UNKNOWN_TARGET, Items
from gpuscan.kernels.cpu.marks import marking
from gpuscan.kernels.cpu.pages import is_eligible
from gpuscan.kernels.layout import NODE_TOP_TIER
from gpuscan.kernels.outcomes import Outcome

_ACCEPTED, _REFRESHED, _COUNTED = int(Outcome.ACCEPTED), int(Outcome.REFRESHED), int(Outcome.COUNTED)
_UNKNOWN_TARGET, _UNKNOWN_PFN = int(Outcome.UNKNOWN_TARGET), int(Outcome.UNKNOWN_PFN)
_TOP_TIER, _INELIGIBLE, _OWN_NODE = int(Outcome.TOP_TIER), int(Outcome.INELIGIBLE), int(Outcome.OWN_NODE)


@helper
def record_one(
    store: Store,
    machine: Machine,
    head: int,
    flat: int,
    target: int,
    params: tuple[int, int, int, bool],
) -> int:
    """Count an access to a folio and return the :class:`Outcome`; as for ``request``, times in TIME units."""
    now, window, threshold, drop_top_tier = params
    fields = store.fields
    if flat < 0:
        return _UNKNOWN_TARGET if flat == UNKNOWN_TARGET else _UNKNOWN_PFN
    nid = plain_load(store.section_nid, head >> 15)
    if drop_top_tier and plain_load(machine.node_flags, nid) & NODE_TOP_TIER != 0:
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
        counted = renewed | (freq << fields.freq_shift) | ready
        if counted == word:
            break  # nothing to write: often enough in this unit of time
        seen = atomic_compare_exchange(store.records, head, word, counted)
        if seen == word:
            break
        word = seen
    if word & fields.ready != 0:
        return _REFRESHED
    return _ACCEPTED if ready != 0 else _COUNTED


_count = marking(record_one)


@kernel
def record(
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
    now: int,
    window: int,
    threshold: int,
    drop_top_tier: bool,
    outcomes: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    """Count accesses to pages ``[begin, end)`` of ``order`` or ``pfns``, as :data:`request` marks them."""
    items = Items(pfns, nids, order, scratch, index_bits, begin, end)
    params = (now, window, threshold, drop_top_tier)
    _count(store, machine, items, is_ordered, params, outcomes, counts)
