"""The claim: one compare-exchange from an observed READY word to 0, if the budget allows it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Cuts, Segment, Store
from gpuscan.kernels.cpu.atomics import (
    atomic_compare_exchange,
    atomic_load,
    count_trailing_zeros,
    prefetch,
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
    line = 64 // store.records.itemsize
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
        while pending != 0:
            flat = first + count_trailing_zeros(pending)
            pending &= pending - 1
            word = claim(store, cuts, chunk, flat)
            if word > 0:
                lows[n_staged] = flat & 32767
                words[n_staged] = word
                n_staged += 1
                n_of_target[min(target_of(store.fields, word), unknown)] += 1
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
