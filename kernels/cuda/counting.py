"""A range whose candidates are counted: what a path is picked by, and cut into stretches."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gpuscan.kernels.cuda.source import EDGE_LANES, Total
from gpuscan.kernels.cuda.stretches import cells_of, n_stretches_of, weights_of
from gpuscan.kernels.cuda.workspace import Stage
from gpuscan.records.page_map import BLOCK_PAGES

if TYPE_CHECKING:
    from gpuscan.kernels.cuda.backend import CudaKernels


class CountedRange:
    """The candidates of ``[lo, hi)``, not empty, as one launch counted them; the counts are the store's.

    Args:
        kernels: the store.
        lo, hi: flat range.
        node_mask: device uint8[1024].

    Attributes:
        totals: what was counted, by :class:`gpuscan.kernels.cuda.source.Total`.
        n_sections: those that the range touches.
        given: what launches are given of how it was counted, by name.
    """

    def __init__(self, kernels: CudaKernels, lo: int, hi: int, node_mask: Any) -> None:
        self._kernels = kernels
        cells = cells_of(lo, hi)
        self.n_sections = cells.n_sections
        self.given = {"lo": lo, "hi": hi, "cell_shift": cells.shift}
        kernels.launch(
            "popcounts", 32 * cells.n_walkers, node_mask=node_mask, n_walkers=cells.n_walkers, **self.given
        )
        self.totals = kernels.scratch.report.fetch_totals()

    def cut(self, stage: Stage, path: str, capacity: int) -> int:
        """Cut the range into stretches of equal work, whose edges are the stage's; return how many.

        Every stretch has room for its candidates; the range ends where they no longer fit the plan. What
        producers add after the count finds no room: it stays READY, and indexed.
        """
        lo, hi, fmt = self.given["lo"], self.given["hi"], self._kernels.layout.fmt
        n_stretches = n_stretches_of(lo, hi)
        n_candidates, n_set = self.totals[Total.CANDIDATES], self.totals[Total.SET_BLOCKS]
        weights = weights_of(path, fmt, n_candidates, n_set, (hi - lo) // BLOCK_PAGES, n_stretches)
        self._kernels.launch(
            "cut_stretches",
            EDGE_LANES * (n_stretches + 1),
            capacity=min(capacity, self._kernels.layout.n_pages),
            edges=stage.edges,
            n_stretches=n_stretches,
            ends=stage.given["ends"],
            n_staged=stage.given["n_staged"],
            **self.given,
            **weights,
        )
        return n_stretches
