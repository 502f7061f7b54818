"""A claim as one word: the record that was taken, and above it where its page is.

The page is counted from the first one of the scan's range: 32 bits are left for that above records of 4
bytes. Staged and grouped like that a claim is one load and one store, and a plan has 8 bytes of it. Whoever
reads the plan is given 64-bit pages and records, made when he asks (:func:`unpack`).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.atomics import element_bits, plain_load, plain_store
from gpuscan.kernels.cpu.compile import helper, kernel


def pages_at_most(record_bits: int) -> int:
    """Return how many pages a scan covers at most. No machine has as many as fit above records of a byte."""
    return 1 << min(62, 64 - record_bits)


@helper
def claim_of(records: NDArray[Any], offset: int, word: int) -> int:
    """Return the claim of a page, counted from the first one of the range, and its word."""
    claim: int = (offset << element_bits(records)) | word
    return claim


@helper
def offset_of(records: NDArray[Any], claim: int) -> int:
    """Return where the page of a claim is in the range."""
    offset: int = (claim >> element_bits(records)) & ((1 << (64 - element_bits(records))) - 1)
    return offset


@helper
def word_of(records: NDArray[Any], claim: int) -> int:
    """Return the word that a claim took."""
    word: int = claim & ((1 << element_bits(records)) - 1)
    return word


def flats_of(claims: NDArray[np.int64], base: int, record_bits: int) -> NDArray[np.int64]:
    """Return int64[n], the flat pages of claims of a range that begins at ``base``."""
    offsets = claims.view(np.uint64) >> np.uint64(record_bits)
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
        plain_store(flats, index - lo, base + offset_of(words, claim))
        plain_store(words, index - lo, word_of(words, claim))
