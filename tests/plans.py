"""Plans made by hand."""

from __future__ import annotations

import numpy as np

from gpuscan.store.plan import Plan


def make_plan(groups: list[list[int]], *, with_order: bool) -> Plan:
    """Return a plan with one group per target; each folio is given by its order."""
    orders = [order for group in groups for order in group]
    sizes = np.array([1 << order for order in orders], dtype=np.int64)
    flat = np.cumsum(sizes) - sizes
    return Plan(
        offsets=np.concatenate(([0], np.cumsum([len(group) for group in groups]))).astype(np.int64),
        pfn=flat + 1000,
        flat=flat,
        words=np.ones(len(flat), dtype=np.uint32),
        order=np.array(orders, dtype=np.uint8) if with_order else None,
        cursor=0,
        path="dense",
        why="test",
        scan_ns=0,
        examined_pages=0,
        examined_bytes=0,
    )
