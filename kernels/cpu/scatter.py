"""The stable scatter: staged claims, chunk by chunk, to their target's place in the plan.

Where 64 of them in a row have one target, as when a node is drained to the one next to it, they are copied.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Fields, Segment
from gpuscan.kernels.cpu.atomics import copy_64, differ_64, plain_load, plain_store, prefetch
from gpuscan.kernels.cpu.claim import N_RUNS
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
    segment: Segment,
    next_of_target: NDArray[np.int64],
    plan_flats: NDArray[np.int64],
    plan_words: NDArray[Any],
) -> None:
    """Copy one segment.

    ``next_of_target``, int64[n_targets + 1], is the next free place per target, counted up in place.
    """
    lows, words, runs, state = segment
    unknown = len(next_of_target) - 1
    target_mask = fields.nid_max << fields.nid_shift
    begin = 0
    for run in range(state[N_RUNS]):
        first = runs[run, 0] << 15
        end = runs[run, 1]
        while begin < end:
            stop = min(end, begin + 64)
            if stop == begin + 64 and differ_64(words, begin, target_mask) == 0:
                target = min(target_of(fields, plain_load(words, begin)), unknown)
                place = plain_load(next_of_target, target)
                plain_store(next_of_target, target, place + 64)
                copy_64(plan_flats, place, lows, begin, first)
                copy_64(plan_words, place, words, begin, 0)
                begin = stop
            for index in range(begin, stop):
                word = plain_load(words, index)
                target = min(target_of(fields, word), unknown)
                place = plain_load(next_of_target, target)
                plain_store(next_of_target, target, place + 1)
                prefetch(plan_flats, place + _AHEAD)
                prefetch(plan_words, place + _AHEAD)
                plain_store(plan_flats, place, first + plain_load(lows, index))
                plain_store(plan_words, place, word)
            begin = stop


@kernel
def scatter(
    fields: Fields,
    lows: NDArray[np.uint16],
    words: NDArray[Any],
    runs: NDArray[np.int64],
    state: NDArray[np.int64],
    next_of_target: NDArray[np.int64],
    plan_flats: NDArray[np.int64],
    plan_words: NDArray[Any],
) -> None:
    """Do :func:`scatter_segment`."""
    segment = Segment(lows, words, runs, state)
    scatter_segment(fields, segment, next_of_target, plan_flats, plan_words)
