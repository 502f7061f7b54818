"""Budgets in the reference backend: READY folios with their keys, counted, or sorted and cut."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Budget, Cutoffs, StoreLayout
from gpuscan.kernels.signatures import check_cut_key
from gpuscan.records.page_map import SECTION_PAGES


class ReadyFolios(NamedTuple):
    """READY folios of a range, ascending: heads, targets, hotness keys and sizes, int64[n] each."""

    flats: NDArray[np.int64]
    targets: NDArray[np.int64]
    keys: NDArray[np.int64]
    n_pages: NDArray[np.int64]


class ReferenceKeyCounts:
    """READY folios of ``[lo, hi)``, kept as they are; see :class:`gpuscan.kernels.api.KeyCounts`."""

    def __init__(self, layout: StoreLayout, budget: Budget, lo: int, hi: int, ready: ReadyFolios) -> None:
        self._layout, self._budget, self._range = layout, budget, (lo, hi)
        self._folios = list(zip(*(column.tolist() for column in ready), strict=True))
        self.targets = np.flatnonzero(budget.limit_pages >= 0)
        by_target = np.zeros((layout.n_targets, layout.fmt.n_keys), dtype=np.int64)
        for _, target, key, pages in self._folios:
            if target < layout.n_targets:
                by_target[target, key] += pages
        self.pages_of_key = by_target[self.targets]
        self.seen_pages: NDArray[np.int64] = by_target.sum(axis=1)

    def cut(self, cut_key: NDArray[np.int32]) -> Cutoffs:
        """Return cut-offs at these keys whose quotas are all that was counted; one chunk."""
        n_targets = self._layout.n_targets
        cuts = _no_quotas(self._layout, self._budget, *self._range)
        cuts.cut_key = check_cut_key(cut_key, n_targets, self._layout.fmt.n_keys)
        cuts.seen_pages = self.seen_pages
        for flat, target, key, pages in self._folios:
            if target < n_targets and key <= cuts.cut_key[target]:
                _add(cuts, flat, target, key, pages)
        return cuts


def cut_longest_prefix(layout: StoreLayout, budget: Budget, lo: int, hi: int, ready: ReadyFolios) -> Cutoffs:
    """Sort every limited target's folios by (key, cyclic order) and take the longest prefix that fits.

    One chunk. The quotas are what the prefix takes, so that a scan takes just that.
    """
    cuts = _no_quotas(layout, budget, lo, hi)
    for target in range(layout.n_targets):
        mine = ready.targets == target
        cuts.seen_pages[target] = ready.n_pages[mine].sum()
        if budget.limit_pages[target] < 0:
            continue
        resume = int(budget.resume_flat[target])
        left = int(budget.limit_pages[target])
        ordered = sorted(
            (int(key), (int(flat) - resume) % layout.n_pages, int(flat), int(pages))
            for flat, key, pages in zip(ready.flats[mine], ready.keys[mine], ready.n_pages[mine], strict=True)
        )
        taken = []
        cuts.cut_key[target] = layout.fmt.n_keys
        for key, _, flat, pages in ordered:
            if pages > left:
                cuts.cut_key[target] = key
                break
            left -= pages
            taken.append((key, flat, pages))
        for key, flat, pages in taken:
            _add(cuts, flat, target, key, pages)
    return cuts


def _no_quotas(layout: StoreLayout, budget: Budget, lo: int, hi: int) -> Cutoffs:
    """Return cut-offs of one chunk that limit nothing."""
    n_targets = layout.n_targets
    return Cutoffs(
        now=budget.now,
        chunk_edges=np.array([lo - lo % SECTION_PAGES, hi + -hi % SECTION_PAGES], dtype=np.int64),
        cut_key=np.full(n_targets, -1, dtype=np.int32),
        above_pages=np.zeros((1, n_targets), dtype=np.int64),
        tie_pages_from=np.zeros((1, n_targets), dtype=np.int64),
        tie_pages_below=np.zeros((1, n_targets), dtype=np.int64),
        resume_flat=budget.resume_flat.copy(),
        seen_pages=np.zeros(n_targets, dtype=np.int64),
    )


def _add(cuts: Cutoffs, flat: int, target: int, key: int, pages: int) -> None:
    """Add a folio that is not beyond the cut-off to the quota it is paid from."""
    if key < cuts.cut_key[target]:
        cuts.above_pages[0, target] += pages
    elif flat >= cuts.resume_flat[target]:
        cuts.tie_pages_from[0, target] += pages
    else:
        cuts.tie_pages_below[0, target] += pages
