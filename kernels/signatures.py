"""The one specification of what each operation takes: names, dtypes, order, lengths, ranges.

The three backends check the arrays of a call against it, and so do the front doors
(``Store``, ``ShardedStore``) and the dataclasses of
:mod:`gpuscan.kernels.api`: what one of them refuses, all refuse, in the same words. Kernels check no
index: what passes here is what they may rely on.

Dimensions by name: ``n`` items of the call, ``nodes`` (1,024), ``targets``, ``pages``, ``words`` and
``sections`` of the store, ``keys`` of its format, ``chunks`` of a budget; ``orders`` is ``pages`` with
large folios and 0 without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import ArraySpec, check_arrays, whole
from gpuscan.base.errors import ArgumentError
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import BLOCK_PAGES, SECTION_PAGES, WORD_PAGES

if TYPE_CHECKING:
    from gpuscan.kernels.api import Budget, ScanRequest
    from gpuscan.kernels.layout import StoreArrays, StoreLayout

MAX_ORDER = 15
"""A folio is at most a section."""

_PFNS = ArraySpec("pfns", "int64")
_NIDS = ArraySpec("nids", "int32")
_FLATS = ArraySpec("flats", "int64", values=(0, "pages"))
_WORDS = ArraySpec("words", "record", has_bits="ready")
_OUTCOMES = ArraySpec("outcomes", "uint8", ("n?",), exact=True)
NODE_MASK = ArraySpec("node_mask", "uint8", ("nodes",), is_bool=True, optional=True)
_CUT_KEY = ArraySpec("cut_key", "int32", ("targets",), values=(-1, "keys+1"))

BUDGET = (
    ArraySpec("limit_pages", "int64", ("targets",), values=(-1, 1 << 63)),
    ArraySpec("resume_flat", "int64", ("targets",), values=(0, "pages+1")),
)
"""Fields of :class:`gpuscan.kernels.api.Budget`."""

CUTOFFS = (
    ArraySpec(
        "chunk_edges",
        "int64",
        ("chunks+1",),
        values=(0, "pages+1"),
        multiple_of=SECTION_PAGES,
        ascends=True,
        exact=True,
    ),
    ArraySpec("cut_key", "int32", ("targets",), values=(-1, "keys+1"), exact=True),
    ArraySpec("above_pages", "int64", ("chunks", "targets"), exact=True),
    ArraySpec("tie_pages_from", "int64", ("chunks", "targets"), exact=True),
    ArraySpec("tie_pages_below", "int64", ("chunks", "targets"), exact=True),
    ArraySpec("resume_flat", "int64", ("targets",), values=(0, "pages+1"), exact=True),
    ArraySpec("seen_pages", "int64", ("targets",), exact=True),
)
"""Fields of :class:`gpuscan.kernels.api.Cutoffs`; a scan counts the quotas down in them."""

ARRAYS = (
    ArraySpec("records", "record", ("pages",), optional=True),
    ArraySpec("ready_bits", "uint64", ("words",), optional=True),
    ArraySpec("block_bits", "uint64", ("sections",), optional=True),
    ArraySpec("eligible_bits", "uint64", ("words",), optional=True),
    ArraySpec("folio_order", "uint8", ("orders",), values=(0, MAX_ORDER + 1), optional=True),
    ArraySpec("node_active", "uint8", ("nodes",), is_bool=True, optional=True),
)
"""Fields of :class:`gpuscan.kernels.layout.StoreArrays`, as ``load`` takes them."""

NODE_FLAGS = ArraySpec("node_flags", "uint8", ("nodes",))

OPERATIONS: dict[str, tuple[ArraySpec, ...]] = {
    "request": (_PFNS, _NIDS, _OUTCOMES),
    "record": (_PFNS, _NIDS, _OUTCOMES),
    "release": (_FLATS, _WORDS, _OUTCOMES),
    "discard": (_FLATS,),
    "set_eligible": (_FLATS,),
    "set_order": (ArraySpec("flats", "int64", values=(0, "pages"), multiple_of="folio"),),
    "count_keys": (*BUDGET, NODE_MASK),
    "cut": (_CUT_KEY,),
    "scan": (NODE_MASK,),
    "load": ARRAYS,
}
"""Arrays of each operation of :class:`gpuscan.kernels.api.Kernels`, in the order of the call."""


class Door:
    """Checks the arguments of the operations on one store.

    Args:
        layout: what the store is made for.
    """

    def __init__(self, layout: StoreLayout) -> None:
        fmt, n_pages = layout.fmt, layout.n_pages
        self._layout = layout
        self._record_dtype = fmt.dtype
        self._dims = {
            "nodes": N_NODES_MAX,
            "targets": layout.n_targets,
            "pages": n_pages,
            "words": n_pages // WORD_PAGES,
            "sections": n_pages // SECTION_PAGES,
            "orders": n_pages if layout.has_large_folios else 0,
            "keys": fmt.n_keys,
            "ready": fmt.ready.mask,
        }

    def arrays(self, operation: str, *given: Any, **dims: int) -> list[Any]:
        """Return the arrays of a call as kernels take them; ``dims`` are numbers that this call settles.

        Raises:
            ArgumentError: one is something else.
        """
        known = {**self._dims, **dims}
        return check_arrays(operation, OPERATIONS[operation], given, known, self._record_dtype)

    def order(self, flats: Any, order: int) -> NDArray[np.int64]:
        """Return the heads of folios of ``order``.

        Raises:
            ArgumentError: they are no heads, or the store keeps no such orders.
        """
        order = whole("set_order: order", order, 0, MAX_ORDER)
        if order and not self._layout.has_large_folios:
            raise ArgumentError(
                f"set_order: order {order} in a store without large folios; open it with large_folios=True"
            )
        (heads,) = self.arrays("set_order", flats, folio=1 << order)
        checked: NDArray[np.int64] = heads
        return checked

    def range(self, operation: str, lo: int, hi: int) -> tuple[int, int]:
        """Return a flat range of this store.

        Raises:
            ArgumentError: it is not.
        """
        lo, hi = check_range(operation, lo, hi)
        if hi > self._layout.n_pages:
            raise ArgumentError(
                f"{operation}: the range ends at page {hi}, the store at {self._layout.n_pages}; end it there"
            )
        return lo, hi

    def ranking(
        self, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None
    ) -> tuple[int, int, NDArray[np.uint8] | None]:
        """Return the range and the nodes of a ranking; the budget is checked with them.

        Raises:
            ArgumentError: one of them is not of this store.
        """
        lo, hi = self.range("rank", lo, hi)
        _, _, node_mask = self.arrays("count_keys", budget.limit_pages, budget.resume_flat, node_mask)
        return lo, hi, node_mask

    def scan(self, request: ScanRequest) -> None:
        """Refuse a scan of pages, nodes or cut-offs that are not of this store.

        Raises:
            ArgumentError: they are not.
        """
        self.range("scan", request.lo, request.hi)
        cuts = request.cuts
        if cuts is None:
            return
        cuts.now = whole("cuts: now", cuts.now)
        given = [getattr(cuts, spec.name) for spec in CUTOFFS]
        check_arrays("cuts", CUTOFFS, given, dict(self._dims), self._record_dtype)
        first, last = int(cuts.chunk_edges[0]), int(cuts.chunk_edges[-1])
        if request.lo < request.hi and not first <= request.lo <= request.hi <= last:
            raise ArgumentError(
                f"scan: the range [{request.lo}, {request.hi}) is outside the ranked [{first}, {last}); "
                "rank it first"
            )

    def to_load(self, own: StoreArrays, given: StoreArrays) -> list[tuple[Any, Any]]:
        """Return (array of the store, array to put there) for what ``load`` was given.

        Raises:
            ArgumentError: an array is not of the store's shape and dtype, or has values that it cannot have.
        """
        arrays = self.arrays("load", *(getattr(given, spec.name) for spec in ARRAYS))
        pairs = ((getattr(own, spec.name), array) for spec, array in zip(ARRAYS, arrays, strict=True))
        return [(target, source) for target, source in pairs if source is not None]


def check_range(operation: str, lo: int, hi: int) -> tuple[int, int]:
    """Return a flat range of whole blocks.

    Raises:
        ArgumentError: it is not.
    """
    lo, hi = whole(f"{operation}: lo", lo), whole(f"{operation}: hi", hi)
    if lo % BLOCK_PAGES or hi % BLOCK_PAGES or lo > hi:
        raise ArgumentError(
            f"{operation}: the range [{lo}, {hi}) is not of whole blocks; "
            f"give ascending multiples of {BLOCK_PAGES} pages"
        )
    return lo, hi


def check_cut_key(cut_key: Any, n_targets: int, n_keys: int) -> NDArray[np.int32]:
    """Return the keys that :meth:`gpuscan.kernels.api.KeyCounts.cut` was given.

    Raises:
        ArgumentError: they are not one key for each target.
    """
    dims = {"targets": n_targets, "keys": n_keys}
    (checked,) = check_arrays("cut", OPERATIONS["cut"], (cut_key,), dims)
    keys: NDArray[np.int32] = checked
    return keys


def closed() -> ArgumentError:
    """Return what any use of a store that was closed raises."""
    return ArgumentError("the store is closed; open another one")
