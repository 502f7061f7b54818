"""The driver of ``count_keys``: READY base pages per chunk, side of the ties, target and key."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Budget, Cutoffs
from gpuscan.kernels.cpu.arguments import Store
from gpuscan.kernels.cpu.bitmaps import count_blocks
from gpuscan.kernels.cpu.rank import rank
from gpuscan.kernels.cpu.scan import ALL_NODES, PARALLEL_FROM_BLOCKS, PIECES_PER_THREAD
from gpuscan.kernels.cpu.workers import Workers
from gpuscan.kernels.signatures import check_cut_key
from gpuscan.records.formats import RecordFormat
from gpuscan.records.page_map import SECTION_PAGES

HISTOGRAM_BYTES = 64 << 20
"""Bound of the counts per (chunk, side, target, key); many limited targets get fewer chunks.
With 1,024 of them and 512 keys one chunk takes 8 MiB."""


class CpuKeyCounts:
    """What was counted, per chunk; see :class:`gpuscan.kernels.api.KeyCounts`."""

    def __init__(
        self,
        now: int,
        resume_flat: NDArray[np.int64],
        edges: NDArray[np.int64],
        targets: NDArray[np.int64],
        by_chunk: NDArray[np.int64],
        seen_pages: NDArray[np.int64],
    ) -> None:
        """Keep ``by_chunk``, int64[n_chunks, 2 sides, n limited targets, n_keys], as it is."""
        self.targets = targets
        self.pages_of_key: NDArray[np.int64] = by_chunk.sum(axis=(0, 1))
        self.seen_pages = seen_pages
        self._now, self._resume_flat, self._edges, self._by_chunk = now, resume_flat, edges, by_chunk

    def cut(self, cut_key: NDArray[np.int32]) -> Cutoffs:
        """Return cut-offs at these keys whose quotas are all that was counted."""
        n_chunks, _, _, n_keys = self._by_chunk.shape
        cut_key = check_cut_key(cut_key, len(self.seen_pages), n_keys)
        above, ties_from, ties_below = np.zeros((3, n_chunks, len(cut_key)), dtype=np.int64)
        for row, target in enumerate(self.targets.tolist()):
            cut, pages_of_key = int(cut_key[target]), self._by_chunk[:, :, row, :]
            above[:, target] = pages_of_key[:, :, :cut].sum(axis=(1, 2))
            if cut < n_keys:
                ties_from[:, target], ties_below[:, target] = pages_of_key[:, :, cut].T
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


def count_keys(
    store: Store,
    fmt: RecordFormat,
    n_targets: int,
    budget: Budget,
    lo: int,
    hi: int,
    node_mask: NDArray[np.uint8] | None,
    workers: Workers,
) -> CpuKeyCounts:
    """Count in ``[lo, hi)``; see :meth:`gpuscan.kernels.api.Kernels.count_keys`."""
    resume_flat = budget.resume_flat.copy()
    limited = np.flatnonzero(budget.limit_pages >= 0)
    row_of_target = np.full(n_targets, -1, dtype=np.int32)
    row_of_target[limited] = np.arange(len(limited))
    mask = ALL_NODES if node_mask is None else node_mask

    n_set_blocks, _ = count_blocks.for_bits(fmt.bits)(store, mask, lo, hi)
    inline = n_set_blocks < PARALLEL_FROM_BLOCKS
    first, last = lo // SECTION_PAGES, -(-hi // SECTION_PAGES)
    chunk_bytes = max(1, 2 * len(limited) * fmt.n_keys * 8)
    n_chunks = 1 if inline else workers.n_threads * PIECES_PER_THREAD
    n_chunks = max(1, min(n_chunks, HISTOGRAM_BYTES // chunk_bytes, last - first))
    edges = (first + (last - first) * np.arange(n_chunks + 1) // n_chunks) * SECTION_PAGES

    pages_of_key = np.zeros((n_chunks, 2, len(limited), fmt.n_keys), dtype=np.int64)
    seen_pages = np.zeros((n_chunks, n_targets), dtype=np.int64)

    def count(chunk: int) -> None:
        rank.for_bits(fmt.bits)(
            store,
            mask,
            max(lo, int(edges[chunk])),
            min(hi, int(edges[chunk + 1])),
            budget.now,
            row_of_target,
            resume_flat,
            pages_of_key[chunk],
            seen_pages[chunk],
        )

    workers.run(n_chunks, count, inline=inline)
    return CpuKeyCounts(budget.now, resume_flat, edges, limited, pages_of_key, seen_pages.sum(axis=0))
