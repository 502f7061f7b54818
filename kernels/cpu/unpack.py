"""Reading a plan: staged claims, strip by strip, to their places, as pages of 64 bits and words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.atomics import plain_load, plain_store
from gpuscan.kernels.cpu.claims import offset_of, word_of
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.kernels.cpu.staging import N_STRIPS, STRIP_CLAIMS


@kernel
def sort_strips(
    owners: NDArray[np.int32],
    n_of_target: NDArray[np.int64],
    state: NDArray[np.int64],
    strips: NDArray[np.int64],
    next_of_target: NDArray[np.int64],
) -> None:
    """Sort the strips of a segment by target, those of a target as they were handed out.

    Args:
        owners, n_of_target, state: of the segment.
        strips: int64[n_strips] to fill.
        next_of_target: int64[n_targets + 1] to fill: how many strips are of this target or one before it.
    """
    n_strips = 0
    for target in range(len(n_of_target)):
        next_of_target[target] = n_strips
        n_strips += (n_of_target[target] + STRIP_CLAIMS - 1) // STRIP_CLAIMS
    for strip in range(state[N_STRIPS]):
        target = plain_load(owners, strip)
        place = plain_load(next_of_target, target)
        plain_store(next_of_target, target, place + 1)
        plain_store(strips, place, strip)


@kernel
def unpack(
    claims: NDArray[np.int64],
    n_of_target: NDArray[np.int64],
    strips: NDArray[np.int64],
    strips_until: NDArray[np.int64],
    starts: NDArray[np.int64],
    first_target: int,
    end_target: int,
    lo: int,
    hi: int,
    base: int,
    flats: NDArray[np.int64],
    words: NDArray[Any],
) -> None:
    """Write those claims of a segment that are elements ``[lo, hi)`` of the plan.

    Args:
        claims, n_of_target: of the segment.
        strips, strips_until: as :data:`sort_strips` leaves them.
        starts: int64[n_targets + 1], where its claims of each target begin in the plan.
        first_target, end_target: targets, among which all are that have any of these elements.
        lo, hi: what of the plan.
        base: first flat page of the scan's range.
        flats, words: as many elements as are asked for; the first is element ``lo``.
    """
    for target in range(first_target, end_target):
        start, n_claims = plain_load(starts, target), plain_load(n_of_target, target)
        first_strip = plain_load(strips_until, target) - (n_claims + STRIP_CLAIMS - 1) // STRIP_CLAIMS
        index, end = max(0, lo - start), min(n_claims, hi - start)
        while index < end:
            in_strip = index & (STRIP_CLAIMS - 1)
            strip = plain_load(strips, first_strip + index // STRIP_CLAIMS)
            n_here = min(STRIP_CLAIMS - in_strip, end - index)
            claim_at, to = strip * STRIP_CLAIMS + in_strip, start - lo + index
            for step in range(n_here):
                claim = plain_load(claims, claim_at + step)
                plain_store(flats, to + step, base + offset_of(words, claim))
                plain_store(words, to + step, word_of(words, claim))
            index += n_here
