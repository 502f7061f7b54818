"""One thing that was counted, by page and time: sparse, as fine as it was kept, or coarser."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from gpuscan.heatmap.cells import COLUMN_BITS, add_to_image, add_up, sort_cells

_COLUMNS = (1 << COLUMN_BITS) - 1
_STRETCHES = 4


@dataclass(frozen=True, slots=True, eq=False)
class Layer:
    """What was counted: sparse, ascending by row and then by column.

    A cell is ``2^row_shift`` base pages by ``2^column_shift`` steps of time.

    Attributes:
        keys: int64[n], of each cell that has something, see :mod:`gpuscan.heatmap.cells`.
        counts: int64[n], above 0.
        row_shift, column_shift: how coarse it is; 0: single page frames, single steps.
        one_in: one of so many was looked at, and counted as that many; 1: all.
    """

    keys: NDArray[np.int64]
    counts: NDArray[np.int64]
    row_shift: int
    column_shift: int
    one_in: int = 1

    @classmethod
    def of(
        cls,
        rows: NDArray[np.int64],
        columns: NDArray[np.int64],
        counts: NDArray[np.int64],
        row_shift: int,
        column_shift: int,
        one_in: int = 1,
    ) -> Layer:
        """Return a layer of cells that ascend."""
        return cls(rows << COLUMN_BITS | columns, counts, row_shift, column_shift, one_in)

    @property
    def n_cells(self) -> int:
        """How many cells have something."""
        return len(self.keys)

    @property
    def rows(self) -> NDArray[np.int64]:
        """int64[n], of each cell; made when asked for."""
        return self.keys >> COLUMN_BITS

    @property
    def columns(self) -> NDArray[np.int64]:
        """int64[n], likewise."""
        return self.keys & _COLUMNS

    @property
    def last_row(self) -> int:
        """Of the cells; 0 if there is none."""
        return int(self.keys[-1]) >> COLUMN_BITS if len(self.keys) else 0

    def coarser(self, n_pages: int, n_steps: int) -> Layer:
        """Return the same at half the resolution, pages or time, whichever has more of it.

        Of more than one cell that makes fewer, if not at once: no cell lies beyond what is halved, even where
        a file has cells after the last step.
        """
        n_columns = max(n_steps >> self.column_shift, int(self.columns.max(initial=0)))
        n_rows = max(n_pages >> self.row_shift, self.last_row)
        if n_rows >= n_columns:
            return self.at(self.row_shift + 1, self.column_shift)
        return self.at(self.row_shift, self.column_shift + 1)

    def at(self, row_shift: int, column_shift: int) -> Layer:
        """Return the same as coarse as that; finer than it is it cannot be."""
        keys = coarser_keys(self.keys, row_shift - self.row_shift, column_shift - self.column_shift)
        keys, counts = sort_cells(keys, self.counts.copy())
        n = add_up(keys, counts)
        return Layer(keys[:n], counts[:n], row_shift, column_shift, self.one_in)

    def says_same(self, other: Layer) -> bool:
        """Whether both have the same cells."""
        shifts = self.row_shift, self.column_shift, self.one_in
        return (
            shifts == (other.row_shift, other.column_shift, other.one_in)
            and np.array_equal(self.keys, other.keys)
            and np.array_equal(self.counts, other.counts)
        )

    def part(self, one_in: int) -> Layer:
        """Return about one in so many cells, in a few long stretches: what they say holds for all."""
        n_stretches = one_in * _STRETCHES
        length = -(-self.n_cells // n_stretches)
        kept = np.arange(self.n_cells) // max(1, length) % one_in == 0
        return replace(self, keys=self.keys[kept], counts=self.counts[kept])

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
        part = slice(*np.searchsorted(self.keys, [row << COLUMN_BITS, end_row << COLUMN_BITS]).tolist())
        columns = self.keys[part] & _COLUMNS
        inside = (columns >= column) & (columns < end_column)
        add_to_image(
            pixels,
            self.keys[part][inside],
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


def coarser_keys(keys: NDArray[np.int64], rows_by: int, columns_by: int) -> NDArray[np.int64]:
    """Return the keys of the cells that these are parts of, when rows and columns are shifted by so much."""
    columns = (keys & _COLUMNS) >> columns_by
    return ((keys >> COLUMN_BITS) >> rows_by) << COLUMN_BITS | columns
