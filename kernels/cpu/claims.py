"""A claim as one word: where its page is, and the record that was taken.

The page is counted from the first one of the scan's range, so that 32 bits hold it; the record is in
the other 32. Staged and grouped like that a claim is one load and one store, and a plan has 8 bytes of
it. Whoever reads the plan is given 64-bit pages and records, made when he asks (:func:`unpack`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.atomics import plain_load, plain_store
from gpuscan.kernels.cpu.compile import helper, kernel

_OFFSET_SHIFT = 32
"""Of a claim: where the page is, above the record."""
OFFSETS = 1 << 32
"""Pages that a scan covers at most."""
_LOW_BITS = OFFSETS - 1


@helper
def claim_of(offset: int, word: int) -> int:
    """Return the claim of a page, counted from the first one of the range, and its word."""
    return (offset << _OFFSET_SHIFT) | word


@helper
def offset_of(claim: int) -> int:
    """Return where the page of a claim is in the range."""
    return (claim >> _OFFSET_SHIFT) & _LOW_BITS


@helper
def word_of(claim: int) -> int:
    """Return the word that a claim took."""
    return claim & _LOW_BITS


def flats_of(claims: NDArray[np.int64], base: int) -> NDArray[np.int64]:
    """Return int64[n], the flat pages of claims of a range that begins at ``base``."""
    offsets = claims.view(np.uint64) >> np.uint64(_OFFSET_SHIFT)
    flats: NDArray[np.int64] = offsets.astype(np.int64) + base
    return flats


@kernel
def unpack(
    claims: NDArray[np.int64],
    lo: int,
    hi: int,
    base: int,
    flats: NDArray[np.int64],
    words: NDArray[Any],
) -> None:
    """Take claims ``[lo, hi)`` apart, of a range that begins at ``base``, into as many elements."""
    for index in range(lo, hi):
        claim = plain_load(claims, index)
        plain_store(flats, index - lo, base + offset_of(claim))
        plain_store(words, index - lo, word_of(claim))
