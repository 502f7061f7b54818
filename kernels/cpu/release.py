"""``release`` and ``undo``: claimed words go back into their records."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Cuts, Store
from gpuscan.kernels.cpu.atomics import atomic_compare_exchange, atomic_load, copy_64, plain_load
from gpuscan.kernels.cpu.claims import offset_of, word_of
from gpuscan.kernels.cpu.compile import helper, kernel
from gpuscan.kernels.cpu.pages import (
    activate_node,
    folio_pages,
    hotness_key,
    is_eligible,
    set_index,
)
from gpuscan.kernels.cpu.staging import N_STAGED, N_STRIPS, STRIP_CLAIMS, length_of
from gpuscan.kernels.outcomes import ReleaseOutcome

_RESTORED, _SUPERSEDED = int(ReleaseOutcome.RESTORED), int(ReleaseOutcome.SUPERSEDED)
_INELIGIBLE = int(ReleaseOutcome.INELIGIBLE)


@helper
def put_back(store: Store, flat: int, claimed: int) -> bool:
    """Restore a claimed word, indexed, unless the page is READY again; return whether it was restored."""
    word = atomic_load(store.records, flat)
    while word & store.fields.ready == 0:
        seen = atomic_compare_exchange(store.records, flat, word, claimed)
        if seen == word:
            set_index(store, flat)
            return True
        word = seen
    return False


@kernel
def release(
    store: Store,
    flats: NDArray[np.int64],
    words: NDArray[Any],
    lo: int,
    hi: int,
    outcomes: NDArray[np.uint8],
    counts: NDArray[np.int64],
) -> None:
    """Put back elements ``[lo, hi)`` of what a plan claimed."""
    for index in range(lo, hi):
        flat = flats[index]
        outcome = _INELIGIBLE
        if is_eligible(store, flat):
            outcome = _SUPERSEDED
            if put_back(store, flat, plain_load(words, index)):
                outcome = _RESTORED
                activate_node(store, flat >> 15)
        counts[outcome] += 1
        if len(outcomes) > 0:
            outcomes[index] = outcome


@kernel
def undo(
    store: Store,
    cuts: Cuts,
    chunk: int,
    base: int,
    claims: NDArray[np.int64],
    owners: NDArray[np.int32],
    places: NDArray[np.int64],
    n_of_target: NDArray[np.int64],
    state: NDArray[np.int64],
    from_flat: int,
) -> int:
    """Take the claims of a segment from a flat page on back: records, quotas, counts.

    Eligibility is not asked: to everybody outside, these claims were never made.

    Returns:
        How many were superseded: their pages are READY again by a newer request.
    """
    n_superseded = 0
    n_targets = len(n_of_target) - 1
    # Those of a target were handed out, and filled, in flat order: what stays of each target is a beginning.
    for strip in range(state[N_STRIPS] - 1, -1, -1):
        target = plain_load(owners, strip)
        first = strip * STRIP_CLAIMS
        n_kept = length = length_of(places, strip, target)
        while n_kept > 0:
            claim = plain_load(claims, first + n_kept - 1)
            flat, word = base + offset_of(store.records, claim), word_of(store.records, claim)
            if flat < from_flat:
                break
            n_kept -= 1
            if not put_back(store, flat, word):
                n_superseded += 1
            if len(cuts.cut_key) == 0 or target == n_targets or cuts.cut_key[target] < 0:
                continue
            n_pages = folio_pages(store, flat)
            if hotness_key(store.fields, word, cuts.now) < cuts.cut_key[target]:
                cuts.above_pages[chunk, target] += n_pages
            elif flat >= cuts.resume_flat[target]:
                cuts.tie_pages_from[chunk, target] += n_pages
            else:
                cuts.tie_pages_below[chunk, target] += n_pages
        n_of_target[target] -= length - n_kept
        state[N_STAGED] -= length - n_kept
        if n_kept < length:
            places[target] = first + n_kept if n_kept > 0 else 0
        if n_kept == 0:
            owners[strip] = -1
    # Of several targets the order may be another one, so what is empty now need not be the end.
    n_strips = 0
    for strip in range(state[N_STRIPS]):
        target = owners[strip]
        if target < 0:
            continue
        if n_strips < strip:
            copy_64(claims, n_strips * STRIP_CLAIMS, claims, strip * STRIP_CLAIMS)
            owners[n_strips] = target
            if (places[target] - 1) // STRIP_CLAIMS == strip:
                places[target] -= (strip - n_strips) * STRIP_CLAIMS
        n_strips += 1
    state[N_STRIPS] = n_strips
    return n_superseded
