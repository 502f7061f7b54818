"""One thing that is counted, by page and time: fine as long as it fits, and evenly coarser from then on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base import documents as checked
from gpuscan.base.errors import ArgumentError
from gpuscan.heatmap.cells import COLUMN_BITS, add_to_image, add_up, merge, sort_cells, spread

N_CELLS_MAX = 1 << 20
"""Cells that a layer keeps by default."""
_NO_PAGES = np.empty(0, dtype=np.int64)
_GATHERED_MAX = 1 << 19
"""Points that are gathered before they are sorted."""
_RESTORED_MAX = 1 << 21
"""An earlier gpuscan gathered twice as many, and of each of the last folios there may be 512."""
_KEYS, _COUNTS = ("keys", "folio_keys", "points"), ("counts", "folio_counts")
_STATE = (*_KEYS, *_COUNTS, "row_shift", "column_shift", "gathered_at", "last_step")
_SHIFT_MAX = 40
_SUM_MAX = 1 << 62
"""Of all counts that are restored: what is counted from there on fits 63 bits."""
_STRETCHES = 4
_WASTED_ONE_IN = 8
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
        keys, counts = sort_cells(keys, self.counts.copy())
        n = add_up(keys, counts)
        return Layer(*_cells(keys[:n], counts[:n]), row_shift, column_shift, self.one_in)

    def says_same(self, other: Layer) -> bool:
        """Whether both have the same cells."""
        shifts = self.row_shift, self.column_shift, self.one_in
        return shifts == (other.row_shift, other.column_shift, other.one_in) and all(
            np.array_equal(one, another)
            for one, another in (
                (self.rows, other.rows),
                (self.columns, other.columns),
                (self.counts, other.counts),
            )
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

    What was gathered is sorted into the cells when it is enough, beside the caller where there is a pool.
    When that is follows from what was told alone, so the same calls make the same layer.

    Memory: 16 bytes a cell and as much a gathered point, twice that while they merge.

    Args:
        n_pages: flat pages of the machine.
        n_cells_max: cells to keep.
        one_in: of so many things one is handed over.
        pool: of threads that sort; None: the caller's own does.
        row_shift_max: a cell has no more pages than that; then only time becomes coarser.

    Attributes:
        n_pages: so; it may grow.
    """

    def __init__(
        self,
        n_pages: int,
        n_cells_max: int = N_CELLS_MAX,
        one_in: int = 1,
        pool: ThreadPoolExecutor | None = None,
        row_shift_max: int = _SHIFT_MAX,
    ) -> None:
        self.n_pages = n_pages
        self._n_cells_max = n_cells_max
        self._one_in = one_in
        self._pool = pool
        self._row_shift_max = row_shift_max
        self._sorting: Future[None] | None = None
        self._row_shift = self._column_shift = 0
        self._gathered_at = (0, 0)
        """Shifts of what is being gathered: those of the cells may have become larger meanwhile."""
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
        while step >> self._gathered_at[1] >= 1 << COLUMN_BITS:
            self._rest()
            self._coarsen(0, 1)
            self._gathered_at = self._shifts
        self._last_step = max(self._last_step, step)
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

    @property
    def _shifts(self) -> tuple[int, int]:
        return self._row_shift, self._column_shift

    def _gather(self, step: int, flats: NDArray[np.int64]) -> None:
        row_shift, column_shift = self._gathered_at
        self._points.append((flats >> row_shift) << COLUMN_BITS | (step >> column_shift))
        self._gathered(len(flats))

    def _gather_folios(self, step: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64]) -> None:
        row_shift, column_shift = self._gathered_at
        n_rows = ((flats + n_pages - 1) >> row_shift) - (flats >> row_shift) + 1
        keys, counts = np.empty((2, int(n_rows.sum())), dtype=np.int64)
        spread(keys, counts, flats, n_pages, row_shift, step >> column_shift)
        self._folios.append((keys, counts))
        self._gathered(len(keys))

    def _gathered(self, n: int) -> None:
        self._n_gathered += n
        if self._n_gathered >= _GATHERED_MAX:
            self.settle()

    def settle(self) -> None:
        """Have what was gathered sorted into the cells; where there is a pool, nobody waits for it."""
        self._wait()
        gathered = self._points, self._folios, self._gathered_at, self._last_step
        self._points, self._folios, self._n_gathered = [], [], 0
        self._gathered_at = self._shifts
        if self._pool is None:
            self._sort(*gathered)
        else:
            self._sorting = self._pool.submit(self._sort, *gathered)

    def leave_pool(self) -> None:
        """Let the caller itself sort from now on."""
        self._wait()
        self._pool = None

    def _wait(self) -> None:
        """Let what is being sorted be in the cells."""
        if self._sorting is not None:
            self._sorting.result()
            self._sorting = None

    def _rest(self) -> None:
        """Let all that was gathered be in the cells."""
        self.settle()
        self._wait()

    def _sort(
        self,
        points: list[NDArray[np.int64]],
        folios: list[tuple[NDArray[np.int64], NDArray[np.int64]]],
        gathered_at: tuple[int, int],
        last_step: int,
    ) -> None:
        """Sort what was gathered into the cells, and keep no more of them than there may be."""
        if points:
            keys, _ = sort_cells(self._here(np.concatenate(points), gathered_at), _NO_PAGES)
            self._merge(keys, np.full(len(keys), self._one_in, dtype=np.int64))
        if folios:
            keys, counts = (np.concatenate(each) for each in zip(*folios, strict=True))
            self._merge(*sort_cells(self._here(keys, gathered_at), counts * self._one_in))
        if len(self._keys) > self._n_cells_max:
            wanted = max(1, self._n_cells_max * 3 // 4)
            while len(self._keys) > wanted:
                n_rows, n_columns = self.n_pages >> self._row_shift, (last_step + 1) >> self._column_shift
                is_by_rows = n_rows >= n_columns and self._row_shift < self._row_shift_max
                self._coarsen(*((1, 0) if is_by_rows else (0, 1)))

    def _here(self, keys: NDArray[np.int64], gathered_at: tuple[int, int]) -> NDArray[np.int64]:
        """Return keys as coarse as the cells are."""
        if gathered_at == self._shifts:
            return keys
        return _coarser(keys, self._row_shift - gathered_at[0], self._column_shift - gathered_at[1])

    def _merge(self, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Add cells that ascend, of which neighbours may be the same."""
        n = add_up(keys, counts)
        if not len(self._keys):
            self._keys, self._counts = _cut(keys, n), _cut(counts, n)
            return
        merged, sums = np.empty((2, len(self._keys) + n), dtype=np.int64)
        n = merge(merged, sums, self._keys, self._counts, keys[:n], counts[:n])
        self._keys, self._counts = _cut(merged, n), _cut(sums, n)

    def _coarsen(self, rows_by: int, columns_by: int) -> None:
        keys, counts = sort_cells(
            _coarser(self._keys, rows_by, columns_by), self._counts.copy()
        )  # a layer may have them
        n = add_up(keys, counts)
        self._keys, self._counts = _cut(keys, n), _cut(counts, n)
        self._row_shift += rows_by
        self._column_shift += columns_by

    def state(self) -> dict[str, Any]:
        """Return all that counting has changed.

        What is gathered is not sorted for it: when that is done decides how coarse a layer becomes.
        """
        self._wait()
        self._points = [np.concatenate([_NO_PAGES, *self._points])]
        folios = [(_NO_PAGES, _NO_PAGES), *self._folios]
        keys, counts = (np.concatenate(each) for each in zip(*folios, strict=True))
        self._folios = [(keys, counts)]
        return {
            "row_shift": self._row_shift,
            "column_shift": self._column_shift,
            "gathered_at": list(self._gathered_at),
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
        given = checked.table(state, "a layer of the map")
        at = [given.get("row_shift"), given.get("column_shift")]  # of an earlier gpuscan's
        found = checked.table({"gathered_at": at, **given}, "a layer of the map", _STATE)
        row_shift = checked.whole(found["row_shift"], 0, _SHIFT_MAX, "row_shift")
        column_shift = checked.whole(found["column_shift"], 0, _SHIFT_MAX, "column_shift")
        rows_at, columns_at = checked.items(found["gathered_at"], "gathered_at", n=2)
        gathered_at = (
            checked.whole(rows_at, 0, row_shift, "gathered_at"),
            checked.whole(columns_at, 0, column_shift, "gathered_at"),
        )
        last_step = checked.whole(found["last_step"], 0, checked.TIME_NS_MAX, "last_step")
        shifts = [(row_shift, column_shift), gathered_at, gathered_at]  # of each of _KEYS
        last_columns = [
            checked.whole(last_step >> shift, 0, (1 << COLUMN_BITS) - 1, "the last column")
            for _, shift in shifts
        ]
        arrays = [
            checked.array(
                found[name],
                np.int64,
                f"{name} of the map",
                lowest=0,
                end=((self.n_pages - 1 >> shift) + 1) << COLUMN_BITS,
            )
            for name, (shift, _) in zip(_KEYS, shifts, strict=True)
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
        columns = [int((keys & ((1 << COLUMN_BITS) - 1)).max(initial=0)) for keys in arrays]
        if any(column > last for column, last in zip(columns, last_columns, strict=True)):
            raise ArgumentError("keys of the map lie after its last step")
        if sum(float(each.sum(dtype=np.float64)) for each in counts) > _SUM_MAX / self._one_in:
            raise ArgumentError("counts of the map are more than can have happened")
        self._row_shift, self._column_shift, self._last_step = row_shift, column_shift, last_step
        self._gathered_at = gathered_at
        (self._keys, folio_keys, points), (self._counts, folio_counts) = arrays, counts
        self._points, self._folios = [points], [(folio_keys, folio_counts)]
        self._n_gathered = len(points) + len(folio_keys)

    def _lengths_max(self) -> tuple[int, int, int]:
        """Return how many cells, gathered cells of folios, and gathered points there may be."""
        return self._n_cells_max + _RESTORED_MAX, _RESTORED_MAX, _RESTORED_MAX

    def latest_ns(self, step_ns: int) -> int:
        """Return the beginning of the last step that something fell into."""
        return self._last_step * step_ns

    def says_same(self, other: Counting) -> bool:
        """Whether the layers of both say the same."""
        self._rest()
        other._rest()
        at, others_at = (*self._shifts, self._one_in), (*other._shifts, other._one_in)
        return (
            at == others_at
            and np.array_equal(self._keys, other._keys)
            and np.array_equal(self._counts, other._counts)
        )

    def layer(self) -> Layer:
        """Return what was counted so far."""
        self._rest()
        return Layer(*_cells(self._keys, self._counts), self._row_shift, self._column_shift, self._one_in)


def _coarser(keys: NDArray[np.int64], rows_by: int, columns_by: int) -> NDArray[np.int64]:
    columns = (keys & ((1 << COLUMN_BITS) - 1)) >> columns_by
    return ((keys >> COLUMN_BITS) >> rows_by) << COLUMN_BITS | columns


def _cut(values: NDArray[np.int64], n: int) -> NDArray[np.int64]:
    """Return the first ``n``, without a copy where that would free little."""
    return values[:n] if len(values) - n < len(values) // _WASTED_ONE_IN else values[:n].copy()


def _cells(
    keys: NDArray[np.int64], counts: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return rows, columns and counts."""
    return keys >> COLUMN_BITS, keys & ((1 << COLUMN_BITS) - 1), counts
