"""A claim as one word: the record that was taken, and above it where its page is.

The page is counted from the first one of the scan's range: 32 bits are left for that above records of 4
bytes. Staged like that a claim is one store of 8 bytes. Whoever reads the plan is given 64-bit pages and
records, made when he asks (:mod:`gpuscan.kernels.cpu.unpack`).
"""

from __future__ import annotations

from typing import Any

from numpy.typing import NDArray

from gpuscan.kernels.cpu.atomics import element_bits
from gpuscan.kernels.cpu.compile import helper


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
