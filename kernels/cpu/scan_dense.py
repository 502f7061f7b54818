"""The dense scan: read every record once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Cuts, Segment, Store
from gpuscan.kernels.cpu.atomics import (
    atomic_and,
    atomic_clear,
    atomic_load,
    atomic_or,
    count_trailing_zeros,
    full_fence,
    match_64,
    or_256_bytes,
)
from gpuscan.kernels.cpu.claim import TILE_WORDS, claim_gathered, set_ready_words
from gpuscan.kernels.cpu.compile import kernel
from gpuscan.kernels.cpu.pages import blocks_between
from gpuscan.kernels.cpu.scan_indexed import prefetch_ready_words
from gpuscan.kernels.cpu.staging import (
    EXAMINED_BYTES,
    EXAMINED_PAGES,
    POSITION,
    begin,
    finish,
    room_pages,
)

_TILE_PAGES = 64 * TILE_WORDS
"""Records that are looked at before the READY ones among them are claimed: 8 KiB of 4-byte
records, so that claims find them in the first-level cache."""
_TILE_QUADS = TILE_WORDS // 4
"""Words with candidates in a tile from which the next is not looked at wide first: at this density,
0.5 %, most 256 records hold one."""


@kernel
def scan_dense(
    store: Store,
    cuts: Cuts,
    node_mask: NDArray[np.uint8],
    chunk: int,
    base: int,
    lo: int,
    hi: int,
    gathered: NDArray[np.int64],
    waiting: NDArray[np.int64],
    claims: NDArray[np.int64],
    owners: NDArray[np.int32],
    places: NDArray[np.int64],
    n_of_target: NDArray[np.int64],
    state: NDArray[np.int64],
) -> None:
    """Claim in ``[lo, hi)`` until the segment has no room for a whole block.

    Arguments as :data:`scan_indexed`. Ready bits are taken, not looked at, and only under
    set block bits: where a producer marks a page just now, the record may be claimed here
    before its bits are set, which leaves bits that say too much, never too little.
    """
    segment = Segment(claims, owners, places, n_of_target, state)
    begin(segment)
    n_pages = 0
    n_bytes = 0
    itemsize = store.records.itemsize
    last_section = (hi - 1) >> 15
    n_gathered = 0
    position = lo
    while position < hi:
        section = position >> 15
        end = min(hi, (section + 1) << 15)
        n_bytes += 8
        if node_mask[store.section_nid[section]] == 0:
            position = end
            continue
        if room_pages(segment) < 512:
            break
        if section < last_section:
            prefetch_ready_words(store, section + 1)
        blocks = blocks_between(position, end)
        taken = atomic_load(store.block_bits, section) & blocks
        if taken != 0:
            taken = atomic_and(store.block_bits, section, ~blocks) & blocks
        while position < end:
            tile_end = min(end, position + _TILE_PAGES, position + (room_pages(segment) & -512))
            if position == tile_end:
                break
            # Index bits first: what becomes READY after its record was read sets them again.
            to_clear = 0
            first_word = position >> 6
            for word_index in range(first_word, tile_end >> 6, 8):
                if (taken >> ((word_index >> 3) & 63)) & 1 != 0:
                    n_bytes += 64
                    to_clear |= set_ready_words(store.ready_bits, word_index) << (word_index - first_word)
            if to_clear != 0:
                # Nobody asks what they were, so stores do, and one fence for all of them.
                while to_clear != 0:
                    atomic_clear(store.ready_bits, first_word + count_trailing_zeros(to_clear))
                    to_clear &= to_clear - 1
                full_fence()
            n_pages += tile_end - position
            look_wide = n_gathered < _TILE_QUADS
            n_gathered = 0
            for quad in range(position, tile_end, 256):
                if look_wide:
                    seen = 0
                    wide_index = quad * itemsize >> 3
                    for wide in range(wide_index, wide_index + 32 * itemsize, 32):
                        seen |= or_256_bytes(store.wide_records, wide)
                    if seen & store.wide_ready == 0:
                        continue
                for first in range(quad, quad + 256, 64):
                    ready = match_64(store.records, first, store.fields.ready)
                    gathered[n_gathered, 0] = first
                    gathered[n_gathered, 1] = ready
                    n_gathered += 1 if ready != 0 else 0
            if n_gathered > 0:
                claim_gathered(
                    store,
                    cuts,
                    chunk,
                    base,
                    gathered,
                    0,
                    n_gathered,
                    waiting,
                    segment,
                    tile_end,
                    min(hi, tile_end + _TILE_PAGES),
                )
            position = tile_end
        if position < end:
            not_come_to = taken & blocks_between(position, end)
            if not_come_to != 0:
                atomic_or(store.block_bits, section, not_come_to)
            break
    finish(store.fields, waiting, segment)
    state[POSITION] = position
    state[EXAMINED_PAGES] = n_pages
    state[EXAMINED_BYTES] = n_bytes + n_pages * itemsize
