"""Who says how much of whose memory may move now, and how much in one call."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

MOST_CALL_PAGES = 512
"""Base pages of one call, a larger folio alone: the kernel unmaps no more at a time (NR_MAX_BATCHED_MIGRATION
of mm/migrate.c, v6.12), and between two calls it is asked whether the process is still there."""


class Steward(Protocol):
    """Budgets of processes, by their numbers in the address map."""

    def grant(self, number: int, n_pages: NDArray[np.int64]) -> int:
        """Return how many folios of a process may move now, the first ones of those that would.

        Args:
            number: of the process.
            n_pages: int64[n], base pages of each folio.
        """
        ...

    def chunk_pages(self) -> int:
        """Return how many base pages the next call may move, one folio at least; 0: none in this look."""
        ...

    def called(self, n_pages: int, n_moved: int, busy_ns: int) -> None:
        """Hear how long one call took, for how many base pages, and how many of them moved."""
        ...

    def settled(
        self,
        number: int,
        target_nid: int,
        n_pages: int,
        n_demoted: int,
        reasons: Mapping[str, int],
        n_left_below: int,
    ) -> None:
        """Hear what became of a part of a batch.

        Args:
            number: of the process.
            target_nid: where to.
            n_pages: base pages that moved; ``n_demoted``: of these, to a lower tier.
            n_demoted: see there.
            reasons: folios that did not, by reason.
            n_left_below: base pages that may try again and are in a lower tier than the target.
        """
        ...


def n_first(n_pages: NDArray[np.int64], most_pages: int) -> int:
    """Return how many folios, from the front, have up to so many base pages together, one at least.

    Args:
        n_pages: int64[n], base pages of each; n is above 0.
        most_pages: of all.
    """
    return max(1, int(np.searchsorted(np.cumsum(n_pages), most_pages, side="right")))
