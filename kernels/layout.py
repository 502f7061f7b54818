"""What a store is made for, and the arrays that it has on a device."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import check_arrays, flag, instance, settle, whole
from gpuscan.base.errors import ArgumentError
from gpuscan.kernels.signatures import NODE_FLAGS
from gpuscan.records.formats import N_NODES_MAX, RecordFormat
from gpuscan.records.page_map import SECTION_PAGES, WORD_PAGES, PageMap

NODE_HAS_MEMORY = 1
"""Bit of ``StoreLayout.node_flags``: the node can be a target."""
NODE_TOP_TIER = 2
"""Bit of ``StoreLayout.node_flags``: ``record`` may drop accesses to its pages."""


@dataclass(frozen=True, slots=True, eq=False)
class StoreLayout:
    """What a store is made for.

    Attributes:
        page_map: the flat index.
        fmt: the record format.
        node_flags: uint8[1024], NODE_* bits per nid.
        fixed_target: target of every page where ``fmt`` stores no NID, else -1. There
            the nids given to ``request`` and ``record`` are ignored in its favour.
        has_large_folios: whether the store keeps a folio order per page.
        n_targets: highest node with memory plus one: the length of every per-target array.
    """

    page_map: PageMap
    fmt: RecordFormat
    node_flags: NDArray[np.uint8]
    fixed_target: int = -1
    has_large_folios: bool = False
    n_targets: int = field(init=False)

    def __post_init__(self) -> None:
        instance("layout: page_map", self.page_map, PageMap, "give topology.page_map")
        instance("layout: fmt", self.fmt, RecordFormat, "give gpuscan.records.formats.record_format(name)")
        (flags,) = check_arrays("layout", (NODE_FLAGS,), (self.node_flags,), {"nodes": N_NODES_MAX})
        settle(
            self,
            node_flags=flags,
            fixed_target=whole("layout: fixed_target", self.fixed_target, -1, N_NODES_MAX - 1),
            has_large_folios=flag("layout: has_large_folios", self.has_large_folios),
        )
        with_memory = np.flatnonzero(flags & NODE_HAS_MEMORY)
        if not len(with_memory):
            raise ArgumentError("layout: no node has memory; set NODE_HAS_MEMORY in its node_flags")
        if self.fmt.has_nid != (self.fixed_target < 0):
            raise ArgumentError(
                f"layout: fixed_target is {self.fixed_target}; give "
                f"{'-1, since records' if self.fmt.has_nid else 'a node with memory: none of the records'} "
                f"of format {self.fmt.name} store their target"
            )
        settle(self, n_targets=int(with_memory[-1]) + 1)

    @property
    def n_pages(self) -> int:
        """Flat pages, a multiple of 32,768."""
        return self.page_map.n_pages

    @property
    def record_bytes(self) -> int:
        """Bytes of what there is for every page and is looked at page by page: record, folio order."""
        return self.n_pages * (self.fmt.n_bytes + self.has_large_folios)

    @property
    def index_bytes(self) -> int:
        """Bytes of the bits that there are for every page: ready, eligible."""
        return 2 * self.n_pages // 8

    @property
    def n_bytes(self) -> int:
        """Bytes of both."""
        return self.record_bytes + self.index_bytes


@dataclass(slots=True, eq=False)
class StoreArrays:
    """The arrays of a store, NumPy on a CPU, CuPy on a GPU.

    Attributes:
        records: fmt.dtype[n_pages].
        ready_bits: uint64[n_pages / 64], bit ``flat % 64`` of word ``flat // 64``.
        block_bits: uint64[n_pages / 32768], bit ``flat // 512 % 64`` of word ``flat // 32768``.
        eligible_bits: uint64[n_pages / 64]; only a head's bit is looked at.
        folio_order: uint8[n_pages], on every page of a folio, or uint8[0] without
            large folios. A folio is aligned to its size, so its head is
            ``flat & ~((1 << order) - 1)``; orders go up to 15 (a section).
        node_active: uint8[1024]; producers set it to 1 for the node of a page that
            became READY (pghot: PGDAT_KMIGRATED_ACTIVATE). The caller clears it.
    """

    records: Any
    ready_bits: Any
    block_bits: Any
    eligible_bits: Any
    folio_order: Any
    node_active: Any

    @classmethod
    def zeroed(
        cls, layout: StoreLayout, zeros: Callable[[int, Any], Any], record_memory: Any = None
    ) -> StoreArrays:
        """Return the arrays of an empty store; raises as ``zeros``.

        Args:
            layout: of the store.
            zeros: makes an array of ``(length, dtype)``.
            record_memory: uint8[layout.record_bytes] of zeros, which records and folio orders are to be in;
                None: ``zeros`` makes them, too.
        """
        n_pages = layout.n_pages
        n_orders = n_pages if layout.has_large_folios else 0
        if record_memory is None:
            records, folio_order = zeros(n_pages, layout.fmt.dtype), zeros(n_orders, np.uint8)
        else:
            records, folio_order = records_in(record_memory, layout)
        return cls(
            records=records,
            ready_bits=zeros(n_pages // WORD_PAGES, np.uint64),
            block_bits=zeros(n_pages // SECTION_PAGES, np.uint64),
            eligible_bits=zeros(n_pages // WORD_PAGES, np.uint64),
            folio_order=folio_order,
            node_active=zeros(N_NODES_MAX, np.uint8),
        )

    def map(self, change: Callable[[Any], Any]) -> StoreArrays:
        """Return what ``change`` makes of each array."""
        return StoreArrays(*(change(getattr(self, place.name)) for place in fields(self)))


def records_in(memory: Any, layout: StoreLayout) -> tuple[Any, Any]:
    """Return records and folio orders as they lie in uint8[layout.record_bytes], views of it."""
    end = layout.n_pages * layout.fmt.n_bytes
    return memory[:end].view(layout.fmt.dtype), memory[end : layout.record_bytes]


def empty_node_flags() -> NDArray[np.uint8]:
    """Return uint8[1024] of zeros, to be filled with NODE_* bits."""
    return np.zeros(N_NODES_MAX, dtype=np.uint8)
