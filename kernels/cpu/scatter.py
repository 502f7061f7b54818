"""The stable scatter: staged claims, chunk by chunk, to their target's place in the plan."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Fields
from gpuscan.kernels.cpu.atomics import plain_load
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.kernels.cpu.pages import target_of


@kernel
def scatter(
    fields: Fields,
    flats: NDArray[np.int64],
    words: NDArray[Any],
    n_staged: int,
    next_of_target: NDArray[np.int64],
    plan_flats: NDArray[np.int64],
    plan_words: NDArray[Any],
) -> None:
    """Copy one segment.

    ``next_of_target``, int64[n_targets + 1], is the next free place per target, counted up in place.
    """
    n_targets = len(next_of_target) - 1
    for index in range(n_staged):
        word = plain_load(words, index)
        target = min(target_of(fields, word), n_targets)
        place = next_of_target[target]
        next_of_target[target] = place + 1
        plan_flats[place] = flats[index]
        plan_words[place] = words[index]
