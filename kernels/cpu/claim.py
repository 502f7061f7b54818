"""The claim: one compare-exchange from an observed READY word to 0, if the budget allows it.

Without a budget, neighbours that are all READY are claimed by one of 8 bytes.
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
    store_ascending_64,
    store_group,
)
from gpuscan.kernels.cpu.compile import helper, shared_step
from gpuscan.kernels.cpu.pages import folio_pages, hotness_key, set_index, target_of

N_STAGED, N_RUNS, POSITION, EXAMINED_PAGES, EXAMINED_BYTES = range(5)
"""What a scan kernel leaves in its ``state``: claims staged in this segment and the runs they are
in, first flat page not covered, and what was read."""
STATE_LENGTH = 5

GATHERED_LENGTH = 128
"""Words of candidates in the ring of those that are gathered and not yet claimed, a power of two."""
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
def claim_group(store: Store, flat: int) -> int:
    """Claim all the pages that share 8 bytes, if all of them are READY.

    One compare-exchange of the whole is the claims of each in one step (docs/protocol.md).

    Args:
        flat: the first of them.

    Returns:
        The words taken, side by side; 0 where nothing was claimed: one is not READY, or somebody
        changed one meanwhile. Then each is to be claimed by itself.
    """
    index = flat * element_bits(store.records) >> 6
    group: int = atomic_load(store.wide_records, index)
    if group & store.wide_ready != store.wide_ready:
        return 0
    return group if atomic_compare_exchange(store.wide_records, index, group, 0) == group else 0


@helper
def claim_many(
    store: Store,
    first: int,
    pending: int,
    segment: Segment,
    n_staged: int,
    n_of_target: NDArray[np.int64],
) -> int:
    """Claim the candidates of one ready word, neighbours together, without a budget, and stage them.

    Args:
        first: first page of the word.
        pending: a bit for each candidate.
        segment: where to stage, from ``n_staged`` on; it has room for all of them.
        n_of_target: int64[n_targets + 1], counts that go on over calls.

    Returns:
        How many are staged now.
    """
    fields, lows, words = store.fields, segment.lows, segment.words
    group_pages = 64 // element_bits(store.records)
    group_bits = (1 << group_pages) - 1
    claimed = 0
    end = n_staged
    for bit in range(0, 64, group_pages):
        wanted = (pending >> bit) & group_bits
        if wanted == group_bits:
            group = claim_group(store, first + bit)
            if group != 0:
                store_group(words, end, group)
                end += group_pages
                claimed |= group_bits << bit
                continue
        while wanted != 0:
            page = bit + count_trailing_zeros(wanted)
            wanted &= wanted - 1
            word = claim_ready(store, first + page)
            if word != 0:
                plain_store(words, end, word)
                end += 1
                claimed |= 1 << page
    if claimed == -1:
        store_ascending_64(lows, n_staged, first & 32767)
    else:
        for index in range(n_staged, end):
            plain_store(lows, index, (first & 32767) + count_trailing_zeros(claimed))
            claimed &= claimed - 1
    unknown = len(n_of_target) - 1
    if fields.nid_max == 0:
        target = min(fields.fixed_target, unknown)
        plain_store(n_of_target, target, plain_load(n_of_target, target) + end - n_staged)
        return end
    for index in range(n_staged, end):
        target = min(target_of(fields, plain_load(words, index)), unknown)
        plain_store(n_of_target, target, plain_load(n_of_target, target) + 1)
    return end


@helper
def claim_few(
    store: Store,
    first: int,
    pending: int,
    segment: Segment,
    n_staged: int,
    n_of_target: NDArray[np.int64],
) -> int:
    """Do what :func:`claim_many` does, each by itself."""
    fields, lows, words = store.fields, segment.lows, segment.words
    unknown = len(n_of_target) - 1
    end = n_staged
    while pending != 0:
        page = count_trailing_zeros(pending)
        pending &= pending - 1
        word = claim_ready(store, first + page)
        if word != 0:
            plain_store(lows, end, (first & 32767) + page)
            plain_store(words, end, word)
            end += 1
            if fields.nid_max != 0:
                target = min(target_of(fields, word), unknown)
                plain_store(n_of_target, target, plain_load(n_of_target, target) + 1)
    if fields.nid_max == 0:
        target = min(fields.fixed_target, unknown)
        plain_store(n_of_target, target, plain_load(n_of_target, target) + end - n_staged)
    return end


@shared_step
def claim_gathered(
    store: Store,
    cuts: Cuts,
    chunk: int,
    gathered: NDArray[np.int64],
    begin: int,
    end: int,
    segment: Segment,
    n_of_target: NDArray[np.int64],
    ahead: int,
    ahead_end: int,
) -> None:
    """Claim the candidates gathered and stage what was claimed, in order.

    Their index bits were taken; pages that stay READY are indexed again. Claims are
    counted per target, the last count is for unknown ones.

    Args:
        gathered: int64[GATHERED_LENGTH, 2], a ring: the first page of a ready word and a bit for
            each candidate.
        begin, end: which words, counted from the first that was gathered.
        segment: where to stage.
        n_of_target: int64[n_targets + 1], counts that go on over calls.
        ahead, ahead_end: flat pages whose records are read next: compare-exchanges leave
            the memory idle, so their loading is spread over the claims.
    """
    lows, words, runs, state = segment
    unknown = len(n_of_target) - 1
    n_staged = state[N_STAGED]
    n_runs = state[N_RUNS]
    line = 512 // element_bits(store.records)
    section = runs[n_runs - 1, 0] if n_runs > 0 else -1
    for item in range(begin, end):
        slot = item & (GATHERED_LENGTH - 1)
        first = gathered[slot, 0]
        pending = gathered[slot, 1]
        if first >> 15 != section:
            if n_runs > 0:
                runs[n_runs - 1, 1] = n_staged
            section = first >> 15
            runs[n_runs, 0] = section
            n_runs += 1
        stop = min(ahead_end, ahead + _LINES_PER_WORD * line)
        while ahead < stop:
            prefetch(store.records, ahead)
            ahead += line
        if count_ones(pending) >= _MANY and len(cuts.cut_key) == 0:
            n_staged = claim_many(store, first, pending, segment, n_staged, n_of_target)
            continue
        if len(cuts.cut_key) == 0:
            n_staged = claim_few(store, first, pending, segment, n_staged, n_of_target)
            continue
        while pending != 0:
            flat = first + count_trailing_zeros(pending)
            pending &= pending - 1
            word = claim(store, cuts, chunk, flat)
            if word > 0:
                plain_store(lows, n_staged, flat & 32767)
                plain_store(words, n_staged, word)
                n_staged += 1
                target = min(target_of(store.fields, word), unknown)
                plain_store(n_of_target, target, plain_load(n_of_target, target) + 1)
            elif word < 0:
                set_index(store, flat)
    if n_runs > 0:
        runs[n_runs - 1, 1] = n_staged
    state[N_STAGED] = n_staged
    state[N_RUNS] = n_runs


@helper
def set_ready_words(ready_bits: NDArray[np.uint64], index: int) -> int:
    """Return which of the 8 ready words of a block are not 0; the others need no clearing.

    Without a branch for each word: at a density of 1 % about every other is 0.
    """
    not_zero = 0
    for word in range(8):
        not_zero |= (1 if atomic_load(ready_bits, index + word) != 0 else 0) << word
    return not_zero
