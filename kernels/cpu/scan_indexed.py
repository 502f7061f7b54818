"""The indexed scan: block bits, ready bits, then the records of candidates only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Cuts, Store
from gpuscan.kernels.cpu.atomics import atomic_and, atomic_load, atomic_or, count_trailing_zeros, prefetch
from gpuscan.kernels.cpu.claim import (
    EXAMINED_BYTES,
    EXAMINED_PAGES,
    N_STAGED,
    POSITION,
    claim_gathered,
    take_ready_word,
)
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.pages import blocks_between

_BATCH = 128
"""Candidates whose records are on their way to the cache before the first is claimed."""
_SECTIONS_AHEAD = 8
"""How far ahead the ready words under set block bits are prefetched."""


@helper
def prefetch_ready_words(store: Store, section: int) -> None:
    """Start loading the ready words that a section's block word points to."""
    blocks = atomic_load(store.block_bits, section)
    while blocks != 0:
        prefetch(store.ready_bits, (section << 9) + (count_trailing_zeros(blocks) << 3))
        blocks &= blocks - 1


@kernel
def scan_indexed(
    store: Store,
    cuts: Cuts,
    node_mask: NDArray[np.uint8],
    chunk: int,
    lo: int,
    hi: int,
    flats: NDArray[np.int64],
    words: NDArray[Any],
    n_of_target: NDArray[np.int64],
    state: NDArray[np.int64],
) -> None:
    """Claim in ``[lo, hi)`` until the segment has no room for a whole block.

    Args:
        store, cuts, node_mask: as in the request.
        chunk: row of the quotas in ``cuts``.
        lo, hi: flat range, multiples of 512, inside one chunk.
        flats, words: the staging segment to fill from its start.
        n_of_target: int64[n_targets + 1], counts that go on over calls.
        state: int64[STATE_LENGTH].
    """
    n_staged = 0
    n_gathered = 0  # candidates follow the claims in flats until they are claimed
    n_pages = 0
    n_bytes = 0
    last_section = (hi - 1) >> 15
    position = lo
    while position < hi:
        section = position >> 15
        end = min(hi, (section + 1) << 15)
        if section + _SECTIONS_AHEAD <= last_section:
            prefetch_ready_words(store, section + _SECTIONS_AHEAD)
        n_bytes += 8
        blocks = blocks_between(position, end)
        if atomic_load(store.block_bits, section) & blocks == 0 or node_mask[store.section_nid[section]] == 0:
            position = end
            continue
        pending = atomic_and(store.block_bits, section, ~blocks) & blocks
        while pending != 0:
            if n_gathered - n_staged >= _BATCH or len(flats) - n_gathered < 512:
                n_staged = claim_gathered(store, cuts, chunk, flats, words, n_staged, n_gathered, n_of_target)
                n_gathered = n_staged
                if len(flats) - n_staged < 512:
                    break
            first_word = (section << 9) + (count_trailing_zeros(pending) << 3)
            pending &= pending - 1
            n_bytes += 64
            for word_index in range(first_word, first_word + 8):
                ready = take_ready_word(store.ready_bits, word_index)
                while ready != 0:
                    flat = (word_index << 6) + count_trailing_zeros(ready)
                    ready &= ready - 1
                    prefetch(store.records, flat)
                    flats[n_gathered] = flat
                    n_gathered += 1
                    n_pages += 1
        if pending != 0:
            position = (section << 15) + (count_trailing_zeros(pending) << 9)
            atomic_or(store.block_bits, section, pending)  # not come to: their ready bits are untouched
            break
        position = end
    n_staged = claim_gathered(store, cuts, chunk, flats, words, n_staged, n_gathered, n_of_target)
    state[N_STAGED] = n_staged
    state[POSITION] = position
    state[EXAMINED_PAGES] += n_pages
    state[EXAMINED_BYTES] += n_bytes + n_pages * store.records.itemsize
