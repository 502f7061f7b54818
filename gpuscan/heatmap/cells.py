"""Counting by cell, compiled: an open-addressing table of (row, column) -> count.

A cell that nothing fell into takes no room. A key is ``row << COLUMN_BITS | column``; the table is a power of
two long and at most half full, so a look-up ends after a slot or two.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.compiled import compiled

COLUMN_BITS = 24
"""Of a key; the other 39 bits are the row's: 2 PiB of base pages."""
FREE = -1
"""Key of an empty slot."""
_GOLDEN = 0x9E37_79B9_7F4A_7C15
"""SplitMix64's increment (Steele, Lea and Flood, OOPSLA 2014): neighbours go far apart by its product."""


@compiled
def _slot_of(keys: NDArray[np.int64], key: int) -> Any:
    """Return the slot of a key, or the empty one that it may take."""
    mask = np.uint64(len(keys) - 1)
    slot = ((np.uint64(key) * np.uint64(_GOLDEN)) >> np.uint64(20)) & mask
    while keys[slot] != FREE and keys[slot] != key:
        slot = (slot + np.uint64(1)) & mask
    return slot


@compiled
def add_pages(
    keys: NDArray[np.int64],
    counts: NDArray[np.int64],
    n_used: int,
    limit: int,
    flats: NDArray[np.int64],
    n_pages: NDArray[np.int64],
    first: int,
    row_shift: int,
    column: int,
    weight: int,
) -> tuple[int, int]:
    """Count ``weight`` for every base page of folios, until the table has no room for one more.

    Args:
        keys, counts: int64[2^n], the table; changed.
        n_used: slots that are taken.
        limit: slots that may be.
        flats: int64[n], heads; one of -1 is passed over.
        n_pages: int64[n], base pages of each; empty: each has one.
        first: which of them comes first.
        row_shift, column: a page's row is its flat index shifted by that.
        weight: what a page counts.

    Returns:
        Where it stopped (``len(flats)``: nowhere), and how many slots are taken then.
    """
    single = len(n_pages) == 0
    for at in range(first, len(flats)):
        flat = flats[at]
        if flat < 0:
            continue
        end = flat + (1 if single else n_pages[at])
        row = flat >> row_shift
        last_row = (end - 1) >> row_shift
        if n_used + (last_row - row + 1) > limit:
            return at, n_used
        while row <= last_row:
            inside = min(end, (row + 1) << row_shift) - max(flat, row << row_shift)
            key = (row << COLUMN_BITS) | column
            slot = _slot_of(keys, key)
            if keys[slot] == FREE:
                keys[slot] = key
                n_used += 1
            counts[slot] += inside * weight
            row += 1
    return len(flats), n_used


@compiled
def add_cells(
    keys: NDArray[np.int64],
    counts: NDArray[np.int64],
    old_keys: NDArray[np.int64],
    old_counts: NDArray[np.int64],
    rows_by: int,
    columns_by: int,
) -> int:
    """Count all cells of one table into an empty one that is large enough; return how many slots it takes.

    Rows and columns become coarser by so many bits.
    """
    n_used = 0
    for at in range(len(old_keys)):
        key = old_keys[at]
        if key == FREE:
            continue
        column = (key & ((1 << COLUMN_BITS) - 1)) >> columns_by
        key = ((key >> COLUMN_BITS) >> rows_by) << COLUMN_BITS | column
        slot = _slot_of(keys, key)
        if keys[slot] == FREE:
            keys[slot] = key
            n_used += 1
        counts[slot] += old_counts[at]
    return n_used


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
