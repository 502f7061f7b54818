"""One thing that is counted, by page and time: fine as long as it fits, and evenly coarser from then on."""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base import documents as checked
from gpuscan.base.errors import ArgumentError
from gpuscan.heatmap import gathering
from gpuscan.heatmap.cells import COLUMN_BITS, add_up, merge, n_together, sort_between, sort_cells
from gpuscan.heatmap.gathering import NO_PAGES, Gathered, Spares
from gpuscan.heatmap.layer import Layer, coarser_keys

N_CELLS_MAX = 1 << 20
"""Cells that a layer keeps by default."""
_RESTORED_MAX = 1 << 21
"""An earlier gpuscan gathered twice as many, and of each of the last folios there may be 512."""
_KEYS, _COUNTS = ("keys", "folio_keys", "points"), ("counts", "folio_counts")
_STATE = (*_KEYS, *_COUNTS, "row_shift", "column_shift", "gathered_at", "last_step")
_SHIFT_MAX = 40
_SUM_MAX = 1 << 62
"""Of all counts that are restored: what is counted from there on fits 63 bits."""
_FOLIOS_AT_ONCE = 1 << 11
"""Of a folio there may be a point for each of its pages."""


class Counting:
    """A layer that is being counted.

    What was gathered is sorted into the cells when it is enough, beside the caller where there is a pool.
    When that is follows from what was told alone, so the same calls make the same layer.

    Memory: 16 bytes a cell, 8 a gathered point and twice that while it is sorted.

    Args:
        n_pages: flat pages of the machine.
        n_cells_max: cells to keep.
        one_in: of so many things one is handed over.
        pool: of threads that sort; None: the caller's own does.
        row_shift_max: a cell has no more pages than that; then only time becomes coarser.
        spares: to gather and sort in, of several layers; by default its own.

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
        spares: Spares | None = None,
    ) -> None:
        self.n_pages = n_pages
        self._n_cells_max = n_cells_max
        self._one_in = one_in
        self._pool = pool
        self._row_shift_max = row_shift_max
        self._sorting: Future[None] | None = None
        self._row_shift = self._column_shift = 0
        self._last_step = 0
        self._keys, self._counts = NO_PAGES, NO_PAGES
        self._n_cells = 0
        self._is_lent = False
        """Others have the arrays of cells, too: they are not to change any more."""
        self._spares = Spares() if spares is None else spares
        self._gathered = Gathered(self._shifts, self._spares)
        """Its shifts are those of the cells when it began; these may have become larger meanwhile."""

    def add(self, step: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64] = NO_PAGES) -> None:
        """Count base pages.

        Args:
            step: when.
            flats: int64[n], heads of folios; one of -1 is passed over.
            n_pages: int64[n], base pages of each; by default one.
        """
        while step >> self._gathered.shifts[1] >= 1 << COLUMN_BITS:
            self._rest()
            self._coarsen(0, 1)
            self._gathered = Gathered(self._shifts, self._spares)
        self._last_step = max(self._last_step, step)
        if not len(n_pages) or n_pages.max() == 1:
            for start in range(0, len(flats), gathering.GATHERED_MAX):
                self._gathered.add(step, flats[start : start + gathering.GATHERED_MAX])
                self._settle_enough()
            return
        is_one = flats >= 0
        if not is_one.all():
            flats, n_pages = flats[is_one], n_pages[is_one]
        for start in range(0, len(flats), _FOLIOS_AT_ONCE):
            part = slice(start, start + _FOLIOS_AT_ONCE)
            self._gathered.add_folios(step, flats[part], n_pages[part])
            self._settle_enough()

    @property
    def _shifts(self) -> tuple[int, int]:
        return self._row_shift, self._column_shift

    def _settle_enough(self) -> None:
        if self._gathered.n >= gathering.GATHERED_MAX:
            self.settle()

    def settle(self) -> None:
        """Have what was gathered sorted into the cells; where there is a pool, nobody waits for it."""
        self._wait()
        gathered, self._gathered = self._gathered, Gathered(self._shifts, self._spares)
        if self._pool is None:
            self._sort(gathered, self._last_step)
        else:
            self._sorting = self._pool.submit(self._sort, gathered, self._last_step)

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

    def _sort(self, gathered: Gathered, last_step: int) -> None:
        """Sort what was gathered into the cells, and keep no more of them than there may be."""
        points = gathered.keys()
        if len(points):
            spare = self._spares.take(len(points))
            keys = self._here(points, gathered.shifts)
            keys, _ = sort_between(keys, NO_PAGES, spare[: len(points)], NO_PAGES)
            self._merge(keys, NO_PAGES)
            self._spares.give(points, spare)
        keys, counts = gathered.folios()
        if len(keys):
            self._merge(*sort_cells(self._here(keys, gathered.shifts), counts))
        if self._n_cells > self._n_cells_max:
            wanted = max(1, self._n_cells_max * 3 // 4)
            while self._n_cells > wanted:
                n_rows, n_columns = self.n_pages >> self._row_shift, (last_step + 1) >> self._column_shift
                is_by_rows = n_rows >= n_columns and self._row_shift < self._row_shift_max
                self._coarsen(*((1, 0) if is_by_rows else (0, 1)))

    def _here(self, keys: NDArray[np.int64], shifts: tuple[int, int]) -> NDArray[np.int64]:
        """Return keys as coarse as the cells are."""
        if shifts == self._shifts:
            return keys
        return coarser_keys(keys, self._row_shift - shifts[0], self._column_shift - shifts[1])

    def _merge(self, keys: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        """Add cells that ascend, of which neighbours may be the same; without counts each is one."""
        n, n_then = self._n_cells, n_together(self._keys[: self._n_cells], keys)
        if self._is_lent or n_then > len(self._keys):
            # What is not written takes no memory, so there is room for all that may come.
            room = max(n_then, self._n_cells_max + gathering.GATHERED_MAX)
            fresh, fresh_counts = np.empty(room, dtype=np.int64), np.empty(room, dtype=np.int64)
            fresh[:n], fresh_counts[:n] = self._keys[:n], self._counts[:n]
            self._keys, self._counts, self._is_lent = fresh, fresh_counts, False
        merge(self._keys, self._counts, n, n_then, keys, counts, self._one_in)
        self._n_cells = n_then

    def _coarsen(self, rows_by: int, columns_by: int) -> None:
        keys = coarser_keys(self._keys[: self._n_cells], rows_by, columns_by)
        self._keys, self._counts = sort_cells(keys, self._counts[: self._n_cells].copy())
        self._n_cells, self._is_lent = add_up(self._keys, self._counts), False
        self._row_shift += rows_by
        self._column_shift += columns_by

    def _cells(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Hand out keys and counts of what was sorted."""
        self._is_lent = True
        return self._keys[: self._n_cells], self._counts[: self._n_cells]

    def state(self) -> dict[str, Any]:
        """Return all that counting has changed.

        What is gathered is not sorted for it: when that is done decides how coarse a layer becomes.
        """
        self._wait()
        folio_keys, folio_counts = self._gathered.folios()
        cell_keys, cell_counts = self._cells()
        return {
            "row_shift": self._row_shift,
            "column_shift": self._column_shift,
            "gathered_at": list(self._gathered.shifts),
            "last_step": self._last_step,
            "keys": cell_keys,
            "counts": cell_counts,
            "points": self._gathered.keys().copy(),
            "folio_keys": folio_keys,
            "folio_counts": folio_counts,
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
        (self._keys, folio_keys, points), (self._counts, folio_counts) = arrays, counts
        self._n_cells, self._is_lent = len(self._keys), True
        self._gathered = Gathered(gathered_at, self._spares)
        self._gathered.restore(points, folio_keys, folio_counts)

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
        mine, others = self._cells(), other._cells()
        return at == others_at and all(map(np.array_equal, mine, others))

    def layer(self) -> Layer:
        """Return what was counted so far."""
        self._rest()
        return Layer(*self._cells(), self._row_shift, self._column_shift, self._one_in)
