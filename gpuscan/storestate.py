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
from dataclasses import asdict
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuscan import checks
from gpuscan.begun import EndedAhead
from gpuscan.checks import ArraySpec, check_arrays, whole
from gpuscan.errors import ArgumentError
from gpuscan.kernels.api import StoreArrays
from gpuscan.pagemap import BLOCK_PAGES, SECTION_PAGES
from gpuscan.records import N_NODES_MAX

if TYPE_CHECKING:
    from gpuscan.pagestore import PageStore

_KEYS = (
    "format",
    "fixed_target",
    "cursor",
    "resume_flat",
    "active_nids",
    "ended_ahead",
    "section_edges",
    "parts",
)
_NUMBERS = (
    ArraySpec("resume_flat", "int64", ("targets",), values=(0, "pages+1")),
    ArraySpec("active_nids", "int64", values=(0, N_NODES_MAX)),
)
_PAGE_ARRAYS = ("records", "ready_bits", "block_bits", "eligible_bits", "folio_order")


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
    checks.state_of("restore", state, _KEYS)
    for what, own in (("format", store.fmt.name), ("fixed_target", store.layout.fixed_target)):
        if state[what] != own:
            raise ArgumentError(
                f"restore: {what} {state[what]}, this store has {own}; restore one of the same kind"
            )
    n_pages = n_sections * SECTION_PAGES
    numbers = {"targets": len(store.resume_flat), "pages": n_pages}
    if len(state["resume_flat"]) != len(store.resume_flat):
        raise ArgumentError(
            f"restore: {len(state['resume_flat'])} targets, this store has {len(store.resume_flat)}; "
            "restore one of the same machine"
        )
    edges = state["section_edges"]
    if edges[-1] != n_sections:
        raise ArgumentError(
            f"restore: {edges[-1]} sections, this store has {n_sections}; restore one of the same machine"
        )
    check_arrays("restore", _NUMBERS, (state["resume_flat"], state["active_nids"]), numbers)
    if whole("restore: cursor", state["cursor"], 0, n_pages - 1) % BLOCK_PAGES:
        raise ArgumentError(
            f"restore: the cursor {state['cursor']} is no first page of a block; take the state anew"
        )


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
    return StoreArrays(**joined, node_active=None)
