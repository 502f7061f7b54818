"""Counting by cell: sorted arrays of what lies in which cell, and the compiled steps that go through them.

A cell that nothing fell into takes no room. Its key is ``row << COLUMN_BITS | column``. Points are gathered
and sorted: that takes a fraction of what a look-up for each in a table beyond the caches takes. They come as
time passes, so only their rows are to be sorted, by digits: a fifth of what a sort by comparisons takes.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.compiled import compiled

COLUMN_BITS = 24
"""Of a key; the other 39 bits are the row's: 2 PiB of base pages."""


@compiled
def spread(
    keys: NDArray[np.int64],
    counts: NDArray[np.int64],
    flats: NDArray[np.int64],
    n_pages: NDArray[np.int64],
    row_shift: int,
    column: int,
) -> None:
    """Fill in the cells that folios lie in, folio by folio.

    Args:
        keys, counts: int64[n_cells], written: as many as the folios have rows.
        flats: int64[n], heads.
        n_pages: int64[n], base pages of each.
        row_shift, column: a page's row is its flat index shifted by that.
    """
    at = 0
    for i in range(len(flats)):
        first, end = flats[i], flats[i] + n_pages[i]
        for row in range(first >> row_shift, ((end - 1) >> row_shift) + 1):
            keys[at] = (row << COLUMN_BITS) | column
            counts[at] = min(end, (row + 1) << row_shift) - max(first, row << row_shift)
            at += 1


_DIGIT_BITS = 11
"""Of a key, sorted by at once: as many counters fit the first cache."""


@compiled
def sort_cells(
    keys: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return cells ascending by key, digit by digit; those with the same key stay in their order.

    Args:
        keys: int64[n], 0 or above; may be overwritten.
        counts: int64[n] of each, likewise; int64[0] where there are none.
    """
    n, most, ascend, columns = len(keys), 0, True, (1 << COLUMN_BITS) - 1
    for at in range(n):
        most = max(most, keys[at])
        if at and keys[at] & columns < keys[at - 1] & columns:
            ascend = False
    shift = COLUMN_BITS if ascend else 0
    spare, spare_counts = np.empty_like(keys), np.empty_like(counts)
    begins = np.empty(1 << _DIGIT_BITS, dtype=np.int64)
    while shift < 63 and most >> shift:  # a shift by 64 or more is whatever the machine makes of it
        begins[:] = 0
        for at in range(n):
            begins[(keys[at] >> shift) & ((1 << _DIGIT_BITS) - 1)] += 1
        if begins[(keys[0] >> shift) & ((1 << _DIGIT_BITS) - 1)] < n:  # else all have the same digit
            begin = 0
            for digit in range(1 << _DIGIT_BITS):
                begins[digit], begin = begin, begin + begins[digit]
            for at in range(n):
                digit = (keys[at] >> shift) & ((1 << _DIGIT_BITS) - 1)
                spare[begins[digit]] = keys[at]
                if len(counts):
                    spare_counts[begins[digit]] = counts[at]
                begins[digit] += 1
            keys, spare = spare, keys
            counts, spare_counts = spare_counts, counts
        shift += _DIGIT_BITS
    return keys, counts


@compiled
def add_up(keys: NDArray[np.int64], counts: NDArray[np.int64]) -> int:
    """Make one cell of neighbours that are the same, in place; return how many cells there are then."""
    n = 0
    for at in range(len(keys)):
        if n and keys[n - 1] == keys[at]:
            counts[n - 1] += counts[at]
        else:
            keys[n] = keys[at]
            counts[n] = counts[at]
            n += 1
    return n


@compiled
def merge(
    keys: NDArray[np.int64],
    counts: NDArray[np.int64],
    one_keys: NDArray[np.int64],
    one_counts: NDArray[np.int64],
    other_keys: NDArray[np.int64],
    other_counts: NDArray[np.int64],
) -> int:
    """Merge the cells of two, each ascending and all different, into ``keys`` and ``counts``, which have room
    for all; return how many cells there are."""
    i = j = n = 0
    while i < len(one_keys) or j < len(other_keys):
        if j == len(other_keys) or (i < len(one_keys) and one_keys[i] < other_keys[j]):
            keys[n], counts[n] = one_keys[i], one_counts[i]
            i += 1
        elif i == len(one_keys) or other_keys[j] < one_keys[i]:
            keys[n], counts[n] = other_keys[j], other_counts[j]
            j += 1
        else:
            keys[n], counts[n] = one_keys[i], one_counts[i] + other_counts[j]
            i += 1
            j += 1
        n += 1
    return n


@compiled
def add_to_image(
    image: NDArray[np.float64],
    rows: NDArray[np.int64],
    columns: NDArray[np.int64],
    counts: NDArray[np.int64],
    first_row: int,
    first_column: int,
    rows_each: int,
    columns_each: int,
) -> Any:
    """Add cells to the pixels that they lie in; those outside the image are passed over.

    Args:
        image: float64[height, width], changed.
        rows, columns, counts: int64[n] each.
        first_row, first_column: of the first pixel.
        rows_each, columns_each: of a pixel.
    """
    for at in range(len(rows)):
        y = (rows[at] - first_row) // rows_each
        x = (columns[at] - first_column) // columns_each
        if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
            image[y, x] += counts[at]
