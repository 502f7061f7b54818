"""Where the READY pages of what is measured lie: the same ones in every run."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.steps import Layout
from gpuscan.records.page_map import BLOCK_PAGES


def anywhere(n_pages: int, density: float) -> Layout:
    """Return ``n_pages`` of which a share is READY, each page as likely as any other."""
    n = int(n_pages * density)
    return Layout(n_pages, np.sort(_distinct(np.random.default_rng(n_pages), n_pages, n)))


def in_blocks(n_pages: int, density: float, per_block: int) -> Layout:
    """Return ``n_pages`` with ``n_pages * density`` blocks in which ``per_block`` pages are READY."""
    rng, n = np.random.default_rng(n_pages), int(n_pages * density)
    blocks = np.sort(_distinct(rng, n_pages // BLOCK_PAGES, n))
    places = rng.permuted(np.tile(np.arange(BLOCK_PAGES), (n, 1)), axis=1)[:, :per_block]
    return Layout(n_pages, (blocks[:, None] * BLOCK_PAGES + np.sort(places, axis=1)).ravel())


def _distinct(rng: np.random.Generator, n: int, k: int) -> NDArray[np.int64]:
    return rng.choice(n, k, replace=False, shuffle=False)
