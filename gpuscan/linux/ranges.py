"""Address ranges ``[start, end)`` as int64[n, 2], ascending and disjoint."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Ranges = NDArray[np.int64]


def as_ranges(pairs: Iterable[tuple[int, int]]) -> Ranges:
    """Return pairs as ranges, merged where they touch or overlap."""
    merged: list[tuple[int, int]] = []
    for start, end in sorted(pairs):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        elif start < end:
            merged.append((start, end))
    return np.array(merged, dtype=np.int64).reshape(-1, 2)


def join(ranges: Ranges, n_most: int) -> Ranges:
    """Return at most ``n_most`` ranges that cover these: joined over the smallest holes between them."""
    if len(ranges) <= n_most:
        return ranges
    holes = ranges[1:, 0] - ranges[:-1, 1]
    kept = np.sort(np.argsort(-holes, kind="stable")[: n_most - 1])
    return np.stack([ranges[np.append(0, kept + 1), 0], ranges[np.append(kept, -1), 1]], axis=1)


def intersect(left: Ranges, right: Ranges) -> Ranges:
    """Return what is in both."""
    found = []
    i = j = 0
    pairs_left, pairs_right = left.tolist(), right.tolist()
    while i < len(pairs_left) and j < len(pairs_right):
        start = max(pairs_left[i][0], pairs_right[j][0])
        end = min(pairs_left[i][1], pairs_right[j][1])
        if start < end:
            found.append((start, end))
        if pairs_left[i][1] < pairs_right[j][1]:
            i += 1
        else:
            j += 1
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def contains(ranges: Ranges, values: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return bool[n]: whether each value is in one of the ranges."""
    if not len(ranges):
        return np.zeros(len(values), dtype=np.bool_)
    place = np.searchsorted(ranges[:, 0], values, side="right") - 1
    inside: NDArray[np.bool_] = (place >= 0) & (values < ranges[np.maximum(place, 0), 1])
    return inside
