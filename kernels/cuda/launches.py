"""What the kernels are given: their parameters by name, in order, and the type of each name.

A driver names what it passes; :class:`Launch` puts it in order and gives numbers their width, so
nothing is swapped. A name means one thing, of one type, in all kernels. Those of the contract are as
:mod:`gpuscan.kernels.signatures` has them; ``tests/kernels/test_launches.py`` holds all against the
``.cu`` files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gpuscan.kernels.signatures import ARRAYS, CUTOFFS, NODE_FLAGS, OPERATIONS

_CONTRACT = (*ARRAYS, *CUTOFFS, NODE_FLAGS, *(spec for specs in OPERATIONS.values() for spec in specs))
QUOTAS = ("above_pages", "tie_pages_from", "tie_pages_below")
"""Of a budget, in the order of :attr:`gpuscan.kernels.api.Cutoffs.quotas`. Kernels see them as uint64, which
CUDA has atomics on; they are never negative, so the bits are the same."""
NODE_FLAG_WORDS = ("node_active", "taken")
"""Bytes, 4 of which kernels see as one uint32: CUDA has no atomics on bytes."""

ARRAY_TYPES: dict[str, str] = {
    **{spec.name: spec.dtype for spec in _CONTRACT},
    **dict.fromkeys(QUOTAS, "uint64"),
    "section_nid": "int32",
    "pfn_start": "int64",
    "pfn_end": "int64",
    "flat_offset": "int64",
    "folio_heads": "uint64",
    "folio_lasts": "uint32",
    "folio_notes": "uint32",
    "slots": "uint32",
    "counts": "uint64",
    "n_ready": "uint64",
    "bitmap": "uint64",
    "n_set": "uint64",
    "taken": "uint8",
    "section_counts": "uint32",
    "block_counts": "uint16",
    "cell_tallies": "uint64",
    "cell_ends": "int64",
    "n_done": "uint32",
    "most_claims": "int64",
    "edges": "int64",
    "ends": "int64",
    "totals": "uint64",
    "staged_offsets": "uint32",
    "staged_words": "record",
    "n_staged": "int64",
    "chunk_places": "int64",
    "row_places": "int64",
    "plan_offsets": "int64",
    "plan_flats": "int64",
    "plan_words": "record",
    "pages_of_key": "uint64",
    "section_pfn": "int64",
    "kept_offsets": "int64",
    "kept_flats": "int64",
    "kept_words": "record",
    "plan_pfns": "int64",
    "stop_from": "int64",
    "stop_below": "int64",
    "ties": "uint32",
    "wrapped_ties": "uint32",
}
"""NumPy's name for the items of each array; ``record`` is a record of the store's format."""

NUMBER_TYPES: dict[str, Any] = {
    "has_large_folios": np.int32,
    "fixed_target": np.int32,
    "n_targets": np.uint32,
    "n_extents": np.int64,
    "n_items": np.int64,
    "n_pages": np.int64,
    "n_words": np.int64,
    "n_stretches": np.int64,
    "n_walkers": np.int64,
    "lo": np.int64,
    "hi": np.int64,
    "cell_shift": np.uint32,
    "capacity": np.int64,
    "is_shared": np.int32,
    "notes_count": np.int32,
    "n_slots": np.uint32,
    "of_candidate": np.uint32,
    "of_set": np.uint32,
    "of_wanted": np.uint32,
    "of_block": np.uint32,
    "ordered": np.int32,
    "wants_outcomes": np.int32,
    "drop_top_tier": np.int32,
    "eligible": np.int32,
    "new_order": np.uint32,
    "now": np.uint32,
    "window": np.uint32,
    "threshold": np.int64,
}
"""Type of each number."""

_INDEX = ("records", "ready_bits", "block_bits")
_ORDERS = ("folio_order", "has_large_folios")
_MACHINE = ("pfn_start", "pfn_end", "flat_offset", "n_extents", "node_flags")
_ITEMS = ("fixed_target", *_MACHINE, "pfns", "nids", "n_items")
_FOLIOS = ("folio_heads", "folio_lasts", "folio_notes", "n_slots")
_PRODUCER = (
    *(*_INDEX, "eligible_bits", *_ORDERS, "node_active", "section_nid", *_ITEMS),
    *("ordered", "slots", *_FOLIOS, "outcomes", "wants_outcomes", "counts"),
)
_WALK = ("section_nid", "fixed_target", "n_targets", "node_mask", "edges", "n_stretches")
_STAGE = ("staged_offsets", "staged_words", "n_staged")
_STOPS = ("stop_from", "stop_below")
_CUTS = ("now", "cut_key", "resume_flat", *_STOPS, *QUOTAS)
_TIES = ("now", "cut_key", "resume_flat", *QUOTAS[1:], "ties", "wrapped_ties")
_PLACES = ("chunk_places", "row_places")
_SCAN = (*_WALK, "ends", *_STAGE, *_PLACES, "n_done", "plan_offsets", "totals")
_RANGE = ("lo", "hi")
_COUNTS = ("section_counts", "block_counts", "cell_ends")
_CUT = ("edges", "n_stretches", "ends", "n_staged", "totals")

PARAMETERS: dict[str, tuple[str, ...]] = {
    "resolve": (
        "eligible_bits",
        *_ORDERS,
        "section_nid",
        *_ITEMS,
        "drop_top_tier",
        "notes_count",
        *_FOLIOS,
        "slots",
    ),
    "request": _PRODUCER,
    "record": (*_PRODUCER, "now", "window", "threshold", "drop_top_tier"),
    "release": (
        *(*_INDEX, "eligible_bits", "node_active", "section_nid"),
        *("n_pages", "flats", "words", "n_items", "outcomes", "wants_outcomes", "counts"),
    ),
    "discard": ("records", "flats", "n_items", "n_ready"),
    "set_eligible": ("eligible_bits", "flats", "n_items", "eligible"),
    "set_order": ("folio_order", "flats", "n_items", "new_order"),
    "take_active": ("node_active", "taken"),
    "count_ready": ("records", "n_pages", "n_ready"),
    "count_ready_by_index": (*_INDEX, "n_pages", "n_ready"),
    "count_bits": ("bitmap", "n_words", "n_set"),
    "popcounts": (
        *("ready_bits", "block_bits", "section_nid", "node_mask", *_RANGE, "n_walkers", "cell_shift"),
        *("section_counts", "block_counts", "cell_tallies", "cell_ends", "n_done", "totals"),
    ),
    "cut_stretches": (
        *(*_RANGE, "cell_shift", *_COUNTS, "capacity", "of_candidate", "of_set", "of_wanted", "of_block"),
        *_CUT,
    ),
    "fit_claims": (
        *(*_RANGE, "cell_shift", *_COUNTS, "capacity", "most_claims"),
        *("edges", "n_stretches", "ends", "totals"),
    ),
    "scan_dense": (*_INDEX, *_SCAN),
    "scan_indexed": (*_INDEX, *_SCAN),
    "scan_dense_budget": (*_INDEX, *_ORDERS, *_SCAN, *_CUTS),
    "scan_indexed_budget": (*_INDEX, *_ORDERS, *_SCAN, *_CUTS),
    "undo": (*_INDEX, "edges", "n_stretches", "ends", *_STAGE),
    "scatter": (
        *("fixed_target", "n_targets", "edges", "n_stretches", "ends", *_STAGE),
        *(*_PLACES, "plan_offsets", "plan_flats", "plan_words"),
    ),
    "name_pfns": (
        *("n_targets", "plan_offsets", "plan_flats", "plan_words", "n_items", "section_pfn"),
        *("kept_offsets", "kept_flats", "kept_words", "plan_pfns"),
    ),
    "rank": (*_INDEX, *_ORDERS, *_WALK, "now", "pages_of_key"),
    "cut_keys": ("n_targets", "limit_pages", "pages_of_key", "cut_key", *QUOTAS, "seen_pages"),
    "rank_ties": (*_INDEX, *_ORDERS, *_WALK, *_TIES),
    "cut_ties": (*_INDEX, *_ORDERS, *_WALK, *_TIES, "is_shared", *_STOPS),
    "count_claims": (*_INDEX, *_WALK, "now", "cut_key", "resume_flat", *_STOPS, "most_claims"),
}
"""Parameters of each kernel, in the order of its signature."""


def typed(numbers: Mapping[str, int]) -> dict[str, Any]:
    """Return numbers by name, each of its type: once, for what is given to every launch."""
    return {name: NUMBER_TYPES[name](number) for name, number in numbers.items()}


class Launch:
    """The arguments of a kernel's launches on one store.

    Args:
        kernel: its name.
        own: what the store has for every launch, by name, its numbers :func:`typed`.
    """

    def __init__(self, kernel: str, own: Mapping[str, Any]) -> None:
        names = PARAMETERS[kernel]
        self._kernel = kernel
        self._filled = [own.get(name) for name in names]
        self._places = {
            name: (place, NUMBER_TYPES.get(name)) for place, name in enumerate(names) if name not in own
        }

    def arguments(self, given: Mapping[str, Any]) -> tuple[Any, ...]:
        """Return the arguments in order.

        Args:
            given: arrays and numbers by name, all that the store has not.

        Raises:
            TypeError: something is missing, or given and not asked for.
        """
        arguments = self._filled.copy()
        try:
            for name, value in given.items():
                place, number_type = self._places[name]
                arguments[place] = value if number_type is None else number_type(value)
        except KeyError as unknown:
            raise TypeError(
                f"a launch of {self._kernel} was given {unknown.args[0]}, which it does not take"
            ) from None
        if len(given) < len(self._places):
            missing = self._places.keys() - given.keys()
            raise TypeError(f"a launch of {self._kernel} lacks {', '.join(sorted(missing))}")
        return tuple(arguments)
