"""The state of a store, whether its pages are in one place or in shards: a state of either fits both.

=======================  ============================================================================
format, fixed_target     of the records
cursor, resume_flat      where the next round begins, and the ties of each target
active_nids              nodes on which pages became READY
ended_ahead              requests that ended in scans that were put back
section_edges, parts     flat sections at which the arrays are cut, and the arrays of each part by its
                         number: :class:`gpuscan.kernels.api.StoreArrays` without ``node_active``
=======================  ============================================================================
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base import documents as checked
from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.errors import ArgumentError
from gpuscan.kernels.api import StoreArrays
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import BLOCK_PAGES, SECTION_PAGES
from gpuscan.store.in_flight import EndedAhead

if TYPE_CHECKING:
    from gpuscan.store.contract import PageStore

_PAGE_ARRAYS = ("records", "ready_bits", "block_bits", "eligible_bits", "folio_order")
_STATE = (
    "format",
    "fixed_target",
    "cursor",
    "resume_flat",
    "active_nids",
    "ended_ahead",
    "section_edges",
    "parts",
)
_ORDER_MAX = 15
"""Of a folio: a section."""


def page_arrays(arrays: StoreArrays) -> dict[str, Any]:
    """Return the arrays of a part: those that have something for every page."""
    return {name: getattr(arrays, name) for name in _PAGE_ARRAYS}


def state_of(
    store: PageStore, ended_ahead: EndedAhead, node_active: Any, section_edges: Sequence[int], parts: Any
) -> dict[str, Any]:
    """Return the state of a store whose arrays are ``parts``."""
    return {
        "format": store.fmt.name,
        "fixed_target": store.layout.fixed_target,
        "cursor": store.cursor,
        "resume_flat": store.resume_flat.tolist(),
        "active_nids": np.flatnonzero(node_active).tolist(),
        "ended_ahead": asdict(ended_ahead),
        "section_edges": list(section_edges),
        "parts": parts,
    }


def check_fits(store: PageStore, state: Mapping[str, Any], n_sections: int) -> None:
    """Refuse a state of something else.

    Args:
        store: which is to take it.
        state: see above.
        n_sections: that it should be of.

    Raises:
        ArgumentError: another format, target or size, or no state at all.
    """
    try:
        _check(store, state, n_sections)
    except ArgumentError as error:
        raise ArgumentError(
            f"restore: {error}; give what state() returned of a store of the same machine and format"
        ) from None


def _check(store: PageStore, state: Mapping[str, Any], n_sections: int) -> None:
    found = checked.table(state, "the state", _STATE)
    for what, own in (("format", store.fmt.name), ("fixed_target", store.layout.fixed_target)):
        if type(found[what]) is not type(own) or found[what] != own:
            raise ArgumentError(f"{what} {checked.shown(found[what])}, this store has {own}")
    n_pages = n_sections * SECTION_PAGES
    resume_flat = checked.wholes(found["resume_flat"], 0, n_pages, "resume_flat")
    if len(resume_flat) != len(store.resume_flat):
        raise ArgumentError(f"{len(resume_flat)} targets, this store has {len(store.resume_flat)}")
    edges = checked.wholes(found["section_edges"], 0, INT64_MAX, "section_edges")
    if len(edges) < 2 or edges[0] or any(lo >= hi for lo, hi in pairwise(edges)):
        raise ArgumentError("section_edges do not ascend from 0")
    if edges[-1] != n_sections:
        raise ArgumentError(f"{edges[-1]} sections, this store has {n_sections}")
    cursor = checked.whole(found["cursor"], 0, n_pages - 1, "cursor")
    if cursor % BLOCK_PAGES:
        raise ArgumentError(f"the cursor {cursor} is no first page of a block")
    checked.wholes(found["active_nids"], 0, N_NODES_MAX - 1, "active_nids")
    names = tuple(place.name for place in fields(EndedAhead))
    ended = checked.table(found["ended_ahead"], "ended_ahead", names)
    for name in names:
        checked.whole(ended[name], 0, INT64_MAX, name)
    numbers = {str(number) for number in range(len(edges) - 1)}
    parts = checked.table(found["parts"], "the parts")
    if not parts.keys() <= numbers:
        raise ArgumentError("the parts are not those between its section_edges")
    for part in parts.values():
        checked.table(part, "a part", _PAGE_ARRAYS)


def overlapping(state: Mapping[str, Any], first: int, end: int) -> dict[str, Any]:
    """Return the parts that have some of the flat sections [first, end)."""
    return {
        str(number): state["parts"][str(number)]
        for number, (lo, hi) in enumerate(pairwise(state["section_edges"]))
        if lo < end and hi > first
    }


def arrays_between(state: Mapping[str, Any], first: int, end: int) -> StoreArrays:
    """Return the arrays of flat sections [first, end), however they were cut; ``node_active`` is None.

    Arrays of a part are anything whose slices are NumPy arrays. They are views where one part has all.
    """
    edges = state["section_edges"]
    pieces: dict[str, list[NDArray[Any]]] = {name: [] for name in _PAGE_ARRAYS}
    for number, part in overlapping(state, first, end).items():
        lo, hi = edges[int(number)], edges[int(number) + 1]
        for name in _PAGE_ARRAYS:
            array = part[name]
            per_section = len(array) // (hi - lo)
            pieces[name].append(
                array[(max(first, lo) - lo) * per_section : (min(end, hi) - lo) * per_section]
            )
    joined = {name: found[0] if len(found) == 1 else np.concatenate(found) for name, found in pieces.items()}
    _check_orders(joined["folio_order"])
    return StoreArrays(**joined, node_active=None)


def _check_orders(order: NDArray[Any]) -> None:
    """Refuse folios that no kernel expects.

    Raises:
        ValueError: one is larger than a section.
    """
    if order.dtype != np.uint8 or (len(order) and order.max() > _ORDER_MAX):
        raise ValueError("folio_order has folios that are larger than a section")
