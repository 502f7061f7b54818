"""The indexed scan: block bits, ready bits, then the records of candidates only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Cuts, Store
from gpuscan.kernels.cpu.atomics import (
    atomic_and,
    atomic_exchange,
    atomic_load,
    atomic_or,
    count_ones,
    count_trailing_zeros,
    prefetch,
)
from gpuscan.kernels.cpu.claim import (
    BATCH,
    EXAMINED_BYTES,
    EXAMINED_PAGES,
    N_RUNS,
    N_STAGED,
    POSITION,
    claim_gathered,
    set_ready_words,
)
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.pages import blocks_between

_BLOCKS_AHEAD = 64
"""Set blocks ahead whose ready words are on their way to the cache."""


@helper
def prefetch_ready_words(store: Store, section: int) -> int:
    """Start loading the ready words that a section's block word points to; return how many blocks it has."""
    blocks = atomic_load(store.block_bits, section)
    n_blocks: int = count_ones(blocks)
    while blocks != 0:
        prefetch(store.ready_bits, (section << 9) + (count_trailing_zeros(blocks) << 3))
        blocks &= blocks - 1
    return n_blocks


@kernel
def scan_indexed(
    store: Store,
    cuts: Cuts,
    node_mask: NDArray[np.uint8],
    chunk: int,
    lo: int,
    hi: int,
    gathered: NDArray[np.int64],
    lows: NDArray[np.uint16],
    words: NDArray[Any],
    runs: NDArray[np.int64],
    n_of_target: NDArray[np.int64],
    state: NDArray[np.int64],
) -> None:
    """Claim in ``[lo, hi)`` until the segment has no room for a whole block.

    Args:
        store, cuts, node_mask: as in the request.
        chunk: row of the quotas in ``cuts``.
        lo, hi: flat range, multiples of 512, inside one chunk.
        gathered: int64[GATHERED_LENGTH, 2], scratch.
        lows, words, runs, state: the staging segment to fill from its start.
        n_of_target: int64[n_targets + 1], counts that go on over calls.
    """
    state[:] = 0
    n_gathered = 0
    n_candidates = 0
    n_pages = 0
    n_bytes = 0
    last_section = (hi - 1) >> 15
    position = lo
    n_sections = 0  # visited since the last claims: each may begin a run
    ahead = lo >> 15  # first section not prefetched
    n_ahead = 0
    while position < hi:
        section = position >> 15
        end = min(hi, (section + 1) << 15)
        n_bytes += 8
        while ahead <= last_section and n_ahead < _BLOCKS_AHEAD:
            n_ahead += prefetch_ready_words(store, ahead)
            ahead += 1
        blocks = blocks_between(position, end)
        if atomic_load(store.block_bits, section) & blocks == 0 or node_mask[store.section_nid[section]] == 0:
            position = end
            continue
        n_sections += 1
        pending = atomic_and(store.block_bits, section, ~blocks) & blocks
        n_ahead -= count_ones(pending)
        while pending != 0:
            if (
                n_gathered >= BATCH
                or len(words) - state[N_STAGED] - n_candidates < 512
                or len(runs) - state[N_RUNS] < n_sections
            ):
                claim_gathered(
                    store, cuts, chunk, gathered, n_gathered, lows, words, runs, n_of_target, state, 0, 0
                )
                n_pages += n_candidates
                n_gathered = 0
                n_candidates = 0
                n_sections = 1
                if len(words) - state[N_STAGED] < 512 or len(runs) == state[N_RUNS]:
                    break
            first_word = (section << 9) + (count_trailing_zeros(pending) << 3)
            pending &= pending - 1
            n_bytes += 64
            to_take = set_ready_words(store.ready_bits, first_word)
            while to_take != 0:
                word_index = first_word + count_trailing_zeros(to_take)
                to_take &= to_take - 1
                ready = atomic_exchange(store.ready_bits, word_index, 0)
                gathered[n_gathered, 0] = word_index << 6
                gathered[n_gathered, 1] = ready
                n_gathered += 1
                n_candidates += count_ones(ready)
                while ready != 0:
                    flat = (word_index << 6) + count_trailing_zeros(ready)
                    ready &= ready - 1
                    prefetch(store.records, flat)
        if pending != 0:
            position = (section << 15) + (count_trailing_zeros(pending) << 9)
            atomic_or(store.block_bits, section, pending)  # not come to: their ready bits are untouched
            break
        position = end
    claim_gathered(store, cuts, chunk, gathered, n_gathered, lows, words, runs, n_of_target, state, 0, 0)
    n_pages += n_candidates
    state[POSITION] = position
    state[EXAMINED_PAGES] = n_pages
    state[EXAMINED_BYTES] = n_bytes + n_pages * store.records.itemsize
