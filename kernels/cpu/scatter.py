"""The stable scatter: staged claims, chunk by chunk, to their target's place in the plan.

Where 64 of them in a row have one target, as when a node is drained to the one next to it, they are copied.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Fields
from gpuscan.kernels.cpu.atomics import copy_64, differ_64, plain_load, plain_store, prefetch
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.pages import target_of

_AHEAD = 16
"""Places ahead of the next one of a target that are prefetched. Stores commit in order, so one
that misses the cache holds up those of all other targets."""


@helper
def set_places(counts: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
    """Turn counts into places: an exclusive prefix sum over (target, piece), in place.

    Args:
        counts: int64[n_pieces, n_targets + 1], claims; first free places afterwards.
        offsets: int64[n_targets + 2] to fill, where the group of each target begins.
    """
    n_pieces, n_groups = counts.shape
    place = 0
    for target in range(n_groups):
        offsets[target] = place
        for piece in range(n_pieces):
            count = counts[piece, target]
            counts[piece, target] = place
            place += count
    offsets[n_groups] = place


@kernel
def place_groups(counts: NDArray[np.int64], offsets: NDArray[np.int64]) -> None:
    """Do :func:`set_places`."""
    set_places(counts, offsets)


@helper
def scatter_segment(
    fields: Fields,
    claims: NDArray[np.int64],
    n_staged: int,
    next_of_target: NDArray[np.int64],
    plan: NDArray[np.int64],
) -> None:
    """Copy one segment.

    ``next_of_target``, int64[n_targets + 1], is the next free place per target, counted up in place.
    """
    unknown = len(next_of_target) - 1
    target_mask = fields.nid_max << fields.nid_shift
    begin = 0
    while begin < n_staged:
        stop = min(n_staged, begin + 64)
        if stop == begin + 64:
            first, last = plain_load(claims, begin), plain_load(claims, stop - 1)
            if (first ^ last) & target_mask == 0 and differ_64(claims, begin, target_mask) == 0:
                target = min(target_of(fields, first), unknown)
                place = plain_load(next_of_target, target)
                plain_store(next_of_target, target, place + 64)
                copy_64(plan, place, claims, begin)
                begin = stop
        for index in range(begin, stop):
            claim = plain_load(claims, index)
            target = min(target_of(fields, claim), unknown)
            place = plain_load(next_of_target, target)
            plain_store(next_of_target, target, place + 1)
            prefetch(plan, place + _AHEAD)
            plain_store(plan, place, claim)
        begin = stop


@kernel
def scatter(
    fields: Fields,
    claims: NDArray[np.int64],
    n_staged: int,
    next_of_target: NDArray[np.int64],
    plan: NDArray[np.int64],
) -> None:
    """Do :func:`scatter_segment`."""
    scatter_segment(fields, claims, n_staged, next_of_target, plan)
