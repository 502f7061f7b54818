"""One thing that is counted, by page and time: fine as long as it fits, and evenly coarser from then on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.heatmap.cells import COLUMN_BITS, FREE, add_cells, add_pages, add_to_image

N_CELLS_MAX = 1 << 20
"""Cells that a layer keeps by default."""
_NO_PAGES = np.empty(0, dtype=np.int64)
_FIRST_SLOTS = 1 << 14
_GROWS_BY = 4


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """What was counted: sparse, ascending by row and then by column.

    A cell is ``2^row_shift`` base pages by ``2^column_shift`` steps of time.

    Attributes:
        rows, columns: int64[n], of each cell that has something.
        counts: int64[n], above 0.
        row_shift, column_shift: how coarse it is; 0: single page frames, single steps.
        one_in: one of so many was looked at, and counted as that many; 1: all.
    """

    rows: NDArray[np.int64]
    columns: NDArray[np.int64]
    counts: NDArray[np.int64]
    row_shift: int
    column_shift: int
    one_in: int = 1

    def coarser(self, n_pages: int, n_steps: int) -> Layer:
        """Return the same at half the resolution, pages or time, whichever has more of it."""
        if n_pages >> self.row_shift >= n_steps >> self.column_shift:
            rows_by, columns_by = 1, 0
        else:
            rows_by, columns_by = 0, 1
        keys = (self.rows >> rows_by) << COLUMN_BITS | (self.columns >> columns_by)
        unique, where = np.unique(keys, return_inverse=True)
        counts = np.zeros(len(unique), dtype=np.int64)
        np.add.at(counts, where, self.counts)
        return Layer(
            unique >> COLUMN_BITS,
            unique & ((1 << COLUMN_BITS) - 1),
            counts,
            self.row_shift + rows_by,
            self.column_shift + columns_by,
            self.one_in,
        )

    def image(self, pages: tuple[int, int], steps: tuple[int, int], most: tuple[int, int]) -> Image:
        """Return a window as an image; its pixels are whole cells, so nothing is counted twice.

        Args:
            pages, steps: first and end, flat pages and steps of time; widened to whole cells.
            most: height and width, at most.
        """
        row, end_row = pages[0] >> self.row_shift, max(1, -(-pages[1] >> self.row_shift))
        column, end_column = steps[0] >> self.column_shift, max(1, -(-steps[1] >> self.column_shift))
        rows_each = -(-(end_row - row) // most[0])
        columns_each = -(-(end_column - column) // most[1])
        pixels = np.zeros((-(-(end_row - row) // rows_each), -(-(end_column - column) // columns_each)))
        part = slice(*np.searchsorted(self.rows, [row, end_row]).tolist())
        inside = (self.columns[part] >= column) & (self.columns[part] < end_column)
        add_to_image(
            pixels,
            self.rows[part][inside],
            self.columns[part][inside],
            self.counts[part][inside],
            row,
            column,
            rows_each,
            columns_each,
        )
        return Image(
            pixels,
            row << self.row_shift,
            rows_each << self.row_shift,
            column << self.column_shift,
            columns_each << self.column_shift,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Image:
    """A window of a layer.

    Attributes:
        pixels: float64[height, width], sums of counts; the first row has the lowest pages.
        first_page, pages_each: flat pages of the first row, and of each.
        first_step, steps_each: of time, likewise.
    """

    pixels: NDArray[np.float64]
    first_page: int
    pages_each: int
    first_step: int
    steps_each: int


class Counting:
    """A layer that is being counted. Memory: 64 bytes a cell at most, twice that while it grows.

    Args:
        n_pages: flat pages of the machine.
        n_cells_max: cells to keep; a power of two, or less by up to a half.
        one_in: of so many things one is handed over.
    """

    def __init__(self, n_pages: int, n_cells_max: int = N_CELLS_MAX, one_in: int = 1) -> None:
        self._n_pages = n_pages
        self._n_cells_max = max(1 << (n_cells_max.bit_length() - 1), _FIRST_SLOTS // 2)
        self._one_in = one_in
        self._row_shift = self._column_shift = 0
        self._last_step = 0
        self._keys, self._counts = _table(_FIRST_SLOTS)
        self._n_used = 0

    def add(self, step: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64] = _NO_PAGES) -> None:
        """Count base pages.

        Args:
            step: when.
            flats: int64[n], heads of folios; one of -1 is passed over.
            n_pages: int64[n], base pages of each; by default one.
        """
        self._last_step = max(self._last_step, step)
        while step >> self._column_shift >= 1 << COLUMN_BITS:
            self._rebuild(0, 1)
        done = 0
        while True:
            done, self._n_used = add_pages(
                self._keys,
                self._counts,
                self._n_used,
                len(self._keys) // 2,
                flats,
                n_pages,
                done,
                self._row_shift,
                step >> self._column_shift,
                self._one_in,
            )
            if done == len(flats):
                return
            self._make_room()

    def _make_room(self) -> None:
        if len(self._keys) < 2 * self._n_cells_max:
            self._rebuild(0, 0, min(_GROWS_BY * len(self._keys), 2 * self._n_cells_max))
            return
        wanted = max(1, self._n_used * 3 // 4)
        while True:
            if self._n_pages >> self._row_shift >= (self._last_step + 1) >> self._column_shift:
                self._rebuild(1, 0)
            else:
                self._rebuild(0, 1)
            if self._n_used <= wanted:
                return

    def _rebuild(self, rows_by: int, columns_by: int, n_slots: int = 0) -> None:
        keys, counts = _table(n_slots or len(self._keys))
        self._n_used = add_cells(keys, counts, self._keys, self._counts, rows_by, columns_by)
        self._keys, self._counts = keys, counts
        self._row_shift += rows_by
        self._column_shift += columns_by

    def layer(self) -> Layer:
        """Return what was counted so far."""
        taken = self._keys != FREE
        keys, counts = self._keys[taken], self._counts[taken]
        order = np.argsort(keys)
        keys, counts = keys[order], counts[order]
        return Layer(
            keys >> COLUMN_BITS,
            keys & ((1 << COLUMN_BITS) - 1),
            counts,
            self._row_shift,
            self._column_shift,
            self._one_in,
        )


def _table(n_slots: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return np.full(n_slots, FREE, dtype=np.int64), np.zeros(n_slots, dtype=np.int64)
