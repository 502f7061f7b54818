"""The arithmetic of budgets, the same for every backend: from counts per key to cut-offs and quotas.

A backend counts (:meth:`gpuscan.kernels.api.Kernels.count_keys`); what follows from the counts
is decided here, for a store as a whole and for the shards of one alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Budget, Cutoffs, KeyCounts


@dataclass(frozen=True, slots=True, eq=False)
class Limits:
    """Base pages that may be claimed, each int64[n_targets]: above the cut-off, and of the ties on both
    sides of ``resume_flat``."""

    above: NDArray[np.int64]
    ties_from: NDArray[np.int64]
    ties_below: NDArray[np.int64]


def cut_keys(pages_of_key: NDArray[np.int64], limit_pages: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the key at which each budget ends, int32[n]; the number of keys where all fits.

    Args:
        pages_of_key: int64[n, n_keys], base pages.
        limit_pages: int64[n].
    """
    keys: NDArray[np.int32] = (np.cumsum(pages_of_key, axis=1) <= limit_pages[:, None]).sum(axis=1)
    return keys.astype(np.int32)


def clip_in_order(pages: NDArray[np.int64], limit: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``pages``, int64[n, n_targets], cut in order where a target's sum reaches its limit."""
    before = np.cumsum(pages, axis=0) - pages
    clipped: NDArray[np.int64] = np.clip(limit - before, 0, pages)
    return clipped


def spend(
    above: NDArray[np.int64],
    ties_from: NDArray[np.int64],
    ties_below: NDArray[np.int64],
    limit_pages: NDArray[np.int64],
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Cut what was counted to a budget: first above the cut-off, then ties in cyclic order.

    Args:
        above, ties_from, ties_below: int64[n, n_targets], base pages of n parts in flat order.
        limit_pages: int64[n_targets]; where it is negative nothing was counted.

    Returns:
        The same three, cut. Producers may have added pages between the counts of keys and these:
        their sum stays below the limit all the same.
    """
    above = clip_in_order(above, limit_pages)
    left = np.maximum(limit_pages - above.sum(axis=0), 0)
    # Ties in cyclic order: every part's pages from resume_flat on, then every part's before it.
    ties = clip_in_order(np.concatenate((ties_from, ties_below)), left)
    return above, ties[: len(above)].copy(), ties[len(above) :].copy()


def cut_budget(counts: KeyCounts, budget: Budget) -> Cutoffs:
    """Return the cut-offs that spend a budget on what was counted."""
    limit_pages = np.asarray(budget.limit_pages, dtype=np.int64)
    cut_key = np.full(len(limit_pages), -1, dtype=np.int32)
    cut_key[counts.targets] = cut_keys(counts.pages_of_key, limit_pages[counts.targets])
    cuts = counts.cut(cut_key)
    cuts.above_pages, cuts.tie_pages_from, cuts.tie_pages_below = spend(
        cuts.above_pages, cuts.tie_pages_from, cuts.tie_pages_below, limit_pages
    )
    return cuts


def keep_within(cuts: Cutoffs, limits: Limits) -> None:
    """Cut the quotas of some part of a store to what a budget of the whole left it, in place."""
    cuts.above_pages = clip_in_order(cuts.above_pages, limits.above)
    cuts.tie_pages_from = clip_in_order(cuts.tie_pages_from, limits.ties_from)
    cuts.tie_pages_below = clip_in_order(cuts.tie_pages_below, limits.ties_below)
