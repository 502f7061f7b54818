"""The claim: one compare-exchange from an observed READY word to 0, if the budget allows it.

Without a budget, neighbours that are all READY are claimed by one of 16 or 8 bytes.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Cuts, Fields, Segment, Store
from gpuscan.kernels.cpu.atomics import (
    atomic_clear_pair,
    atomic_compare_exchange,
    atomic_load,
    can_clear_pairs,
    count_64,
    count_ones,
    count_trailing_zeros,
    element_bits,
    plain_load,
    plain_store,
    prefetch,
    store_numbered,
)
from gpuscan.kernels.cpu.claims import claim_of
from gpuscan.kernels.cpu.compile import helper, shared_step
from gpuscan.kernels.cpu.pages import folio_pages, hotness_key, set_index, target_of

N_STAGED, POSITION, EXAMINED_PAGES, EXAMINED_BYTES = range(4)
"""What a scan kernel leaves in its ``state``: claims staged in this segment, first flat page not
covered, and what was read."""
STATE_LENGTH = 4

GATHERED_LENGTH = 128
"""Words of candidates in the ring of those that are gathered and not yet claimed, a power of two."""
TILE_WORDS = 32
"""Words that are gathered, or claimed, in one go."""
_LINES_PER_WORD = 4
"""Cache lines of the next tile that are prefetched per word of candidates."""
_MANY = 32
"""Candidates of 64 pages from which neighbours are claimed together. Below, few are READY side by side."""
_FEW_TARGETS = 16
"""Targets up to which claims are counted in registers."""
_EVEN_BYTES = 0x00FF_00FF_00FF_00FF
_STAGED_AHEAD = 64
"""Claims ahead of the next one whose places are prefetched: a compare-exchange waits for stores before it."""


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
def claim_pair(store: Store, index: int, claims: NDArray[np.int64], n_staged: int, offset: int) -> bool:
    """Claim all the pages that share 16 bytes, if all of them are READY, and stage them.

    The two halves are loaded one after the other; the compare-exchange succeeds only if both are what was
    loaded, at once.

    Args:
        index: of the first half in ``wide_records``, even.
        claims: where to stage, from ``n_staged`` on.
        offset: of the first page.

    Returns:
        Whether they were claimed.
    """
    low: int = atomic_load(store.wide_records, index)
    high: int = atomic_load(store.wide_records, index + 1)
    if low & high & store.wide_ready != store.wide_ready:
        return False
    if not atomic_clear_pair(store.wide_records, index, low, high):
        return False
    group_pages = 64 // element_bits(store.records)
    store_numbered(claims, n_staged, low, offset, store.records)
    store_numbered(claims, n_staged + group_pages, high, offset + group_pages, store.records)
    return True


@helper
def claim_many(
    store: Store, first: int, offset: int, pending: int, claims: NDArray[np.int64], n_staged: int
) -> int:
    """Claim the candidates of one ready word, neighbours together, without a budget, and stage them.

    Args:
        first: first page of the word.
        offset: the same, counted from the first page of the range.
        pending: a bit for each candidate.
        claims: where to stage, from ``n_staged`` on; it has room for all of them.

    Returns:
        How many are staged now.
    """
    group_pages = 64 // element_bits(store.records)
    group_bits = (1 << group_pages) - 1
    pair_bits = (1 << 2 * group_pages) - 1
    wide_index = first * element_bits(store.records) >> 6
    end = n_staged
    for line in range(n_staged + _STAGED_AHEAD, n_staged + _STAGED_AHEAD + 64, 8):
        prefetch(claims, line)
    for pair in range(0, 64, 2 * group_pages):
        is_whole = can_clear_pairs() and (pending >> pair) & pair_bits == pair_bits
        if is_whole and claim_pair(store, wide_index, claims, end, offset + pair):
            end += 2 * group_pages
            wide_index += 2
            continue
        for bit in range(pair, pair + 2 * group_pages, group_pages):
            wanted = (pending >> bit) & group_bits
            if wanted == group_bits:
                group = claim_group(store, wide_index)
                if group != 0:
                    store_numbered(claims, end, group, offset + bit, store.records)
                    end += group_pages
                    wanted = 0
            wide_index += 1
            end = claim_few(store, first + bit, offset + bit, wanted, claims, end)
    return end


@helper
def claim_few(
    store: Store, first: int, offset: int, pending: int, claims: NDArray[np.int64], n_staged: int
) -> int:
    """Do what :func:`claim_many` does, each by itself."""
    while pending != 0:
        page = count_trailing_zeros(pending)
        pending &= pending - 1
        word = claim_ready(store, first + page)
        if word != 0:
            plain_store(claims, n_staged, claim_of(store.records, offset + page, word))
            n_staged += 1
    return n_staged


@helper
def count_few_targets(
    fields: Fields, claims: NDArray[np.int64], lo: int, hi: int, n_of_target: NDArray[np.int64]
) -> int:
    """Count claims ``[lo, hi)`` by 64, up to 16 targets and 2**15 claims; return the first not counted."""
    unknown = len(n_of_target) - 1
    even_0 = odd_0 = even_8 = odd_8 = 0  # four counts of 16 bits each
    n_unknown = (hi - lo) & -64
    while hi - lo >= 64:
        low = count_64(claims, lo, fields.nid_shift, fields.nid_max, 0)
        even_0 += low & _EVEN_BYTES
        odd_0 += (low >> 8) & _EVEN_BYTES
        if unknown > 8:
            high = count_64(claims, lo, fields.nid_shift, fields.nid_max, 8)
            even_8 += high & _EVEN_BYTES
            odd_8 += (high >> 8) & _EVEN_BYTES
        lo += 64
    for target in range(unknown):
        even, odd = (even_0, odd_0) if target < 8 else (even_8, odd_8)
        counts = odd if target & 1 != 0 else even
        count = (counts >> ((target & 6) << 3)) & 0xFFFF
        plain_store(n_of_target, target, plain_load(n_of_target, target) + count)
        n_unknown -= count
    plain_store(n_of_target, unknown, plain_load(n_of_target, unknown) + n_unknown)
    return lo


@helper
def count_targets(
    store: Store, claims: NDArray[np.int64], lo: int, hi: int, n_of_target: NDArray[np.int64]
) -> None:
    """Count staged claims ``[lo, hi)`` by target, those of unknown ones last."""
    fields = store.fields
    unknown = len(n_of_target) - 1
    if fields.nid_max == 0:
        target = min(fields.fixed_target, unknown)
        plain_store(n_of_target, target, plain_load(n_of_target, target) + hi - lo)
        return
    if unknown <= _FEW_TARGETS and hi - lo >= 64:
        lo = count_few_targets(fields, claims, lo, hi, n_of_target)
    for index in range(lo, hi):
        target = min(target_of(fields, plain_load(claims, index)), unknown)
        plain_store(n_of_target, target, plain_load(n_of_target, target) + 1)


@shared_step
def claim_gathered(
    store: Store,
    cuts: Cuts,
    chunk: int,
    base: int,
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
        base: first flat page of the range, from which staged ones are counted.
        gathered: int64[GATHERED_LENGTH, 2], a ring: the first page of a ready word and a bit for
            each candidate.
        begin, end: which words, counted from the first that was gathered.
        segment: where to stage.
        n_of_target: int64[n_targets + 1], counts that go on over calls.
        ahead, ahead_end: flat pages whose records are read next: compare-exchanges leave
            the memory idle, so their loading is spread over the claims.
    """
    claims, state = segment
    n_before = n_staged = state[N_STAGED]
    line = 512 // element_bits(store.records)
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
                n_staged = claim_many(store, first, first - base, pending, claims, n_staged)
            else:
                n_staged = claim_few(store, first, first - base, pending, claims, n_staged)
            continue
        while pending != 0:
            flat = first + count_trailing_zeros(pending)
            pending &= pending - 1
            word = claim(store, cuts, chunk, flat)
            if word > 0:
                plain_store(claims, n_staged, claim_of(store.records, flat - base, word))
                n_staged += 1
            elif word < 0:
                set_index(store, flat)
    count_targets(store, claims, n_before, n_staged, n_of_target)
    state[N_STAGED] = n_staged


@helper
def set_ready_words(ready_bits: NDArray[np.uint64], index: int) -> int:
    """Return which of the 8 ready words of a block are not 0; the others need no clearing.

    Without a branch for each word: at a density of 1 % about every other is 0.
    """
    not_zero = 0
    for word in range(8):
        not_zero |= (1 if atomic_load(ready_bits, index + word) != 0 else 0) << word
    return not_zero
