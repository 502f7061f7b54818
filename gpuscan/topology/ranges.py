"""Sets of PFNs as ranges ``[start, end)``, ascending and disjoint."""

from __future__ import annotations

from collections.abc import Iterable

PfnRanges = list[tuple[int, int]]


def merge(ranges: Iterable[tuple[int, int]]) -> PfnRanges:
    """Return the union of ranges in any order."""
    merged: PfnRanges = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def intersect(left: PfnRanges, right: PfnRanges) -> PfnRanges:
    """Return what is in both."""
    found: PfnRanges = []
    at_left = at_right = 0
    while at_left < len(left) and at_right < len(right):
        start = max(left[at_left][0], right[at_right][0])
        end = min(left[at_left][1], right[at_right][1])
        if start < end:
            found.append((start, end))
        if left[at_left][1] < right[at_right][1]:
            at_left += 1
        else:
            at_right += 1
    return found


def subtract(ranges: PfnRanges, taken: PfnRanges) -> PfnRanges:
    """Return what is in the first only."""
    found: PfnRanges = []
    first = 0
    for start, end in ranges:
        while first < len(taken) and taken[first][1] <= start:
            first += 1
        at = first
        while at < len(taken) and taken[at][0] < end:
            if start < taken[at][0]:
                found.append((start, taken[at][0]))
            start = max(start, taken[at][1])
            at += 1
        if start < end:
            found.append((start, end))
    return found


def n_pages(ranges: Iterable[tuple[int, int]]) -> int:
    """Return how many PFNs are in disjoint ranges."""
    return sum(end - start for start, end in ranges)
