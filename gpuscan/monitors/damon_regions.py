"""Hot pages as DAMON sees them: regions of a process (vaddr) or of the machine's memory (paddr).

DAMON samples one page of each region every ``sample_us`` and counts in how many of the looks of an
aggregation it was accessed. A region on a border between hot and cold memory counts in between, until
DAMON's random splits have found the border: such regions are left for later ticks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpuscan.linux.damon import Intervals, Regions
from gpuscan.linux.ranges import Ranges

HOT_SHARE = 0.7
"""Part of the reference count at which a page is hot. A region with half of its pages cold has half of it."""
FEW_ACCESSES = 4
FEW_SHARE = 0.4
"""And the same part where the reference count is below FEW_ACCESSES, and chance weighs more."""
SURE_SHARE = 0.9
"""Part of all looks at which one aggregation is proof enough. Each look takes a page of the region at
random, so a region of which a share s is hot reaches 9 of 10 looks with the chance of a binomial: for a
border at a random place that moves 2 % of one region's pages wrongly."""
INSIDE_SHARE = 0.6
"""The same part for a region inside a hot stretch, which touches one on each side that reaches it, too: four
looks of six. A page that is touched all the time is seen at nine looks of ten or so, since accessed bits are
cleared without a TLB flush. Of a region of which a share s is hot four to six looks find an access with the
chance of a binomial: over all s the cold pages that moves are 10.7 % of a region, of six looks alone 1.8 %.
But of the two neighbours of a region over a border one is cold, which has no access, so for it six of six it
stays. What is paid for is a cold hole smaller than one region, with hot memory on both sides."""
LEAST_LOOKS = 2
"""Aggregations that say together which frames are hot. A process's memory lies among that of others, and
DAMON cuts its regions anew after each aggregation: a cold frame has other neighbours each time."""
_REFERENCE_SHARE = 0.25
"""The reference count is the one that this part of the accessed pages of an area reaches. An area is a
stretch of mappings that touch, and each has its own: a program is hit at every look, its heap by turns."""


def hot_pages(n_accesses: NDArray[np.int64], area: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return bool[n]: which pages are hot.

    Args:
        n_accesses: int64[n], of the region that each page is in, 1 or more.
        area: intp[n], the stretch of mappings that each page is in, ascending.
    """
    hot = np.zeros(len(area), dtype=np.bool_)
    cuts = (np.flatnonzero(np.diff(area)) + 1).tolist()
    for start, end in zip([0, *cuts], [*cuts, len(area)], strict=True):
        part = n_accesses[start:end]
        if len(part):
            reference = _reference(part)
            share = HOT_SHARE if reference >= FEW_ACCESSES else FEW_SHARE
            hot[start:end] = part >= share * reference
    return hot


def _reference(n_accesses: NDArray[np.int64]) -> int:
    return int(np.sort(n_accesses)[len(n_accesses) - 1 - int(len(n_accesses) * _REFERENCE_SHARE)])


def accesses_at(looks: Sequence[Regions], addresses: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return int64[n_looks, n]: ``nr_accesses`` of the region that each address is in, 0 for none.

    Args:
        looks: the regions of an aggregation each, ascending.
        addresses: int64[n], in bytes, in any order.
    """
    order = np.argsort(addresses)
    ascending = addresses[order]
    counts = np.zeros((len(looks), len(addresses)), dtype=np.int64)
    for row, regions in zip(counts, looks, strict=True):
        first, last = np.searchsorted(ascending, regions.ranges.T)
        steps = np.zeros(len(addresses) + 1, dtype=np.int64)
        np.add.at(steps, first, regions.n_accesses)
        np.subtract.at(steps, last, regions.n_accesses)
        row[order] = np.cumsum(steps[:-1])
    return counts


def hot_frames(
    counts: NDArray[np.int64], area: NDArray[np.intp], most_accesses: int
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return bool[n] twice: which pages are hot by several looks, and of which nearly every look says so.

    Of each area two looks are added up, or as many as it takes until its reference count is FEW_ACCESSES;
    before that nothing of it is hot. Hot is only what was accessed in the newest look, too.

    Args:
        counts: int64[n_looks, n], of the region that each page was in, the newest look first.
        area: intp[n], the stretch of mappings that each page is in, ascending.
        most_accesses: of a region that was accessed at every look.
    """
    hot, sure = np.zeros((2, len(area)), dtype=np.bool_)
    cuts = (np.flatnonzero(np.diff(area)) + 1).tolist()
    for start, end in zip([0, *cuts], [*cuts, len(area)], strict=True):
        sums = np.cumsum(counts[:, start:end], axis=0)
        for n_looks, part in enumerate(sums[LEAST_LOOKS - 1 :], LEAST_LOOKS):
            accessed = part[part > 0]
            reference = _reference(accessed) if len(accessed) else 0
            if reference >= FEW_ACCESSES:
                hot[start:end] = (sums[0] > 0) & (part >= HOT_SHARE * reference)
                sure[start:end] = part >= SURE_SHARE * n_looks * most_accesses
                break
    return hot, sure


def sure_regions(regions: Regions, intervals: Intervals) -> NDArray[np.bool_]:
    """Return bool[n]: which regions nearly every look found accessed."""
    sure: NDArray[np.bool_] = regions.n_accesses >= SURE_SHARE * intervals.most_accesses
    return sure


def sure_inside(regions: Regions, intervals: Intervals) -> NDArray[np.bool_]:
    """Return bool[n]: the sure regions of an address space, and those inside a hot stretch.

    Addresses next to each other are mostly one data structure; page frames are not.

    Args:
        regions: ascending; those left out between two were not accessed.
        intervals: how finely DAMON looked.
    """
    sure = sure_regions(regions, intervals)
    often = regions.n_accesses >= INSIDE_SHARE * intervals.most_accesses
    # A region and the next one: one touches the other, and both are accessed often.
    joined = often[:-1] & often[1:] & (regions.ranges[:-1, 1] == regions.ranges[1:, 0])
    sure[1:-1] |= joined[:-1] & joined[1:]
    return sure


def cold_regions(regions: Regions, intervals: Intervals, cold_after_ns: int) -> NDArray[np.bool_]:
    """Return bool[n]: which regions had no access for ``cold_after_ns``."""
    for_ns = regions.age * intervals.aggregation_us * 1000
    cold: NDArray[np.bool_] = (regions.n_accesses == 0) & (for_ns >= cold_after_ns)
    return cold


def merged(ranges: Ranges) -> Ranges:
    """Join ranges that touch: fewer system calls."""
    if len(ranges) < 2:
        return ranges
    breaks = np.flatnonzero(ranges[1:, 0] != ranges[:-1, 1])
    starts = ranges[np.concatenate(([0], breaks + 1)), 0]
    ends = ranges[np.concatenate((breaks, [len(ranges) - 1])), 1]
    return np.stack([starts, ends], axis=1)


def place_of(ranges: Ranges, values: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return intp[n]: the range that each value is in, -1 for none."""
    if not len(ranges):
        return np.full(len(values), -1, dtype=np.intp)
    place = np.searchsorted(ranges[:, 0], values, side="right") - 1
    return np.where((place >= 0) & (values < ranges[np.maximum(place, 0), 1]), place, -1)
