"""The driver of ``rank``: counts per target and key, and the cut-offs that spend a budget."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.api import Budget, Cutoffs
from gpuscan.kernels.cuda.scan import ALL_NODES
from gpuscan.pagemap import SECTION_PAGES

if TYPE_CHECKING:
    from gpuscan.kernels.cuda.backend import CudaKernels

MAX_QUOTAS = 1 << 18
"""Bound of chunks times targets: three quotas of 8 bytes each are copied to the device and back."""
MAX_CHUNKS = 4096
"""Bound of chunks: one warp works on each."""


def rank_budget(
    kernels: CudaKernels, budget: Budget, lo: int, hi: int, node_mask: NDArray[np.uint8] | None
) -> Cutoffs:
    """Count twice: per key over the whole range, which gives the cut-offs, then per chunk at these."""
    device, arrays = kernels.device, kernels.arrays
    n_targets, n_keys = kernels.layout.n_targets, kernels.layout.fmt.n_keys
    edges = _chunk_edges(lo, hi, n_targets)
    n_chunks = len(edges) - 1
    resume_flat = np.ascontiguousarray(budget.resume_flat, dtype=np.int64).copy()
    mask = ALL_NODES if node_mask is None else node_mask
    walked = (
        arrays.records,
        arrays.ready_bits,
        arrays.block_bits,
        *kernels.folio_order,
        kernels.section_nid,
        np.int32(kernels.layout.fixed_target),
        np.uint32(n_targets),
        device.upload(np.ascontiguousarray(mask, dtype=np.uint8)),
        device.upload(np.clip(edges, lo, hi)),
        np.int64(n_chunks),
        np.uint32(budget.now),
    )
    pages_of_key = device.zeros(n_targets * n_keys, np.uint64)
    kernels.launch("rank", 32 * n_chunks, *walked, pages_of_key)
    upto_key = np.cumsum(device.fetch(pages_of_key).astype(np.int64).reshape(n_targets, n_keys), axis=1)
    limit = np.asarray(budget.limit_pages, dtype=np.int64)
    cut_key = np.where(limit < 0, -1, (upto_key <= limit[:, None]).sum(axis=1)).astype(np.int32)
    sides = [device.zeros(n_chunks * n_targets, np.uint64) for _ in range(3)]
    kernels.launch(
        "rank_stretches", 32 * n_chunks, *walked, device.upload(cut_key), device.upload(resume_flat), *sides
    )
    above, ties_from, ties_below = (
        device.fetch(side).astype(np.int64).reshape(n_chunks, n_targets) for side in sides
    )
    # Producers may have added pages between the two counts: clipped, the quotas stay below the limit.
    above = _clipped(above, limit)
    left = np.maximum(limit - above.sum(axis=0), 0)
    # Ties in cyclic order: every chunk's pages from resume_flat on, then every chunk's before it.
    ties = _clipped(np.concatenate((ties_from, ties_below)), np.where(cut_key < n_keys, left, 0))
    return Cutoffs(
        now=budget.now,
        chunk_edges=edges,
        cut_key=cut_key,
        above_pages=above,
        tie_pages_from=ties[:n_chunks].copy(),
        tie_pages_below=ties[n_chunks:].copy(),
        resume_flat=resume_flat,
        seen_pages=upto_key[:, -1].copy(),
    )


def _chunk_edges(lo: int, hi: int, n_targets: int) -> NDArray[np.int64]:
    """Return edges of chunks of whole sections, as even as can be."""
    first, last = lo // SECTION_PAGES, max(lo // SECTION_PAGES + 1, -(-hi // SECTION_PAGES))
    n_chunks = max(1, min(MAX_CHUNKS, MAX_QUOTAS // n_targets, last - first))
    return (first + (last - first) * np.arange(n_chunks + 1, dtype=np.int64) // n_chunks) * SECTION_PAGES


def _clipped(pages: NDArray[np.int64], limit: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return ``pages``, int64[n, n_targets], cut in order where a target's sum reaches its limit."""
    before = np.cumsum(pages, axis=0) - pages
    clipped: NDArray[np.int64] = np.clip(limit - before, 0, pages)
    return clipped
