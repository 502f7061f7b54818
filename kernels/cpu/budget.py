"""The driver of ``rank``: counts per target and key, and the cut-offs that spend a budget."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Budget, Cutoffs
from gpuscan.kernels.cpu.arguments import Store, plain
from gpuscan.kernels.cpu.bitmaps import count_blocks
from gpuscan.kernels.cpu.rank import rank
from gpuscan.kernels.cpu.scan import ALL_NODES, PARALLEL_FROM_BLOCKS, PIECES_PER_THREAD
from gpuscan.kernels.cpu.workers import Workers
from gpuscan.pagemap import SECTION_PAGES
from gpuscan.records import RecordFormat

HISTOGRAM_BYTES = 64 << 20
"""Bound of the counts per (chunk, side, target, key); many limited targets get fewer chunks.
With 1,024 of them and 512 keys one chunk takes 8 MiB."""


def rank_budget(
    store: Store,
    fmt: RecordFormat,
    n_targets: int,
    budget: Budget,
    lo: int,
    hi: int,
    node_mask: NDArray[np.uint8] | None,
    workers: Workers,
) -> Cutoffs:
    """Find the cut-offs of a budget in ``[lo, hi)``; see :meth:`gpuscan.kernels.api.Kernels.rank`."""
    limit_pages = plain(budget.limit_pages, np.int64)
    resume_flat = plain(budget.resume_flat, np.int64).copy()
    limited = np.flatnonzero(limit_pages >= 0)
    row_of_target = np.full(n_targets, -1, dtype=np.int32)
    row_of_target[limited] = np.arange(len(limited))
    mask = ALL_NODES if node_mask is None else plain(node_mask, np.uint8)

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
    cuts = Cutoffs(
        now=budget.now,
        chunk_edges=edges,
        cut_key=np.full(n_targets, -1, dtype=np.int32),
        above_pages=np.zeros((n_chunks, n_targets), dtype=np.int64),
        tie_pages_from=np.zeros((n_chunks, n_targets), dtype=np.int64),
        tie_pages_below=np.zeros((n_chunks, n_targets), dtype=np.int64),
        resume_flat=resume_flat,
        seen_pages=seen_pages.sum(axis=0),
    )
    for row, target in enumerate(limited):
        _spend(cuts, int(target), int(limit_pages[target]), pages_of_key[:, :, row, :])
    return cuts


def _spend(cuts: Cutoffs, target: int, limit: int, pages_of_key: NDArray[np.int64]) -> None:
    """Fill in one target's cut-offs. ``pages_of_key`` is int64[n_chunks, 2 sides, n_keys]."""
    upto_key = np.cumsum(pages_of_key.sum(axis=(0, 1)))
    cut = int(np.searchsorted(upto_key, limit, side="right"))
    cuts.cut_key[target] = cut
    cuts.above_pages[:, target] = pages_of_key[:, :, :cut].sum(axis=(1, 2))
    if cut == len(upto_key):
        return
    left = limit - (int(upto_key[cut - 1]) if cut else 0)
    # Ties in cyclic order: every chunk's pages from resume_flat on, then every chunk's before it.
    ties = pages_of_key[:, :, cut].T.ravel()
    quota = np.clip(left - (np.cumsum(ties) - ties), 0, ties)
    cuts.tie_pages_from[:, target], cuts.tie_pages_below[:, target] = np.split(quota, 2)
