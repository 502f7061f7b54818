"""Reading a plan: staged claims, strip by strip, to their places, as pages of 64 bits and words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Segment
from gpuscan.kernels.cpu.atomics import plain_load, plain_store
from gpuscan.kernels.cpu.claims import offset_of, word_of
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.staging import N_STRIPS, STRIP_CLAIMS, length_of


@kernel
def place_strips(
    owners: NDArray[np.int32],
    places: NDArray[np.int64],
    n_of_target: NDArray[np.int64],
    state: NDArray[np.int64],
    next_of_target: NDArray[np.int64],
    begins: NDArray[np.int64],
    strips_of_target: NDArray[np.int64],
    strips: NDArray[np.int64],
) -> None:
    """Find where in the plan the strips of a segment are, and sort them by target.

    Args:
        owners, places, n_of_target, state: of the segment.
        next_of_target: int64[n_targets + 1], where its claims of each target begin in the plan; counted up.
        begins: int64[n_strips] to fill, where each strip begins in the plan.
        strips_of_target: int64[n_targets + 2] to fill, where in ``strips`` those of each target begin.
        strips: int64[n_strips] to fill, those of a target as they were handed out.
    """
    strips_of_target[0] = 0
    for target in range(len(n_of_target)):
        n_strips = (n_of_target[target] + STRIP_CLAIMS - 1) // STRIP_CLAIMS
        strips_of_target[target + 1] = strips_of_target[target] + n_strips
    for strip in range(state[N_STRIPS]):
        target = plain_load(owners, strip)
        place = plain_load(next_of_target, target)
        plain_store(begins, strip, place)
        plain_store(next_of_target, target, place + length_of(places, strip, target))
        sorted_at = plain_load(strips_of_target, target)
        plain_store(strips_of_target, target, sorted_at + 1)
        plain_store(strips, sorted_at, strip)
    for target in range(len(n_of_target), 0, -1):  # each has become where the next one's begin
        strips_of_target[target] = strips_of_target[target - 1]
    strips_of_target[0] = 0


@helper
def _write(
    claims: NDArray[np.int64],
    first: int,
    begin: int,
    end: int,
    base: int,
    flats: NDArray[np.int64],
    words: NDArray[Any],
    place: int,
) -> None:
    """Write claims ``[begin, end)`` of the strip that begins at ``first``; the strip's place is ``place``."""
    for index in range(begin, end):
        claim = plain_load(claims, first + index)
        plain_store(flats, place + index, base + offset_of(words, claim))
        plain_store(words, place + index, word_of(words, claim))


@kernel
def unpack(
    claims: NDArray[np.int64],
    owners: NDArray[np.int32],
    places: NDArray[np.int64],
    begins: NDArray[np.int64],
    strips: NDArray[np.int64],
    lo: int,
    hi: int,
    base: int,
    flats: NDArray[np.int64],
    words: NDArray[Any],
) -> None:
    """Write those claims of strips of a segment that are elements ``[lo, hi)`` of the plan.

    Args:
        claims, owners, places: of the segment.
        begins: int64[n_strips], where each strip begins in the plan.
        strips: int64[n], which; in the order in which they were handed out they are read the fastest.
        lo, hi: what of the plan.
        base: first flat page of the scan's range.
        flats, words: as many elements as are asked for; the first is element ``lo``.
    """
    for each in range(len(strips)):
        strip = plain_load(strips, each)
        length = length_of(places, strip, plain_load(owners, strip))
        place, first = plain_load(begins, strip), strip * STRIP_CLAIMS
        begin, end = max(0, lo - place), min(length, hi - place)
        _write(claims, first, begin, end, base, flats, words, place - lo)


@helper
def unpack_whole(
    segment: Segment,
    base: int,
    offsets: NDArray[np.int64],
    flats: NDArray[np.int64],
    words: NDArray[Any],
) -> None:
    """Write a plan of one segment.

    Args:
        segment: it.
        base: first flat page of the scan's range.
        offsets: int64[n_targets + 2] to fill, where the claims of each target begin, unknown ones last.
        flats, words: as many elements as claims, or more.
    """
    n_groups = len(segment.n_of_target)
    offsets[0] = offsets[1] = 0
    for target in range(n_groups - 1):
        offsets[target + 2] = offsets[target + 1] + segment.n_of_target[target]
    for strip in range(segment.state[N_STRIPS]):
        target = plain_load(segment.owners, strip)
        place, first = plain_load(offsets, target + 1), strip * STRIP_CLAIMS
        length = length_of(segment.places, strip, target)
        plain_store(offsets, target + 1, place + length)  # becomes where the next target's begin
        _write(segment.claims, first, 0, length, base, flats, words, place)
