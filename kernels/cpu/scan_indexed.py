"""The indexed scan: block bits, ready bits, then the records of candidates only."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Cuts, Store
from gpuscan.kernels.cpu.atomics import atomic_and, atomic_load, atomic_or, count_trailing_zeros
from gpuscan.kernels.cpu.claim import EXAMINED_BYTES, EXAMINED_PAGES, N_STAGED, POSITION, claim, stage, take_ready_word
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.kernels.cpu.pages import blocks_between


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
    n_pages = 0
    n_bytes = 0
    position = lo
    while position < hi:
        section = position >> 15
        end = min(hi, (section + 1) << 15)
        n_bytes += 8
        blocks = blocks_between(position, end)
        if atomic_load(store.block_bits, section) & blocks == 0 or node_mask[store.section_nid[section]] == 0:
            position = end
            continue
        pending = atomic_and(store.block_bits, section, ~blocks) & blocks
        kept = 0  # blocks whose pages stay READY, or were not come to
        position = end
        while pending != 0:
            block = count_trailing_zeros(pending)
            if len(flats) - n_staged < 512:
                position = (section << 15) + (block << 9)
                kept |= pending
                break
            pending &= pending - 1
            n_bytes += 64
            first_word = (section << 9) + (block << 3)
            for word_index in range(first_word, first_word + 8):
                ready = take_ready_word(store.ready_bits, word_index)
                staying = 0
                while ready != 0:
                    bit = count_trailing_zeros(ready)
                    ready &= ready - 1
                    flat = (word_index << 6) + bit
                    n_pages += 1
                    word = claim(store, cuts, chunk, flat)
                    if word > 0:
                        stage(store, flat, word, n_staged, flats, words, n_of_target)
                        n_staged += 1
                    elif word < 0:
                        staying |= 1 << bit
                if staying != 0:
                    atomic_or(store.ready_bits, word_index, staying)
                    kept |= 1 << block
        if kept != 0:
            atomic_or(store.block_bits, section, kept)
        if position < end:
            break
    state[N_STAGED] = n_staged
    state[POSITION] = position
    state[EXAMINED_PAGES] += n_pages
    state[EXAMINED_BYTES] += n_bytes + n_pages * store.records.itemsize
