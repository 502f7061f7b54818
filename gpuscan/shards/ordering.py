"""The order of a plan over shards: by target, then PFN, from one count per target and shard.

Shards lie in PFN order, so the folios of a target are those of the first shard, then those of
the second: an exclusive prefix sum over (target, shard) says where each shard's group begins,
and the folios may stay where they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import StoreLayout
from gpuscan.shards.messages import Lists, ShardScan
from gpuscan.store.plan import Plan


@dataclass(frozen=True, slots=True, eq=False)
class Places:
    """Where the folios of each shard are in the plan.

    Attributes:
        offsets: int64[n_targets + 1], as :attr:`gpuscan.store.plan.Plan.offsets`.
        starts: int64[n_shards, n_targets], position of a shard's first folio for a target.
        counts: int64[n_shards, n_targets], folios.
    """

    offsets: NDArray[np.int64]
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]

    def gather(self, parts: Sequence[NDArray[Any]], dtype: Any) -> NDArray[Any]:
        """Return what the shards have per folio (each by target, then PFN) in the order of the plan."""
        gathered = np.empty(int(self.offsets[-1]), dtype=dtype)
        for part, starts, counts in zip(parts, self.starts, self.counts, strict=True):
            position = 0
            for target in np.flatnonzero(counts).tolist():
                start, count = int(starts[target]), int(counts[target])
                gathered[start : start + count] = part[position : position + count]
                position += count
        return gathered


def places(counts: NDArray[np.int64]) -> Places:
    """Return the places for counts per shard and target, int64[n_shards, n_targets]."""
    offsets = np.concatenate(([0], np.cumsum(counts.sum(axis=0))))
    starts = offsets[:-1] + np.cumsum(counts, axis=0) - counts
    return Places(offsets, starts, counts)


def plan_of_shards(
    layout: StoreLayout, parts: Mapping[int, ShardScan], first_flats: Mapping[int, int], cursor: int
) -> Plan:
    """Put together what the shards claimed, in the order that their counts say.

    Args:
        layout: of the whole store.
        parts: what each shard claimed, in the order of the shards.
        first_flats: the first flat page of each.
        cursor: first flat page of the store not covered.
    """
    scans = list(parts.values())
    counts = np.array([scan.counts for scan in scans], dtype=np.int64).reshape(-1, layout.n_targets)
    order = places(counts)
    lists = [scan.lists for scan in scans]
    flats = [found.flat + np.int64(first_flats[shard]) for shard, found in zip(parts, lists, strict=True)]
    flat = order.gather(flats, np.int64)
    orders: NDArray[np.uint8] | None = None
    if layout.has_large_folios:
        orders = order.gather([_orders(found) for found in lists], np.uint8)
    paths = {scan.path for scan in scans}
    return Plan(
        offsets=order.offsets,
        pfn=layout.page_map.pfn_of_flat(flat),
        flat=flat,
        words=order.gather([found.words for found in lists], layout.fmt.dtype),
        order=orders,
        cursor=cursor,
        path=paths.pop() if len(paths) == 1 else "mixed",
        why="; ".join(f"shard {shard}: {scan.why}" for shard, scan in parts.items()),
        scan_ns=max((scan.scan_ns for scan in scans), default=0),
        examined_pages=sum(scan.examined_pages for scan in scans),
        examined_bytes=sum(scan.examined_bytes for scan in scans),
        n_unknown_target=sum(scan.n_unknown_target for scan in scans),
        n_superseded=sum(scan.n_superseded for scan in scans),
    )


def _orders(found: Lists) -> NDArray[np.uint8]:
    assert found.order is not None
    return found.order
