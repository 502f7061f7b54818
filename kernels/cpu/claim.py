"""The claim: one compare-exchange from an observed READY word to 0, if the budget allows it.

Without a budget, neighbours that are all READY are claimed by one of 16 or 8 bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Cuts, Segment, Store
from gpuscan.kernels.cpu.atomics import (
    atomic_compare_exchange,
    atomic_load,
    count_ones,
    count_trailing_zeros,
    element_bits,
    plain_load,
    plain_store,
    prefetch,
    store_numbered,
    take_pairs,
)
from gpuscan.kernels.cpu.claims import claim_of
from gpuscan.kernels.cpu.compile import helper, shared_step
from gpuscan.kernels.cpu.pages import folio_pages, hotness_key, set_index, target_of
from gpuscan.kernels.cpu.staging import N_WAITING, STAGED_TOGETHER, stage

GATHERED_LENGTH = 128
"""Words of candidates in the ring of those that are gathered and not yet claimed, a power of two."""
WAITING_LENGTH = STAGED_TOGETHER + 64 * GATHERED_LENGTH
"""Claims that wait to be staged: fewer than are staged, and all that words in the ring may become."""
TILE_WORDS = 32
"""Words that are gathered, or claimed, in one go."""
_LINES_PER_WORD = 4
"""Cache lines of the next tile that are prefetched per word of candidates."""
_MANY = 32
"""Candidates of 64 pages from which neighbours are claimed together. Below, few are READY side by side."""


@helper
def allowance(store: Store, cuts: Cuts, chunk: int, flat: int, word: int, target: int) -> int:
    """Return where a claim of this word is paid from: 0 nowhere, 1 above, 2 and 3 ties, -1 must stay."""
    if len(cuts.cut_key) == 0 or target >= len(cuts.cut_key) or cuts.cut_key[target] < 0:
        return 0
    cut = cuts.cut_key[target]
    key = hotness_key(store.fields, word, cuts.now)
    n_pages = folio_pages(store, flat)
    if key < cut:
        return 1 if n_pages <= cuts.above_pages[chunk, target] else -1
    if key > cut:
        return -1
    if flat >= cuts.resume_flat[target]:
        if n_pages <= cuts.tie_pages_from[chunk, target]:
            return 2
        cuts.tie_pages_from[chunk, target] = 0  # a strict prefix: the first that does not fit is the last
        return -1
    if n_pages <= cuts.tie_pages_below[chunk, target]:
        return 3
    cuts.tie_pages_below[chunk, target] = 0
    return -1


@helper
def claim(store: Store, cuts: Cuts, chunk: int, flat: int) -> int:
    """Claim a page; return the word taken, 0 where it is not READY, -1 where it must stay READY."""
    fields = store.fields
    word: int = atomic_load(store.records, flat)
    while word & fields.ready != 0:
        target = target_of(fields, word)
        paid_from = allowance(store, cuts, chunk, flat, word, target)
        if paid_from < 0:
            return -1
        seen = atomic_compare_exchange(store.records, flat, word, 0)
        if seen == word:
            if paid_from == 1:
                cuts.above_pages[chunk, target] -= folio_pages(store, flat)
            elif paid_from == 2:
                cuts.tie_pages_from[chunk, target] -= folio_pages(store, flat)
            elif paid_from == 3:
                cuts.tie_pages_below[chunk, target] -= folio_pages(store, flat)
            return word
        word = seen
    return 0


@helper
def claim_ready(store: Store, flat: int) -> int:
    """Claim a page without a budget; return the word taken, 0 where it is not READY."""
    word: int = atomic_load(store.records, flat)
    while word & store.fields.ready != 0:
        seen = atomic_compare_exchange(store.records, flat, word, 0)
        if seen == word:
            return word
        word = seen
    return 0


@helper
def claim_group(store: Store, index: int) -> int:
    """Claim all the pages that share 8 bytes, if all of them are READY.

    One compare-exchange of the whole is the claims of each in one step (docs/protocol.md).

    Args:
        index: of these bytes in ``wide_records``.

    Returns:
        The words taken, side by side; 0 where nothing was claimed: one is not READY, or somebody
        changed one meanwhile. Then each is to be claimed by itself.
    """
    group: int = atomic_load(store.wide_records, index)
    if group & store.wide_ready != store.wide_ready:
        return 0
    return group if atomic_compare_exchange(store.wide_records, index, group, 0) == group else 0


@helper
def claim_many(
    store: Store, first: int, offset: int, pending: int, waiting: NDArray[np.int64], n_waiting: int
) -> int:
    """Claim the candidates of one ready word, neighbours together, without a budget, and line them up.

    Args:
        first: first page of the word.
        offset: the same, counted from the first page of the range.
        pending: a bit for each candidate.
        waiting: where to put them, from ``n_waiting`` on; it has room for 64.

    Returns:
        How many wait now.
    """
    group_pages = 64 // element_bits(store.records)
    pair_pages = 2 * group_pages
    group_bits = (1 << group_pages) - 1
    wide_index = first * element_bits(store.records) >> 6
    taken = take_pairs(
        store.wide_records, wide_index, store.wide_ready, pending, waiting, n_waiting, offset, store.records
    )
    if taken == (1 << (64 // pair_pages)) - 1:
        return n_waiting + 64
    end = n_waiting
    for pair in range(0, 64, pair_pages):
        if taken & 1 != 0:
            for page in range(pair_pages):
                plain_store(waiting, end + page, plain_load(waiting, n_waiting + pair + page))
            end += pair_pages
        else:
            for bit in range(pair, pair + pair_pages, group_pages):
                wanted = (pending >> bit) & group_bits
                if wanted == group_bits:
                    group = claim_group(store, wide_index + bit // group_pages)
                    if group != 0:
                        store_numbered(waiting, end, group, offset + bit, store.records)
                        end += group_pages
                        wanted = 0
                end = claim_few(store, first + bit, offset + bit, wanted, waiting, end)
        taken >>= 1
    return end


@helper
def claim_few(
    store: Store, first: int, offset: int, pending: int, waiting: NDArray[np.int64], n_waiting: int
) -> int:
    """Do what :func:`claim_many` does, each by itself."""
    while pending != 0:
        page = count_trailing_zeros(pending)
        pending &= pending - 1
        word = claim_ready(store, first + page)
        if word != 0:
            plain_store(waiting, n_waiting, claim_of(store.records, offset + page, word))
            n_waiting += 1
    return n_waiting


@shared_step
def claim_gathered(
    store: Store,
    cuts: Cuts,
    chunk: int,
    base: int,
    gathered: NDArray[np.int64],
    begin: int,
    end: int,
    waiting: NDArray[np.int64],
    segment: Segment,
    ahead: int,
    ahead_end: int,
) -> None:
    """Claim the candidates gathered and stage what was claimed, once that is many.

    Their index bits were taken; pages that stay READY are indexed again.

    Args:
        base: first flat page of the range, from which staged ones are counted.
        gathered: int64[GATHERED_LENGTH, 2], a ring: the first page of a ready word and a bit for
            each candidate.
        begin, end: which words, counted from the first that was gathered.
        waiting: int64[WAITING_LENGTH], claims that are not staged yet.
        segment: where to stage; it has room for all of them.
        ahead, ahead_end: flat pages whose records are read next: compare-exchanges leave
            the memory idle, so their loading is spread over the claims.
    """
    line = 512 // element_bits(store.records)
    n_waiting = segment.state[N_WAITING]
    for item in range(begin, end):
        slot = item & (GATHERED_LENGTH - 1)
        first = gathered[slot, 0]
        pending = gathered[slot, 1]
        stop = min(ahead_end, ahead + _LINES_PER_WORD * line)
        while ahead < stop:
            prefetch(store.records, ahead)
            ahead += line
        if len(cuts.cut_key) == 0:
            if count_ones(pending) >= _MANY:
                n_waiting = claim_many(store, first, first - base, pending, waiting, n_waiting)
            else:
                n_waiting = claim_few(store, first, first - base, pending, waiting, n_waiting)
            continue
        while pending != 0:
            flat = first + count_trailing_zeros(pending)
            pending &= pending - 1
            word = claim(store, cuts, chunk, flat)
            if word > 0:
                plain_store(waiting, n_waiting, claim_of(store.records, flat - base, word))
                n_waiting += 1
            elif word < 0:
                set_index(store, flat)
    if n_waiting >= STAGED_TOGETHER:
        stage(store.fields, waiting, n_waiting, segment)
        n_waiting = 0
    segment.state[N_WAITING] = n_waiting


@helper
def set_ready_words(ready_bits: NDArray[np.uint64], index: int) -> int:
    """Return which of the 8 ready words of a block are not 0; the others need no clearing.

    Without a branch for each word: at a density of 1 % about every other is 0.
    """
    not_zero = 0
    for word in range(8):
        not_zero |= (1 if atomic_load(ready_bits, index + word) != 0 else 0) << word
    return not_zero
