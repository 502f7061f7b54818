"""How many pages a walk has looked at when it comes to a PFN, if it steps over folios: one for each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class FolioSteps:
    """The large folios that a walk steps over.

    Attributes:
        heads: int64[n], their first PFNs, ascending.
        ends: int64[n], the first PFNs behind them.
        over: int64[n + 1], pages stepped over before each, and in all.
    """

    heads: NDArray[np.int64]
    ends: NDArray[np.int64]
    over: NDArray[np.int64]

    @classmethod
    def of(cls, heads: NDArray[np.int64], n_pages: NDArray[np.int64]) -> FolioSteps:
        """Return the steps over folios, given by first PFN and base pages in any order."""
        order = np.argsort(heads, kind="stable")
        heads, n_pages = heads[order], n_pages[order]
        return cls(heads, heads + n_pages, np.concatenate(([0], np.cumsum(n_pages - 1))))

    def before(self, start_pfn: int, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n]: how many pages a walk looks at from ``start_pfn`` (which lies inside no folio) on
        before it comes to each PFN, or past it where that lies inside a folio."""
        first, end = np.searchsorted(self.heads, start_pfn), np.searchsorted(self.heads, pfns)
        over = self.over[end] - self.over[first]
        if len(self.heads):
            still_ahead = np.where(end > first, self.ends[end - 1] - pfns, 0)
            over -= np.maximum(still_ahead, 0)
        n_before: NDArray[np.int64] = pfns - start_pfn - over
        return n_before
