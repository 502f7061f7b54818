"""Page frames: who owns which, how many are free in each zone, and the watermarks that guard them.

A frame is named by its flat index (:class:`gpuscan.records.page_map.PageMap`). A zone hands
out memory it never handed out before in ascending order, and what was freed last
first (as per-CPU lists do). Free blocks are kept per order; they are split when a
smaller order runs out and merged only when a larger one does (compaction of used
frames is not modelled).

Of a zone's present pages the ``present - managed`` lowest belong to the kernel
(struct page, boot reservations) and are never handed out.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import INT64_MAX
from gpuscan.base.documents import array, items, pairs, table, whole, wholes
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.topology.layout import PFN_LIMIT
from gpuscan.topology.model import ZONE_MOVABLE, ZONE_NAMES, Topology, Zone

MAX_ORDER = 15
"""Largest folio order: one section."""
PMD_ORDER = 9
"""HPAGE_PMD_ORDER, 2 MiB with 4 KiB pages."""

Mark = Literal["min", "low", "high", "promo"]

_EMPTY = np.empty(0, dtype=np.int64)


class _Blocks:
    """A stack of free blocks (heads, flat) of one order."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        self._heads = np.empty(0, dtype=dtype)
        self.n = 0

    @property
    def heads(self) -> NDArray[Any]:
        """The heads, last pushed last."""
        return self._heads[: self.n]

    def push(self, heads: NDArray[Any]) -> None:
        end = self.n + len(heads)
        if end > len(self._heads):
            grown = np.empty(max(end, 2 * len(self._heads), 1024), dtype=self._heads.dtype)
            grown[: self.n] = self._heads[: self.n]
            self._heads = grown
        self._heads[self.n : end] = heads
        self.n = end

    def pop(self, n: int) -> NDArray[np.int64]:
        """Return up to ``n`` heads, last pushed first."""
        take = min(n, self.n)
        self.n -= take
        return self._heads[self.n : self.n + take][::-1].astype(np.int64)


