"""Budgets: the cut-offs of a range, found on the device.

READY base pages are counted per (target, key), and the keys at which budgets end follow. Where not all
ties fit, they are counted by stretch, and the first that does not fit is looked for in one stretch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Budget, Cutoffs
from gpuscan.kernels.cuda.counting import CountedRange
from gpuscan.kernels.cuda.launches import QUOTAS
from gpuscan.kernels.cuda.workspace import Stage
from gpuscan.kernels.signatures import check_cut_key
from gpuscan.records.page_map import SECTION_PAGES

if TYPE_CHECKING:
    from gpuscan.kernels.cuda.backend import CudaKernels

_ALL = (1 << 63) - 1


class _Walk:
    """A range cut into stretches, which launches walk through the index.

    Args:
        kernels: the store.
        stage: whose edges they are; nothing else on the device uses it.
        lo, hi: the range, not empty.
        node_mask: uint8[1024], or None for all.
    """

    def __init__(
        self, kernels: CudaKernels, stage: Stage, lo: int, hi: int, node_mask: NDArray[np.uint8] | None
    ) -> None:
        self._kernels = kernels
        on_device = kernels.node_mask(node_mask)
        counted = CountedRange(kernels, lo, hi, on_device)
        self._n_stretches = counted.cut(stage, "indexed", hi - lo)
        self._walked = {"edges": stage.edges, "n_stretches": self._n_stretches, "node_mask": on_device}

    def count_keys(self, now: int) -> None:
        """Count READY base pages per (target, key), in ``cuts.pages_of_key``."""
        cuts = self._kernels.cuts
        cuts.clear_keys()
        self._kernels.launch(
            "rank", 32 * self._n_stretches, **self._walked, now=now, pages_of_key=cuts.pages_of_key
        )

    def cut_ties(self, now: int, *, is_shared: bool) -> None:
        """Find up to where ties are claimed; their quotas become what they take.

        Args:
            now: the moment, in TIME units.
            is_shared: the quota of the first side is that of both.
        """
        cuts = self._kernels.cuts
        given = {
            **self._walked,
            **cuts.clear_ties(self._n_stretches),
            **cuts.some("cut_key", "resume_flat", *QUOTAS[1:]),
        }
        self._kernels.launch("rank_ties", 32 * self._n_stretches, now=now, **given)
        self._kernels.launch(
            "cut_ties",
            32 * self._kernels.layout.n_targets,
            now=now,
            is_shared=is_shared,
            **given,
            **cuts.some("stop_from", "stop_below"),
        )


def rank(
    kernels: CudaKernels, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None
) -> Cutoffs:
    """Find the cut-offs of a range; see :meth:`gpuscan.kernels.api.Kernels.rank`. Called while working."""
    cuts, layout = kernels.cuts, kernels.layout
    if lo == hi:
        cut_key = np.where(budget.limit_pages < 0, -1, layout.fmt.n_keys).astype(np.int32)
        nothing = np.zeros((3, layout.n_targets), dtype=np.int64)
        return _cutoffs(budget, lo, hi, cut_key, nothing, nothing[0].copy())
    cuts.put_budget(budget)
    stage = kernels.stages.take()
    walk = _Walk(kernels, stage, lo, hi, node_mask)
    walk.count_keys(budget.now)
    report = kernels.scratch.report
    kernels.launch(
        "cut_keys",
        32 * layout.n_targets,
        limit_pages=cuts.limit_pages,
        pages_of_key=cuts.pages_of_key,
        seen_pages=report.seen_pages,
        **cuts.some("cut_key", *QUOTAS),
    )
    walk.cut_ties(budget.now, is_shared=True)
    cut_key, seen_pages, quotas = report.fetch_ranking()
    kernels.stages.give(stage)
    found = _cutoffs(budget, lo, hi, cut_key, quotas, seen_pages)
    cuts.know(found)
    return found


def bring(kernels: CudaKernels, cuts: Cutoffs, node_mask: NDArray[np.uint8] | None) -> dict[str, Any]:
    """Return cut-offs as launches are given them. Called while working.

    Those of the last ranking are there. Of others, and of those whose quotas somebody cut, it is looked up
    how far the ties go that these quotas pay for.
    """
    mine = kernels.cuts
    if not mine.has(cuts):
        mine.put(cuts.cut_key, cuts.resume_flat, cuts.quotas)
        lo, hi = (min(int(edge), kernels.layout.n_pages) for edge in cuts.chunk_edges)
        if lo < hi:
            stage = kernels.stages.take()
            _Walk(kernels, stage, lo, hi, node_mask).cut_ties(cuts.now, is_shared=False)
            kernels.stages.give(stage)
    return {"now": cuts.now, **mine.given}


class CudaKeyCounts:
    """Counts per key over the whole range; see :class:`gpuscan.kernels.api.KeyCounts`."""

    def __init__(
        self, kernels: CudaKernels, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None
    ) -> None:
        self._kernels, self._budget, self._range, self._node_mask = kernels, budget, (lo, hi), node_mask
        layout = kernels.layout
        pages_of_key = np.zeros((layout.n_targets, layout.fmt.n_keys), dtype=np.int64)
        if lo < hi:
            stage = kernels.stages.take()
            _Walk(kernels, stage, lo, hi, node_mask).count_keys(budget.now)
            fetched = kernels.device.fetch(kernels.cuts.pages_of_key)
            kernels.stages.give(stage)
            pages_of_key = fetched.astype(np.int64).reshape(pages_of_key.shape)
        self.targets = np.flatnonzero(budget.limit_pages >= 0)
        self.pages_of_key = pages_of_key[self.targets]
        self.seen_pages: NDArray[np.int64] = pages_of_key.sum(axis=1)

    def cut(self, cut_key: NDArray[np.int32]) -> Cutoffs:
        """Return cut-offs at these keys whose quotas are all that was counted, of ties all there are now."""
        kernels, layout = self._kernels, self._kernels.layout
        cut_key = check_cut_key(cut_key, layout.n_targets, layout.fmt.n_keys)
        quotas = np.zeros((len(QUOTAS), layout.n_targets), dtype=np.int64)
        is_above = np.arange(layout.fmt.n_keys) < cut_key[self.targets, None]
        quotas[0, self.targets] = np.where(is_above, self.pages_of_key, 0).sum(axis=1)
        lo, hi = self._range
        with kernels.working():
            cuts = kernels.cuts
            if lo < hi:
                cuts.put(
                    cut_key, self._budget.resume_flat, np.vstack((quotas[:1], np.full_like(quotas[1:], _ALL)))
                )
                stage = kernels.stages.take()
                _Walk(kernels, stage, lo, hi, self._node_mask).cut_ties(self._budget.now, is_shared=False)
                _, _, quotas = kernels.scratch.report.fetch_ranking()
                kernels.stages.give(stage)
            found = _cutoffs(self._budget, lo, hi, cut_key, quotas, self.seen_pages)
            if lo < hi:
                cuts.know(found)
        return found


def _cutoffs(
    budget: Budget,
    lo: int,
    hi: int,
    cut_key: NDArray[np.int32],
    quotas: NDArray[np.int64],
    seen_pages: NDArray[np.int64],
) -> Cutoffs:
    """Return cut-offs of one chunk; quotas are int64[3, n_targets]."""
    above, ties_from, ties_below = (quota[None].copy() for quota in quotas)
    return Cutoffs(
        now=budget.now,
        chunk_edges=np.array([lo - lo % SECTION_PAGES, hi + -hi % SECTION_PAGES], dtype=np.int64),
        cut_key=cut_key,
        above_pages=above,
        tie_pages_from=ties_from,
        tie_pages_below=ties_below,
        resume_flat=budget.resume_flat.copy(),
        seen_pages=seen_pages,
    )
