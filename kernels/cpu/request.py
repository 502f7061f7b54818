"""``request``: producers ask for pages to be moved."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Machine, Store
from gpuscan.kernels.cpu.atomics import atomic_compare_exchange, atomic_load, plain_load
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.gather import UNKNOWN_TARGET, Items
from gpuscan.kernels.cpu.marks import marking
from gpuscan.kernels.cpu.pages import is_eligible
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
def _one(store: Store, machine: Machine, head: int, flat: int, target: int, params: tuple[()]) -> int:
    return request_one(store, head, flat, target)


_mark = marking(_one)


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
    """Mark pages ``[begin, end)`` of ``order``, or of ``pfns``; then ``order`` is scratch."""
    items = Items(pfns, nids, order, scratch, index_bits, begin, end)
    _mark(store, machine, items, is_ordered, (), outcomes, counts)
