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
def into_keys(
    pages: NDArray[np.int64], ends: NDArray[np.int64], columns: NDArray[np.int64], row_shift: int
) -> int:
    """Make pages the keys of their cells, in place, without those of -1; return how many there are.

    Args:
        pages: int64[n], flat.
        ends, columns: int64[m] each: pages up to an end, from the one before on, lie in its column.
        row_shift: a page's row is its flat index shifted by that.
    """
    at = n = 0
    for i in range(len(ends)):
        while at < ends[i]:
            if pages[at] >= 0:
                pages[n] = ((pages[at] >> row_shift) << COLUMN_BITS) | columns[i]
                n += 1
            at += 1
    return n


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


def sort_cells(
    keys: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return cells ascending by key; those with the same key stay in their order.

    Args:
        keys: int64[n], 0 or above; may be overwritten.
        counts: int64[n] of each, likewise; int64[0] where there are none.
    """
    return sort_between(keys, counts, np.empty_like(keys), np.empty_like(counts))


@compiled
def sort_between(
    keys: NDArray[np.int64],
    counts: NDArray[np.int64],
    spare: NDArray[np.int64],
    spare_counts: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Sort cells digit by digit, from one pair of arrays to the other and back; return where they end.

    Args:
        keys, counts: as :func:`sort_cells`.
        spare, spare_counts: as long as these; overwritten.
    """
    n, most, ascend, columns = len(keys), 0, True, (1 << COLUMN_BITS) - 1
    for at in range(n):
        most = max(most, keys[at])
        if at and keys[at] & columns < keys[at - 1] & columns:
            ascend = False
    shift = COLUMN_BITS if ascend else 0
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
def n_together(keys: NDArray[np.int64], others: NDArray[np.int64]) -> int:
    """Return how many different keys two have together.

    Args:
        keys: int64[n], ascending and all different.
        others: int64[m], ascending.
    """
    at = n = 0
    for i in range(len(others)):
        if i and others[i] == others[i - 1]:
            continue
        while at < len(keys) and keys[at] < others[i]:
            at += 1
        n += at == len(keys) or keys[at] != others[i]
    return n + len(keys)


@compiled
def merge(
    keys: NDArray[np.int64],
    counts: NDArray[np.int64],
    n: int,
    n_then: int,
    others: NDArray[np.int64],
    other_counts: NDArray[np.int64],
    weight: int,
) -> None:
    """Merge cells into others in place, from the last one on: what is not written yet is not overwritten.

    Args:
        keys, counts: int64[n_then or more], of which ``n`` are cells, ascending and all different.
        n_then: what :func:`n_together` says.
        others: int64[m], ascending.
        other_counts: int64[m] of each; int64[0]: 1 each.
        weight: what these are multiplied by.
    """
    to, i, j = n_then - 1, n - 1, len(others) - 1
    while j >= 0:
        key, count = others[j], 0
        while i >= 0 and keys[i] > key:
            keys[to], counts[to] = keys[i], counts[i]
            i -= 1
            to -= 1
        while j >= 0 and others[j] == key:
            count += other_counts[j] if len(other_counts) else 1
            j -= 1
        count *= weight
        if i >= 0 and keys[i] == key:
            count += counts[i]
            i -= 1
        keys[to], counts[to] = key, count
        to -= 1


@compiled
def add_to_image(
    image: NDArray[np.float64],
    keys: NDArray[np.int64],
    counts: NDArray[np.int64],
    first_row: int,
    first_column: int,
    rows_each: int,
    columns_each: int,
) -> Any:
    """Add cells to the pixels that they lie in; those outside the image are passed over.

    Args:
        image: float64[height, width], changed.
        keys, counts: int64[n] each.
        first_row, first_column: of the first pixel.
        rows_each, columns_each: of a pixel.
    """
    for at in range(len(keys)):
        y = ((keys[at] >> COLUMN_BITS) - first_row) // rows_each
        x = ((keys[at] & ((1 << COLUMN_BITS) - 1)) - first_column) // columns_each
        if 0 <= y < image.shape[0] and 0 <= x < image.shape[1]:
            image[y, x] += counts[at]
