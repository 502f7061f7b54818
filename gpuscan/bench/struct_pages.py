"""The loop of the kernel's own walk, over arrays of ``struct page`` and ``page_ext``."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.compile import kernel

PG_LRU = 5
"""Bit of ``page->flags``; which one does not matter here."""


@kernel
def walk(
    pages: NDArray[np.int64],
    exts: NDArray[np.int64],
    ready: int,
    nid_shift: int,
    nid_max: int,
    found_pfn: NDArray[np.int64],
    found_nid: NDArray[np.int32],
) -> int:
    """Collect READY pages in PFN order; return how many. ``pages`` int64[n, 8], ``exts`` int64[n, 2]."""
    n_found = 0
    for pfn in range(len(pages)):
        head = pages[pfn, 1]
        folio = head - 1 if head & 1 else pfn
        if pages[folio, 0] & (1 << PG_LRU) == 0:
            continue
        word = exts[pfn, 0]
        if word & ready == 0:
            continue
        found_pfn[n_found] = pfn
        found_nid[n_found] = (word >> nid_shift) & nid_max
        n_found += 1
    return n_found
