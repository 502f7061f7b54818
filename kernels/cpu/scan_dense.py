"""The dense scan: read every record once."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Cuts, Store
from gpuscan.kernels.cpu.atomics import (
    atomic_and,
    atomic_load,
    atomic_or,
    count_trailing_zeros,
    match_64,
    or_256_bytes,
)
from gpuscan.kernels.cpu.claim import (
    EXAMINED_BYTES,
    EXAMINED_PAGES,
    N_STAGED,
    POSITION,
    claim_gathered,
    take_ready_word,
)
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.kernels.cpu.pages import blocks_between


@kernel
def scan_dense(
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

    Arguments as :data:`scan_indexed`. Ready bits are taken, not looked at, and only under
    set block bits: where a producer marks a page just now, the record may be claimed here
    before its bits are set, which leaves bits that say too much, never too little.
    """
    n_staged = 0
    n_gathered = 0  # candidates follow the claims in flats until they are claimed
    n_pages = 0
    n_bytes = 0
    wide_block = 512 * store.records.itemsize // 8  # 64-bit words in the records of a block
    position = lo
    while position < hi:
        section = position >> 15
        end = min(hi, (section + 1) << 15)
        n_bytes += 8
        if node_mask[store.section_nid[section]] == 0:
            position = end
            continue
        blocks = blocks_between(position, end)
        taken = atomic_load(store.block_bits, section) & blocks
        if taken != 0:
            taken = atomic_and(store.block_bits, section, ~blocks) & blocks
        while position < end:
            if len(flats) - n_gathered < 512:
                break
            if (taken >> ((position >> 9) & 63)) & 1 != 0:
                n_bytes += 64
                for word_index in range(position >> 6, (position >> 6) + 8):
                    take_ready_word(store.ready_bits, word_index)
            n_pages += 512
            wide_index = position * store.records.itemsize // 8
            seen = 0
            for tile in range(wide_index, wide_index + wide_block, 32):
                seen |= or_256_bytes(store.wide_records, tile)
            if seen & store.wide_ready != 0:
                for first in range(position, position + 512, 64):
                    ready = match_64(store.records, first, store.fields.ready)
                    while ready != 0:
                        flats[n_gathered] = first + count_trailing_zeros(ready)
                        n_gathered += 1
                        ready &= ready - 1
            position += 512
        # While the section is in the cache.
        n_staged = claim_gathered(store, cuts, chunk, flats, words, n_staged, n_gathered, n_of_target)
        n_gathered = n_staged
        if position < end:
            not_come_to = taken & blocks_between(position, end)
            if not_come_to != 0:
                atomic_or(store.block_bits, section, not_come_to)
            break
    state[N_STAGED] = n_staged
    state[POSITION] = position
    state[EXAMINED_PAGES] += n_pages
    state[EXAMINED_BYTES] += n_bytes + n_pages * store.records.itemsize
