"""The driver of ``count_keys``: READY base pages per target and key, and per chunk at a cut-off."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Budget, Cutoffs
from gpuscan.kernels.cuda.launches import QUOTAS
from gpuscan.kernels.signatures import check_cut_key
from gpuscan.records.page_map import SECTION_PAGES

if TYPE_CHECKING:
    from gpuscan.kernels.cuda.backend import CudaKernels

MAX_QUOTAS = 1 << 18
"""Bound of chunks times targets: three quotas of 8 bytes each are copied to the device and back."""
MAX_CHUNKS = 4096
"""Bound of chunks: one warp works on each."""


class CudaKeyCounts:
    """Counts per key over the whole range; see :class:`gpuscan.kernels.api.KeyCounts`.

    Counted a second time for cut-offs, per chunk at these: counts per chunk and key would not fit.
    """

    def __init__(
        self, kernels: CudaKernels, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None
    ) -> None:
        self._kernels, self._now = kernels, budget.now
        device, layout = kernels.device, kernels.layout
        n_targets, n_keys = layout.n_targets, layout.fmt.n_keys
        self._edges = _chunk_edges(lo, hi, n_targets)
        self._resume_flat = budget.resume_flat.copy()
        n_chunks = len(self._edges) - 1
        self._node_mask = node_mask
        self._walked = {
            "edges": device.upload(np.clip(self._edges, lo, hi)),
            "n_stretches": n_chunks,
            "now": budget.now,
        }
        counted = device.zeros(n_targets * n_keys, np.uint64)
        kernels.launch(
            "rank",
            32 * n_chunks,
            node_mask=kernels.node_mask(node_mask),
            **self._walked,
            pages_of_key=counted,
        )
        pages_of_key = device.fetch(counted).astype(np.int64).reshape(n_targets, n_keys)
        self.targets = np.flatnonzero(budget.limit_pages >= 0)
        self.pages_of_key = pages_of_key[self.targets]
        self.seen_pages: NDArray[np.int64] = pages_of_key.sum(axis=1)

    def cut(self, cut_key: NDArray[np.int32]) -> Cutoffs:
        """Return cut-offs at these keys whose quotas are all that is counted now."""
        kernels, device, layout = self._kernels, self._kernels.device, self._kernels.layout
        cut_key = check_cut_key(cut_key, layout.n_targets, layout.fmt.n_keys)
        n_chunks, n_targets = len(self._edges) - 1, layout.n_targets
        with kernels.working():
            quotas = {name: device.zeros(n_chunks * n_targets, np.uint64) for name in QUOTAS}
            kernels.launch(
                "rank_stretches",
                32 * n_chunks,
                node_mask=kernels.node_mask(self._node_mask),
                **self._walked,
                cut_key=device.upload(cut_key),
                resume_flat=device.upload(self._resume_flat),
                **quotas,
            )
            above, ties_from, ties_below = (
                device.fetch(quota).astype(np.int64).reshape(n_chunks, n_targets) for quota in quotas.values()
            )
        # Pages that came after the first count may have put a key on the other side of "all fits".
        ties_from[:, cut_key >= layout.fmt.n_keys] = 0
        ties_below[:, cut_key >= layout.fmt.n_keys] = 0
        return Cutoffs(
            now=self._now,
            chunk_edges=self._edges,
            cut_key=cut_key,
            above_pages=above,
            tie_pages_from=ties_from,
            tie_pages_below=ties_below,
            resume_flat=self._resume_flat,
            seen_pages=self.seen_pages,
        )


def _chunk_edges(lo: int, hi: int, n_targets: int) -> NDArray[np.int64]:
    """Return edges of chunks of whole sections, as even as can be."""
    first, last = lo // SECTION_PAGES, max(lo // SECTION_PAGES + 1, -(-hi // SECTION_PAGES))
    n_chunks = max(1, min(MAX_CHUNKS, MAX_QUOTAS // n_targets, last - first))
    return (first + (last - first) * np.arange(n_chunks + 1, dtype=np.int64) // n_chunks) * SECTION_PAGES