class _ZoneFrames:
    """The free frames of one zone."""

    def __init__(self, zone: Zone, ranges: list[tuple[int, int]], dtype: np.dtype[Any]) -> None:
        self.zone = zone
        self.free_pages = 0
        self._dtype = dtype
        self._ranges = ranges
        self._fresh: list[tuple[int, int]] = []  # never handed out, descending, so that the end is popped
        self._blocks = [_Blocks(dtype) for _ in range(MAX_ORDER + 1)]
        self._n_frees = 0
        self._merged_at = [-1] * (MAX_ORDER + 1)
        reserved = zone.present_pages - zone.managed_pages
        for start, end in ranges:
            kept = min(reserved, end - start)
            reserved -= kept
            if start + kept < end:
                self._fresh.append((start + kept, end))
                self.free_pages += end - start - kept
        self._fresh.reverse()

    def replace_free(self, free: NDArray[np.int64]) -> None:
        """Make exactly ``free`` (ascending) the free frames."""
        self._fresh.clear()
        self.free_pages = len(free)
        heads, rest = _whole_blocks(free, PMD_ORDER)
        self._blocks[PMD_ORDER].push(heads[::-1])
        self._blocks[0].push(rest[::-1])

    def above(self, mark: Mark) -> int:
        """Free pages above a watermark and the reserve for allocations that could use ZONE_MOVABLE."""
        floor: int = getattr(self.zone.watermarks, mark)
        return self.free_pages - floor - self.zone.lowmem_reserve[ZONE_MOVABLE]

    def take(self, n: int, order: int) -> NDArray[np.int64]:
        """Return up to ``n`` free blocks of ``order``, whatever the watermarks."""
        parts: list[NDArray[np.int64]] = []
        missing = n
        for find in (self._from_blocks, self._from_fresh, self._from_split, self._from_merge):
            if missing:
                found = find(missing, order)
                missing -= len(found)
                parts.append(found)
        self.free_pages -= (n - missing) << order
        return np.concatenate(parts) if parts else _EMPTY

    def give(self, heads: NDArray[np.int64], order: int) -> None:
        """Take back blocks."""
        self._blocks[order].push(heads)
        self.free_pages += len(heads) << order
        self._n_frees += 1

    def free_frames(self) -> NDArray[np.int64]:
        """Return every free frame, ascending."""
        parts = [np.arange(start, end) for start, end in self._fresh]
        for order, blocks in enumerate(self._blocks):
            heads = blocks.pop(blocks.n)
            blocks.push(heads[::-1])
            parts.append(_pages(heads, order))
        return np.sort(np.concatenate(parts)) if parts else _EMPTY

    def state(self) -> dict[str, Any]:
        """Return all there is to know, for :meth:`restore`; the free blocks are :meth:`heads`."""
        return {
            "free_pages": self.free_pages,
            "fresh": [list(span) for span in self._fresh],
            "n_blocks": [blocks.n for blocks in self._blocks],
            "n_frees": self._n_frees,
            "merged_at": list(self._merged_at),
        }

    def heads(self) -> NDArray[Any]:
        """Return the free blocks, of all orders one after the other, last pushed last."""
        return np.concatenate([blocks.heads for blocks in self._blocks])

    def restore(self, state: Mapping[str, Any], heads: NDArray[Any]) -> NDArray[Any]:
        """Become what :meth:`state` was taken of, with its :meth:`heads`; return those left over.

        Raises:
            ValueError: it was taken of another zone.
        """
        found = table(state, "a zone", ("free_pages", "fresh", "n_blocks", "n_frees", "merged_at"))
        spans = [wholes(span, 0, PFN_LIMIT, "fresh", 2) for span in items(found["fresh"], "fresh")]
        if not all(any(lo <= start < end <= hi for lo, hi in self._ranges) for start, end in spans):
            raise ValueError("a zone has fresh frames that are not its own")
        n_orders = MAX_ORDER + 1
        self.free_pages = whole(found["free_pages"], 0, self.zone.present_pages, "free_pages")
        self._fresh = [(start, end) for start, end in spans]
        self._n_frees = whole(found["n_frees"], 0, INT64_MAX, "n_frees")
        self._merged_at = wholes(found["merged_at"], -1, INT64_MAX, "merged_at", n_orders)
        for order, n in enumerate(wholes(found["n_blocks"], 0, len(heads), "n_blocks", n_orders)):
            mine = heads[:n]
            if len(mine) != n or (mine & mine.dtype.type((1 << order) - 1)).any():
                raise ValueError(f"a zone has no {n} free blocks of order {order}")
            self._blocks[order] = _Blocks(self._dtype)
            self._blocks[order].push(mine)
            heads = heads[n:]
        return heads

    def _from_blocks(self, n: int, order: int) -> NDArray[np.int64]:
        return self._blocks[order].pop(n)

    def _from_fresh(self, n: int, order: int) -> NDArray[np.int64]:
        parts: list[NDArray[np.int64]] = []
        size = 1 << order
        while n and self._fresh:
            start, end = self._fresh.pop()
            aligned = -(-start // size) * size
            take = min(n, max(0, end - aligned) // size)
            if take:
                parts.append(np.arange(aligned, aligned + take * size, size, dtype=np.int64))
                n -= take
            used_to = aligned + take * size if take else start
            if take and aligned > start:
                self._push_singles(np.arange(aligned - 1, start - 1, -1, dtype=np.int64), order)
            if n == 0 and used_to < end:
                self._fresh.append((used_to, end))
            elif used_to < end:  # too short for a block of this order
                self._push_singles(np.arange(end - 1, used_to - 1, -1, dtype=np.int64), order)
        return np.concatenate(parts) if parts else _EMPTY

    def _from_split(self, n: int, order: int) -> NDArray[np.int64]:
        for larger in range(order + 1, MAX_ORDER + 1):
            if n <= self._blocks[order].n:
                break
            wanted = -(-(n - self._blocks[order].n) >> (larger - order))
            heads = self._blocks[larger].pop(max(1, wanted))
            pieces = heads[:, None] + (np.arange(1 << (larger - order), dtype=np.int64) << order)
            self._blocks[order].push(pieces.ravel()[::-1])
        return self._blocks[order].pop(n)

    def _from_merge(self, n: int, order: int) -> NDArray[np.int64]:
        if order == 0 or self._merged_at[order] == self._n_frees:
            return _EMPTY
        self._merged_at[order] = self._n_frees
        frames = np.sort(
            np.concatenate([_pages(blocks.pop(blocks.n), k) for k, blocks in enumerate(self._blocks[:order])])
        )
        heads, rest = _whole_blocks(frames, order)
        self._push_singles(rest[::-1], order)
        self._blocks[order].push(heads[::-1])
        return self._blocks[order].pop(n)

    def _push_singles(self, frames: NDArray[np.int64], order: int) -> None:
        """Keep frames that hold no block of ``order`` one by one: smaller ones may be merged of them."""
        self._blocks[0].push(frames)
        self._merged_at[:order] = [-1] * order


def _pages(heads: NDArray[np.int64], order: int) -> NDArray[np.int64]:
    """Return every page of blocks."""
    return (heads[:, None] + np.arange(1 << order, dtype=np.int64)).ravel() if order else heads


def _whole_blocks(frames: NDArray[np.int64], order: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Split ascending frames into the heads of aligned whole blocks of ``order`` and the other frames."""
    _, first, count = np.unique(frames >> order, return_index=True, return_counts=True)
    whole = count == 1 << order
    return frames[first[whole]], frames[np.repeat(~whole, count)]


class FrameAllocator:
    """Free frames of a machine, by node and zone.

    Args:
        topology: the machine.
        free: bool[n_pages] over the flat index, frames that are free at the start; by
            default all that the zones manage.
    """

    def __init__(self, topology: Topology, free: NDArray[np.bool_] | None = None) -> None:
        page_map = topology.page_map
        self._section_zone = page_map.section_zone
        dtype = index_dtype(page_map.n_pages)
        ranges: dict[int, list[tuple[int, int]]] = {}
        for zone_id, flat_range in zip(
            page_map.extent_zone.tolist(), page_map.extent_flat_ranges(), strict=True
        ):
            ranges.setdefault(zone_id, []).append(flat_range)
        self._zones: dict[int, _ZoneFrames] = {}
        self._zonelists: dict[int, list[_ZoneFrames]] = {node.nid: [] for node in topology.nodes}
        for zone_id, (node, zone) in enumerate(topology.zones):
            if zone.name == "Device" or not zone.managed_pages:  # ZONE_DEVICE has no buddy allocator
                continue
            frames = _ZoneFrames(zone, ranges.get(zone_id, []), dtype)
            if free is not None:
                mine = [start + np.flatnonzero(free[start:end]) for start, end in ranges.get(zone_id, [])]
                frames.replace_free(np.concatenate(mine) if mine else _EMPTY)
            self._zones[zone_id] = frames
            self._zonelists[node.nid].append(frames)
        for zonelist in self._zonelists.values():
            # Highest zone first: build_zonerefs_node() in mm/page_alloc.c.
            zonelist.sort(key=lambda frames: ZONE_NAMES.index(frames.zone.name), reverse=True)

    def alloc(
        self, n: int, nid: int, order: int = 0, marks: Sequence[Mark] = ("low", "min")
    ) -> NDArray[np.int64]:
        """Allocate folios on one node (__GFP_THISNODE), highest zone first.

        A zone gives while its free pages stay above ``mark + lowmem_reserve``
        (__zone_watermark_ok() in mm/page_alloc.c); with several marks each is tried on
        all zones in turn. The default is an allocation that may not reclaim: the fast
        path down to the low mark, then the slow path down to min.

        Args:
            n: folios wanted.
            nid: the node.
            order: of the folios; heads are aligned to ``1 << order``.
            marks: watermarks to keep to.

        Returns:
            int64[m], flat heads, m <= n.
        """
        parts: list[NDArray[np.int64]] = []
        for mark in marks:
            for zone in self._zonelists[nid]:
                quota = min(n, max(0, zone.above(mark)) >> order)
                if quota:
                    found = zone.take(quota, order)
                    n -= len(found)
                    parts.append(found)
        return np.concatenate(parts) if parts else _EMPTY

    def free(self, heads: NDArray[np.int64], order: int = 0) -> None:
        """Give folios back to their zones."""
        zone_ids = self._section_zone[heads // SECTION_PAGES]
        while len(heads):
            mine = zone_ids == zone_ids[0]
            self._zones[int(zone_ids[0])].give(heads[mine], order)
            heads, zone_ids = heads[~mine], zone_ids[~mine]

    def state(self) -> dict[str, Any]:
        """Return all there is to know, for :meth:`restore`."""
        return {
            "zones": [[zone_id, zone.state()] for zone_id, zone in self._zones.items()],
            "heads": np.concatenate([zone.heads() for zone in self._zones.values()]),
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Become what :meth:`state` was taken of, an allocator of the same machine.

        Raises:
            ValueError: it was of another.
        """
        found = table(state, "the frames", ("zones", "heads"))
        zones = pairs(found["zones"], "zones")
        if [zone_id for zone_id, _ in zones] != list(self._zones):
            raise ValueError("the frames are of other zones")
        n_pages = len(self._section_zone) * SECTION_PAGES
        heads = array(found["heads"], index_dtype(n_pages), "heads", lowest=0, end=n_pages)
        if not np.isin(self._section_zone[heads // SECTION_PAGES], list(self._zones)).all():
            raise ValueError("a free block is in no zone that has any")
        for zone_id, zone in zones:
            heads = self._zones[zone_id].restore(zone, heads)
        if len(heads):
            raise ValueError(f"{len(heads)} free blocks are in no zone's list")

    def check_zones(self, zone_ids: Sequence[int]) -> None:
        """Refuse zones that no frame can be given back to.

        Raises:
            ValueError: one is such a zone.
        """
        if not self._zones.keys() >= set(zone_ids):
            raise ValueError("a folio is in a zone that frees no frames")

    def free_pages(self, nid: int) -> int:
        """Return the free pages of a node."""
        return sum(zone.free_pages for zone in self._zonelists[nid])

    def free_frames(self, nid: int) -> NDArray[np.int64]:
        """Return int64[n], the free frames of a node, ascending."""
        parts = [zone.free_frames() for zone in self._zonelists[nid]]
        return np.sort(np.concatenate(parts)) if parts else _EMPTY

    def has_memory(self, nid: int) -> bool:
        """Whether the node has a managed zone."""
        return bool(self._zonelists[nid])

    def shortage(self, nid: int, mark: Mark, n_pages: int = 0) -> int:
        """Return how many pages some zone lacks to have more than ``mark + n_pages`` free; 0 = balanced.

        One zone is enough: migrate_balanced_pgdat() in mm/migrate.c (mark high, n pages to
        come) and pgdat_balanced() in mm/vmscan.c look for any zone of the node.
        """
        return min((max(0, n_pages + 1 - zone.above(mark)) for zone in self._zonelists[nid]), default=0)

    def some_zone_above(self, nid: int, mark: Mark, n_pages: int) -> bool:
        """Whether a zone has more than ``mark + n_pages`` free: :meth:`shortage` is 0, and there is a zone.

        Asked for every page that a design moves, so it stops at the first zone that has.
        """
        return any(zone.above(mark) > n_pages for zone in self._zonelists[nid])

    def most_above(self, nid: int, mark: Mark) -> int:
        """Return the free pages above a mark of the zone of a node that has most; 0 without a zone."""
        return max((zone.above(mark) for zone in self._zonelists[nid]), default=0)

    def shortages(self, nid: int, mark: Mark) -> dict[int, int]:
        """Return by zone id how many pages each zone of a node lacks to have more than ``mark`` free."""
        return {
            zone_id: max(0, 1 - zone.above(mark))
            for zone_id, zone in self._zones.items()
            if zone in self._zonelists[nid]
        }

    def zones_of(self, heads: NDArray[np.int64]) -> NDArray[np.int32]:
        """Return the id of each folio's zone."""
        zone_ids: NDArray[np.int32] = self._section_zone[heads // SECTION_PAGES]
        return zone_ids

    def below(self, nid: int, mark: Mark) -> bool:
        """Whether every zone of a node has fewer than ``mark`` free pages."""
        return all(zone.above(mark) < 0 for zone in self._zonelists[nid])

    def is_balanced(self, nid: int, n_pages: int) -> bool:
        """Whether a node can take ``n_pages`` and stay above its high marks (migrate_balanced_pgdat()):
        :meth:`most_above` of them is more."""
        return self.some_zone_above(nid, "high", n_pages)


def index_dtype(n: int) -> np.dtype[Any]:
    """Return the narrowest dtype that holds 0 to ``n - 1``."""
    return np.dtype(np.uint32 if n <= 1 << 32 else np.uint64)
