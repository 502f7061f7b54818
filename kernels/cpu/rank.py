"""``rank``: how many READY base pages each target has per hotness key, read through the index."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Store
from gpuscan.kernels.cpu.atomics import atomic_load, count_trailing_zeros
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.kernels.cpu.pages import folio_pages, hotness_key, target_of


@kernel
def rank(
    store: Store,
    node_mask: NDArray[np.uint8],
    lo: int,
    hi: int,
    now: int,
    row_of_target: NDArray[np.int32],
    resume_flat: NDArray[np.int64],
    pages_of_key: NDArray[np.int64],
    seen_pages: NDArray[np.int64],
) -> None:
    """Count in ``[lo, hi)``; claims nothing, clears nothing.

    Args:
        store, node_mask, lo, hi: as for scans.
        now: TIME units.
        row_of_target: int32[n_targets], row in ``pages_of_key``, -1 without a limit.
        resume_flat: int64[n_targets].
        pages_of_key: int64[2, n_rows, n_keys], added to: base pages at or after
            ``resume_flat``, and before it.
        seen_pages: int64[n_targets], added to.
    """
    fields = store.fields
    for section in range(lo >> 15, (hi + 32767) >> 15):
        if node_mask[store.section_nid[section]] == 0:
            continue
        blocks = atomic_load(store.block_bits, section)
        while blocks != 0:
            first_word = (section << 9) + (count_trailing_zeros(blocks) << 3)
            blocks &= blocks - 1
            if first_word << 6 < lo or first_word << 6 >= hi:
                continue
            for word_index in range(first_word, first_word + 8):
                ready = atomic_load(store.ready_bits, word_index)
                while ready != 0:
                    flat = (word_index << 6) + count_trailing_zeros(ready)
                    ready &= ready - 1
                    word = atomic_load(store.records, flat)
                    target = target_of(fields, word)
                    if word & fields.ready == 0 or target >= len(row_of_target):
                        continue
                    n_pages = folio_pages(store, flat)
                    seen_pages[target] += n_pages
                    row = row_of_target[target]
                    if row >= 0:
                        side = 0 if flat >= resume_flat[target] else 1
                        pages_of_key[side, row, hotness_key(fields, word, now)] += n_pages
