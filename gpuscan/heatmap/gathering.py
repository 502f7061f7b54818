"""What was told of a layer and is not sorted yet, and the arrays that this is gathered and sorted in."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.heatmap.cells import into_keys, spread

GATHERED_MAX = 1 << 18
"""Points that are gathered before they are sorted."""
NO_PAGES = np.empty(0, dtype=np.int64)


class Spares:
    """Arrays to gather and sort in, which go from one to the next; any thread may take and give.

    Most of the time that a fresh one takes is the kernel's, which clears its pages.
    """

    def __init__(self) -> None:
        self._arrays: list[NDArray[np.int64]] = []

    def take(self, n: int) -> NDArray[np.int64]:
        """Return an array of at least ``n``, of whatever is in it."""
        try:
            found = self._arrays.pop()
        except IndexError:
            found = NO_PAGES
        # Twice as many as are sorted at once: so many may be gathered. Those that are not take no memory.
        return found if len(found) >= n else np.empty(max(n, 2 * GATHERED_MAX), dtype=np.int64)

    def give(self, *arrays: NDArray[np.int64]) -> None:
        """Take them back, or what they are parts of."""
        whole = (array if array.base is None else array.base for array in arrays)
        self._arrays += [array for array in whole if len(array)]


class Gathered:
    """Points and folios, in the order of their steps.

    Args:
        shifts: of rows and columns: what is told is gathered as coarse as that.
        spares: to gather in.

    Attributes:
        shifts: so.
        n: points, and cells that folios lie in.
    """

    def __init__(self, shifts: tuple[int, int], spares: Spares) -> None:
        self.shifts = shifts
        self.n = 0
        self._spares = spares
        self._points = NO_PAGES
        self._n_keys = self._n_points = 0
        """The first are keys; behind these are pages as they were told, in the columns up to each end."""
        self._ends: list[int] = []
        self._columns: list[int] = []
        self._folios = [(NO_PAGES, NO_PAGES)]

    def add(self, step: int, flats: NDArray[np.int64]) -> None:
        """Gather points: int64[n], flat pages, -1 is none."""
        begin, end = self._n_points, self._n_points + len(flats)
        if end > len(self._points):
            points = self._spares.take(end)
            points[:begin] = self._points[:begin]
            self._spares.give(self._points)
            self._points = points
        self._points[begin:end] = flats
        self._n_points = end
        self._ends.append(end)
        self._columns.append(step >> self.shifts[1])
        self.n += int(np.count_nonzero(flats >= 0))  # as a state of it has them

    def add_folios(self, step: int, flats: NDArray[np.int64], n_pages: NDArray[np.int64]) -> None:
        """Gather folios: int64[n] each, heads and how many pages."""
        row_shift, column_shift = self.shifts
        n_rows = ((flats + n_pages - 1) >> row_shift) - (flats >> row_shift) + 1
        keys, counts = np.empty((2, int(n_rows.sum())), dtype=np.int64)
        spread(keys, counts, flats, n_pages, row_shift, step >> column_shift)
        self._folios.append((keys, counts))
        self.n += len(keys)

    def restore(
        self, keys: NDArray[np.int64], folio_keys: NDArray[np.int64], folio_counts: NDArray[np.int64]
    ) -> None:
        """Become what had :meth:`keys` and :meth:`folios` of these."""
        self._points, self._n_keys, self._n_points = keys.copy(), len(keys), len(keys)
        self._ends, self._columns, self._folios = [], [], [(folio_keys, folio_counts)]
        self.n = len(keys) + len(folio_keys)

    def keys(self) -> NDArray[np.int64]:
        """Return the keys of all points, in the array that they were gathered in."""
        begin = self._n_keys
        told = self._points[begin : self._n_points]
        ends = np.array(self._ends, dtype=np.int64) - begin
        n = begin + into_keys(told, ends, np.array(self._columns, dtype=np.int64), self.shifts[0])
        self._n_keys = self._n_points = n
        self._ends, self._columns = [], []
        return self._points[:n]

    def folios(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return keys and counts of all cells that folios lie in."""
        keys, counts = (np.concatenate(each) for each in zip(*self._folios, strict=True))
        self._folios = [(keys, counts)]
        return keys, counts
