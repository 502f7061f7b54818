"""Reading a plan: staged claims, strip by strip, to their places, as pages of 64 bits and words."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.atomics import plain_load, plain_store
from gpuscan.kernels.cpu.claims import offset_of, word_of
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.kernels.cpu.staging import N_STRIPS, STRIP_CLAIMS, length_of


@kernel
def unpack(
    claims: NDArray[np.int64],
    owners: NDArray[np.int32],
    places: NDArray[np.int64],
    n_of_target: NDArray[np.int64],
    state: NDArray[np.int64],
    next_of_target: NDArray[np.int64],
    lo: int,
    hi: int,
    base: int,
    flats: NDArray[np.int64],
    words: NDArray[Any],
) -> None:
    """Write those claims of a segment that are elements ``[lo, hi)`` of the plan.

    Args:
        claims, owners, places, n_of_target, state: the segment.
        next_of_target: int64[n_targets + 1], where its claims of each target begin in the plan; counted up.
        base: first flat page of the scan's range.
        flats, words: as many elements as are asked for; the first is element ``lo``.
    """
    for strip in range(state[N_STRIPS]):
        target = plain_load(owners, strip)
        length = length_of(places, strip, target)
        place = plain_load(next_of_target, target)
        plain_store(next_of_target, target, place + length)
        first = strip * STRIP_CLAIMS
        for index in range(max(0, lo - place), min(length, hi - place)):
            claim = plain_load(claims, first + index)
            plain_store(flats, place - lo + index, base + offset_of(words, claim))
            plain_store(words, place - lo + index, word_of(words, claim))
