"""Compiling or loading what scans need before the first one, so that none is charged with it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from gpuscan.kernels.api import (
    NODE_HAS_MEMORY,
    Budget,
    Kernels,
    ScanPath,
    ScanRequest,
    StoreLayout,
    empty_node_flags,
)
from gpuscan.records.formats import N_NODES_MAX, RecordFormat
from gpuscan.records.page_map import BLOCK_PAGES, SECTION_PAGES, Extent, PageMap

_LOADED: set[int] = set()


def load_scan_kernels(fmt: RecordFormat, open_store: Callable[[StoreLayout], Kernels]) -> None:
    """Scan a store of one section in every way, once per process and record width.

    From the cache that takes some 0.1 s, without one as long as compiling does.
    """
    if fmt.bits in _LOADED:
        return
    flags = empty_node_flags()
    flags[0] = NODE_HAS_MEMORY
    pages = PageMap.from_extents([Extent(0, SECTION_PAGES, 0, 0)])
    kernels = open_store(StoreLayout(pages, fmt, flags, fixed_target=-1 if fmt.has_nid else 0))
    budget = Budget(np.full(1, -1, dtype=np.int64), np.zeros(1, dtype=np.int64), 0)
    for cuts in (None, kernels.rank(budget, 0, SECTION_PAGES)):
        for mask in (None, np.ones(N_NODES_MAX, dtype=np.uint8)):
            for path in ("dense", "indexed", "auto"):
                # Stale bits on all blocks: candidates are sampled and counted as well.
                kernels.arrays.block_bits[:] = ~np.uint64(0)
                kernels.scan(ScanRequest(0, SECTION_PAGES, BLOCK_PAGES, path, mask, cuts)).recycle()
    # Only a plan that holds a whole segment may be made in one call; others are made when they are read.
    each_kind: tuple[ScanPath, ...] = ("indexed", "dense")
    for path in each_kind:
        kernels.arrays.records[0] = fmt.ready.mask
        kernels.arrays.ready_bits[0] = kernels.arrays.block_bits[0] = 1
        plan = kernels.scan(ScanRequest(0, SECTION_PAGES, SECTION_PAGES, path))
        found = plan.flat
        assert found.tolist() == [0]
        plan.recycle()
    kernels.close()
    _LOADED.add(fmt.bits)
