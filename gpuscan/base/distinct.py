"""The different values of arrays of small numbers, such as nodes, without the hash of ``np.unique``."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

_SPREAD = 1 << 16
"""Values further apart are sorted after all."""


def distinct(values: NDArray[Any]) -> list[int]:
    """Return the different values of an array of integers, ascending."""
    if not len(values):
        return []
    lowest, highest = int(values.min()), int(values.max())
    if highest - lowest >= _SPREAD:
        found: list[int] = np.unique(values).tolist()
        return found
    if lowest == highest:
        return [lowest]
    seen = np.zeros(highest - lowest + 1, dtype=np.bool_)
    seen[values.astype(np.int64, copy=False) - lowest] = True
    return [lowest + value for value in np.flatnonzero(seen).tolist()]
