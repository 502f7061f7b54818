"""Where a model's records are READY: 64 looked at together, since a walk looks at all pages of a zone."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.atomics import count_trailing_zeros, match_64
from gpuscan.kernels.cpu.compile import kernel

_LANES = 64


@kernel
def find(records: NDArray[Any], start: int, n_groups: int, mask: int, found: NDArray[np.int64]) -> int:
    """Fill ``found`` with the positions from ``start`` on, in ``n_groups`` of 64, that have a bit of
    ``mask``; return how many there are, also where ``found`` is too short for them."""
    n_found = 0
    for group in range(n_groups):
        at = start + _LANES * group
        bits = match_64(records, at, mask)
        while bits != 0:
            if n_found < len(found):
                found[n_found] = at + count_trailing_zeros(bits)
            n_found += 1
            bits &= bits - 1
    return n_found


def ready_positions(records: NDArray[Any], lo: int, hi: int, mask: int) -> NDArray[np.int64]:
    """Return int64[n], the positions in ``[lo, hi)`` whose record has a bit of ``mask``, ascending.

    Args:
        records: uint8 or uint32[n], contiguous.
        lo, hi: first position, and the first behind.
        mask: of the records' width.
    """
    n_groups = (hi - lo) // _LANES
    rest = lo + n_groups * _LANES
    found = np.empty(max(_LANES, (hi - lo) >> 6), dtype=np.int64)
    step = find.for_bits(8 * records.itemsize)
    n_found = int(step(records, lo, n_groups, mask, found))
    if n_found > len(found):
        found = np.empty(n_found, dtype=np.int64)
        n_found = int(step(records, lo, n_groups, mask, found))
    tail = np.flatnonzero(records[rest:hi] & records.dtype.type(mask)) + rest
    return np.concatenate((found[:n_found], tail))
