"""One thing that is counted, by page and time: fine as long as it fits, and evenly coarser from then on."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base import documents as checked
from gpuscan.base.errors import ArgumentError
from gpuscan.heatmap.cells import COLUMN_BITS, add_to_image, add_up, merge, spread

N_CELLS_MAX = 1 << 20
"""Cells that a layer keeps by default."""
_NO_PAGES = np.empty(0, dtype=np.int64)
_GATHERED_MAX = 1 << 20
"""Points that are gathered before they are sorted."""
_KEYS, _COUNTS = ("keys", "folio_keys", "points"), ("counts", "folio_counts")
_STATE = (*_KEYS, *_COUNTS, "row_shift", "column_shift", "last_step")
_SHIFT_MAX = 40
_SUM_MAX = 1 << 62
"""Of all counts that are restored: what is counted from there on fits 63 bits."""
_STRETCHES = 4
_FOLIOS_AT_ONCE = 1 << 11
"""Of a folio there may be a point for each of its pages."""


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
        """Return the same at half the resolution, pages or time, whichever has more of it.

        Of more than one cell that makes fewer, if not at once: no cell lies beyond what is halved, even where
        a file has cells after the last step.
        """
        n_columns = max(n_steps >> self.column_shift, int(self.columns.max(initial=0)))
        n_rows = max(n_pages >> self.row_shift, int(self.rows.max(initial=0)))
        if n_rows >= n_columns:
            return self.at(self.row_shift + 1, self.column_shift)
        return self.at(self.row_shift, self.column_shift + 1)

    def at(self, row_shift: int, column_shift: int) -> Layer:
        """Return the same as coarse as that; finer than it is it cannot be."""
        rows_by, columns_by = row_shift - self.row_shift, column_shift - self.column_shift
        keys = (self.rows >> rows_by) << COLUMN_BITS | (self.columns >> columns_by)
        order = np.argsort(keys, kind="stable")  # which is fast where most is in order already
        keys = keys[order]
        first = np.flatnonzero(np.diff(keys, prepend=-1))
        unique, counts = keys[first], np.add.reduceat(self.counts[order], first) if len(first) else _NO_PAGES
        return Layer(
            unique >> COLUMN_BITS,
            unique & ((1 << COLUMN_BITS) - 1),
            counts,
            row_shift,
            column_shift,
            self.one_in,
        )

    def part(self, one_in: int) -> Layer:
        """Return about one in so many cells, in a few long stretches: what they say holds for all."""
        n_stretches = one_in * _STRETCHES
        length = -(-len(self.rows) // n_stretches)
        kept = np.arange(len(self.rows)) // max(1, length) % one_in == 0
        return replace(self, rows=self.rows[kept], columns=self.columns[kept], counts=self.counts[kept])

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
    """A layer that is being counted.

    Memory: 16 bytes a cell and as much a gathered point, twice that while they merge.

    Args:
        n_pages: flat pages of the machine.
        n_cells_max: cells to keep.
        one_in: of so many things one is handed over.
    """

    def __init__(self, n_pages: int, n_cells_max: int = N_CELLS_MAX, one_in: int = 1) -> None:
        self._n_pages = n_pages
        self._n_cells_max = n_cells_max
        self._one_in = one_in
        self._row_shift = self._column_shift = 0
        self._last_step = 0
        self._keys, self._counts = _NO_PAGES, _NO_PAGES
        self._points: list[NDArray[np.int64]] = []
        self._folios: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._n_gathered = 0

    def add(self, step: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64] = _NO_PAGES) -> None:
        """Count base pages.

        Args:
            step: when.
            flats: int64[n], heads of folios; one of -1 is passed over.
            n_pages: int64[n], base pages of each; by default one.
        """
        self._last_step = max(self._last_step, step)
        while step >> self._column_shift >= 1 << COLUMN_BITS:
            self._settle()
            self._coarsen(0, 1)
        is_one = flats >= 0
        if not is_one.all():
            flats, n_pages = flats[is_one], n_pages[is_one] if len(n_pages) else n_pages
        if not len(n_pages) or n_pages.max() == 1:
            for start in range(0, len(flats), _GATHERED_MAX):
                self._gather(step, flats[start : start + _GATHERED_MAX])
        else:
            for start in range(0, len(flats), _FOLIOS_AT_ONCE):
                part = slice(start, start + _FOLIOS_AT_ONCE)
                self._gather_folios(step, flats[part], n_pages[part])

    def _gather(self, step: int, flats: NDArray[np.int64]) -> None:
        self._points.append((flats >> self._row_shift) << COLUMN_BITS | (step >> self._column_shift))
        self._gathered(len(flats))

    def _gather_folios(self, step: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64]) -> None:
        n_rows = ((flats + n_pages - 1) >> self._row_shift) - (flats >> self._row_shift) + 1
        keys, counts = np.empty((2, int(n_rows.sum())), dtype=np.int64)
        spread(keys, counts, flats, n_pages, self._row_shift, step >> self._column_shift)
        self._folios.append((keys, counts))
        self._gathered(len(keys))

    def _gathered(self, n: int) -> None:
        self._n_gathered += n
        if self._n_gathered >= _GATHERED_MAX:
            self._settle()

    def _settle(self) -> None:
        """Sort what was gathered into the cells, and keep no more of them than there may be."""
        if self._points:
            points = np.concatenate(self._points)
            points.sort()
            self._merge(points, np.full(len(points), self._one_in, dtype=np.int64))
        if self._folios:
            keys, counts = (np.concatenate(each) for each in zip(*self._folios, strict=True))
            order = np.argsort(keys)
            self._merge(keys[order], counts[order] * self._one_in)
        self._points, self._folios, self._n_gathered = [], [], 0
        if len(self._keys) > self._n_cells_max:
            wanted = max(1, self._n_cells_max * 3 // 4)
            while len(self._keys) > wanted:
                has_more_rows = (
                    self._n_pages >> self._row_shift >= (self._last_step + 1) >> self._column_shift
                )
                self._coarsen(*((1, 0) if has_more_rows else (0, 1)))

    def _merge(self, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Add cells that ascend, of which neighbours may be the same."""
        n = add_up(keys, counts)
        if not len(self._keys):
            self._keys, self._counts = keys[:n].copy(), counts[:n].copy()
            return
        merged, sums = np.empty((2, len(self._keys) + n), dtype=np.int64)
        n = merge(merged, sums, self._keys, self._counts, keys[:n], counts[:n])
        self._keys, self._counts = merged[:n].copy(), sums[:n].copy()

    def _coarsen(self, rows_by: int, columns_by: int) -> None:
        columns = (self._keys & ((1 << COLUMN_BITS) - 1)) >> columns_by
        keys = ((self._keys >> COLUMN_BITS) >> rows_by) << COLUMN_BITS | columns
        order = np.argsort(keys)
        keys, counts = keys[order], self._counts[order]
        n = add_up(keys, counts)
        self._keys, self._counts = keys[:n].copy(), counts[:n].copy()
        self._row_shift += rows_by
        self._column_shift += columns_by

    def state(self) -> dict[str, Any]:
        """Return all that counting has changed.

        What is gathered is not sorted for it: when that is done decides how coarse a layer becomes.
        """
        self._points = [np.concatenate([_NO_PAGES, *self._points])]
        folios = [(_NO_PAGES, _NO_PAGES), *self._folios]
        keys, counts = (np.concatenate(each) for each in zip(*folios, strict=True))
        self._folios = [(keys, counts)]
        return {
            "row_shift": self._row_shift,
            "column_shift": self._column_shift,
            "last_step": self._last_step,
            "keys": self._keys,
            "counts": self._counts,
            "points": self._points[0],
            "folio_keys": keys,
            "folio_counts": counts,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what :meth:`state` was taken of, of as many pages.

        Raises:
            ArgumentError: that was something else.
        """
        found = checked.table(state, "a layer of the map", _STATE)
        row_shift = checked.whole(found["row_shift"], 0, _SHIFT_MAX, "row_shift")
        column_shift = checked.whole(found["column_shift"], 0, _SHIFT_MAX, "column_shift")
        last_step = checked.whole(found["last_step"], 0, checked.TIME_NS_MAX, "last_step")
        last_column = checked.whole(last_step >> column_shift, 0, (1 << COLUMN_BITS) - 1, "the last column")
        end = ((self._n_pages - 1 >> row_shift) + 1) << COLUMN_BITS
        arrays = [
            checked.array(found[name], np.int64, f"{name} of the map", lowest=0, end=end) for name in _KEYS
        ]
        for name, keys, most in zip(_KEYS, arrays, self._lengths_max(), strict=True):
            if len(keys) > most:
                raise ArgumentError(f"{name} of the map has {len(keys)} elements, more than {most}")
        counts = [
            checked.array(found[name], np.int64, f"{name} of the map", n=len(keys), lowest=1)
            for name, keys in zip(_COUNTS, arrays, strict=False)
        ]
        if (np.diff(arrays[0]) <= 0).any():
            raise ArgumentError("keys of the map do not ascend")
        if any(int((keys & ((1 << COLUMN_BITS) - 1)).max(initial=0)) > last_column for keys in arrays):
            raise ArgumentError("keys of the map lie after its last step")
        if sum(float(each.sum(dtype=np.float64)) for each in counts) > _SUM_MAX / self._one_in:
            raise ArgumentError("counts of the map are more than can have happened")
        self._row_shift, self._column_shift, self._last_step = row_shift, column_shift, last_step
        (self._keys, folio_keys, points), (self._counts, folio_counts) = arrays, counts
        self._points, self._folios = [points], [(folio_keys, folio_counts)]
        self._n_gathered = len(points) + len(folio_keys)

    def _lengths_max(self) -> tuple[int, int, int]:
        """Return how many cells, gathered cells of folios, and gathered points there may be."""
        return self._n_cells_max + _GATHERED_MAX, 2 * _GATHERED_MAX, 2 * _GATHERED_MAX

    def latest_ns(self, step_ns: int) -> int:
        """Return the beginning of the last step that something fell into."""
        return self._last_step * step_ns

    def layer(self) -> Layer:
        """Return what was counted so far."""
        self._settle()
        return Layer(
            self._keys >> COLUMN_BITS,
            self._keys & ((1 << COLUMN_BITS) - 1),
            self._counts,
            self._row_shift,
            self._column_shift,
            self._one_in,
        )
