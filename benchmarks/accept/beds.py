"""Stores of any size on the device: layouts, filling them there, and putting them back as they were."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from accept.rig import Rig, launch, own_source
from gpuscan.kernels.api import (
    NODE_HAS_MEMORY,
    NODE_TOP_TIER,
    Kernels,
    RawPlan,
    ScanPath,
    ScanRequest,
    StoreArrays,
    StoreLayout,
    empty_node_flags,
)
from gpuscan.kernels.cuda import CudaKernels
from gpuscan.records.formats import record_format
from gpuscan.records.page_map import BLOCK_PAGES, SECTION_PAGES, WORD_PAGES, Extent, PageMap

NO_OUTCOMES = np.empty(0, dtype=np.uint8)
_PFN_HOLE = 5 * SECTION_PAGES
_SHARE_ONE = 1 << 32
Lie = Literal["uniform", "hot", "half hot"]
"""Where READY pages lie: each by itself, all in one region, or half of them there."""
LIES: tuple[Lie, ...] = get_args(Lie)


def layout_of(n_pages: int, format_name: str, n_targets: int, *, large_folios: bool = False) -> StoreLayout:
    """Return a machine of ``n_pages`` over three or more nodes, with a hole in its PFNs.

    Nodes below ``n_targets`` can be targets, also those without a page; node 0 is the top tier.
    """
    fmt = record_format(format_name)
    n_sections = n_pages // SECTION_PAGES
    n_nodes = min(max(n_targets, 3), n_sections)
    edges = [n_sections * nid // n_nodes * SECTION_PAGES for nid in range(n_nodes + 1)]
    extents = [
        Extent(edges[nid] + (nid > 0) * _PFN_HOLE, edges[nid + 1] + (nid > 0) * _PFN_HOLE, nid, nid)
        for nid in range(n_nodes)
    ]
    flags = empty_node_flags()
    flags[:n_targets] = NODE_HAS_MEMORY
    flags[0] |= NODE_TOP_TIER
    return StoreLayout(PageMap.from_extents(extents), fmt, flags, -1 if fmt.has_nid else 0, large_folios)


def store_bytes(layout: StoreLayout) -> int:
    """Return what the arrays of a store take."""
    return int(layout.n_pages * (layout.fmt.n_bytes + layout.has_large_folios) + layout.n_pages // 4)


def make_eligible(kernels: Kernels) -> None:
    """Make every page eligible."""
    words = np.full(kernels.layout.n_pages // WORD_PAGES, ~np.uint64(0))
    kernels.load(StoreArrays(None, None, None, words, None, None))


def fill(rig: Rig, kernels: CudaKernels, density: float, seed: int, lie: Lie = "uniform") -> int:
    """Make a share of the pages READY on the device, where ``lie`` says; return how many are now."""
    layout, arrays = kernels.layout, kernels.arrays
    hot_share = {"uniform": 0.0, "half hot": density / 2, "hot": density}[lie]
    hot_lo = layout.n_pages // 3 // BLOCK_PAGES * BLOCK_PAGES
    hot_hi = hot_lo + round(layout.n_pages * hot_share)
    find = rig.device.compile(own_source(layout.fmt, "bed"))
    with rig.device.working():
        for array in (arrays.records, arrays.ready_bits, arrays.block_bits):
            array.fill(0)
        n_words = layout.n_pages // WORD_PAGES
        launch(
            find("fill"),
            n_words,
            arrays.records,
            arrays.ready_bits,
            arrays.block_bits,
            np.int64(n_words),
            np.uint64(round((density - hot_share) * _SHARE_ONE)),
            np.int64(hot_lo),
            np.int64(hot_hi),
            np.uint32(layout.n_targets),
            np.uint64(seed),
        )
    return kernels.count_ready()


class Saved:
    """The records and the index of a store, kept on the device to begin every run with the same."""

    def __init__(self, rig: Rig, kernels: CudaKernels) -> None:
        self._rig = rig
        self._own = (kernels.arrays.records, kernels.arrays.ready_bits, kernels.arrays.block_bits)
        with rig.device.working():
            self._copies = [array.copy() for array in self._own]

    def restore(self) -> None:
        """Put them back, and wait for that: it is no part of what is timed next."""
        with self._rig.device.working():
            for own, copy in zip(self._own, self._copies, strict=True):
                own[:] = copy
            self._rig.device.wait()


@dataclass(slots=True)
class Drained:
    """What the plans of one drain held, and what they read.

    Attributes:
        parts: (offsets, flat, words) of each plan, copied; empty when not kept.
        n_claimed, n_plans, examined_bytes: counted over all plans.
        paths: the path of each plan.
    """

    parts: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]] = field(default_factory=list)
    n_claimed: int = 0
    n_plans: int = 0
    examined_bytes: int = 0
    paths: list[str] = field(default_factory=list)

    def by_target(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
        """Return (folios per target, flats, words): targets ascending, plans of one target in order.

        Plans cover ascending ranges, so this is what one plan of everything would hold,
        wherever a backend cuts.
        """
        if len(self.parts) == 1:
            ((offsets, flats, words),) = self.parts
            return np.diff(offsets), flats, words
        counts = np.sum([np.diff(offsets) for offsets, _, _ in self.parts], axis=0)
        keys = np.concatenate(
            [np.repeat(np.arange(len(offsets) - 1), np.diff(offsets)) for offsets, _, _ in self.parts]
        )
        order = np.argsort(keys, kind="stable")
        flats = np.concatenate([flat for _, flat, _ in self.parts])
        words = np.concatenate([words for _, _, words in self.parts])
        return counts, flats[order], words[order]


def drain(
    kernels: Kernels, path: ScanPath, capacity: int, *, cuts: Any = None, mask: Any = None, keep: bool = True
) -> Drained:
    """Scan a whole store, plan after plan."""
    drained, cursor, n_pages = Drained(), 0, kernels.layout.n_pages
    while cursor < n_pages:
        plan: RawPlan = kernels.scan(ScanRequest(cursor, n_pages, capacity, path, mask, cuts))
        if plan.cursor <= cursor or len(plan.flat) > capacity:
            raise AssertionError(
                f"a plan of {len(plan.flat)} folios from page {cursor} ends at {plan.cursor}, room {capacity}"
            )
        if keep:
            drained.parts.append((plan.offsets.copy(), plan.flat.copy(), plan.words.copy()))
        drained.n_claimed += len(plan.flat)
        drained.n_plans += 1
        drained.examined_bytes += plan.examined_bytes
        drained.paths.append(plan.path)
        cursor = plan.cursor
        plan.recycle()
    return drained
