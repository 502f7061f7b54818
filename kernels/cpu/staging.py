"""Staging: where claims go, by target, so that nothing is counted beforehand or grouped afterwards.

A segment is cut into strips of 64 claims of one target, handed out in the order in which they are needed.
Claims wait until they are some thousand, then each is stored behind the last one of its target. The strips of
a target, in the order of the segments, are its group in the plan; whoever reads the plan has them copied.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.kernels.cpu.arguments import Fields, Segment
from gpuscan.kernels.cpu.atomics import copy_64, differ_64, plain_load, plain_store, prefetch
from gpuscan.kernels.cpu.compile import helper
from gpuscan.kernels.cpu.staging_vectors import FEW_TARGETS, stage_128

N_STAGED, POSITION, EXAMINED_PAGES, EXAMINED_BYTES, N_STRIPS, N_WAITING = range(6)
"""What a scan kernel leaves in the ``state`` of a segment: its claims, the first flat page not covered, what
was read, the strips handed out, and, while it works, claims that wait to be staged."""
STATE_LENGTH = 6
STRIP_CLAIMS = 64
"""Eight cache lines. Longer ones gain nothing and waste more behind the last claim of each target."""
STAGED_TOGETHER = 8192
"""Claims that are staged in one go. A store that misses the first-level cache holds up those behind it, and a
compare-exchange waits for all: staged 20 at a time, a claim took some 4 ns more at a density of 1e-2."""
_STRIPS_AHEAD = 4
"""Strips ahead of the one handed out that are prefetched: a compare-exchange waits for stores before it."""
_CLAIMS_AHEAD = (FEW_TARGETS + _STRIPS_AHEAD) * STRIP_CLAIMS
"""The same where many are staged at once, counted in claims: of each target a strip is not full."""


def strips_for(n_targets: int) -> int:
    """Return the strips of a segment: enough that those which are not filled waste little of it."""
    return max(512, 4 * (n_targets + 1))


def empty_segment(n_strips: int, n_targets: int, nid_max: int) -> Segment:
    """Return a segment in which nothing is staged. Records have targets up to ``nid_max``, known or not."""
    return Segment(
        claims=np.empty(n_strips * STRIP_CLAIMS, dtype=np.int64),
        owners=np.empty(n_strips, dtype=np.int32),
        places=np.zeros(max(n_targets, nid_max + 1, FEW_TARGETS) + 1, dtype=np.int64),
        n_of_target=np.zeros(n_targets + 1, dtype=np.int64),
        state=np.zeros(STATE_LENGTH, dtype=np.int64),
    )


@helper
def begin(segment: Segment) -> None:
    """Forget what was staged."""
    segment.places[:] = 0
    segment.n_of_target[:] = 0
    segment.state[:] = 0


@helper
def room_pages(segment: Segment) -> int:
    """Return for how many claims there is room in any case: each target may need a strip for its first."""
    n_targets = len(segment.n_of_target)
    n_free = len(segment.owners) - segment.state[N_STRIPS]
    n_claims = min(n_free, n_targets) + STRIP_CLAIMS * max(0, n_free - n_targets)
    n_pages: int = max(0, n_claims - segment.state[N_WAITING])
    return n_pages


@helper
def strip_for(segment: Segment, target: int) -> tuple[int, int]:
    """Return a target, the last one if it is unknown, and where its next claim goes, in a new strip or not.

    Of targets that are unknown only the last has a place, so for each of their claims this is asked.
    """
    target = min(target, len(segment.n_of_target) - 1)
    place: int = plain_load(segment.places, target)
    if place & (STRIP_CLAIMS - 1) == 0:
        strip = plain_load(segment.state, N_STRIPS)
        plain_store(segment.state, N_STRIPS, strip + 1)
        plain_store(segment.owners, strip, target)
        place = strip * STRIP_CLAIMS
        ahead = place + _STRIPS_AHEAD * STRIP_CLAIMS
        for line in range(ahead, ahead + STRIP_CLAIMS, 8):
            prefetch(segment.claims, line)
    return target, place


@helper
def stage_run(segment: Segment, target: int, waiting: NDArray[np.int64], begin: int) -> None:
    """Stage 64 claims of one target from ``begin`` on."""
    target, place = strip_for(segment, target)
    n_first = STRIP_CLAIMS - (place & (STRIP_CLAIMS - 1))
    if n_first == STRIP_CLAIMS:
        copy_64(segment.claims, place, waiting, begin)
    else:
        for index in range(n_first):
            plain_store(segment.claims, place + index, plain_load(waiting, begin + index))
        plain_store(segment.places, target, place + n_first)
        target, place = strip_for(segment, target)
        place -= n_first
        for index in range(n_first, STRIP_CLAIMS):
            plain_store(segment.claims, place + index, plain_load(waiting, begin + index))
    plain_store(segment.places, target, place + STRIP_CLAIMS)


@helper
def stage(fields: Fields, waiting: NDArray[np.int64], n_waiting: int, segment: Segment) -> None:
    """Stage claims in their order. 64 of one target, as when a node is drained to the next, are copied."""
    shift, mask = fields.nid_shift, fields.nid_max
    n_targets = len(segment.n_of_target) - 1
    fixed = min(fields.fixed_target, n_targets) if mask == 0 else 0
    are_few = mask != 0 and n_targets <= FEW_TARGETS
    n_before = plain_load(segment.state, N_STAGED)
    plain_store(segment.state, N_STAGED, n_before + n_waiting)
    begin = 0
    while begin < n_waiting:
        stop = min(n_waiting, begin + STRIP_CLAIMS)
        if stop == begin + STRIP_CLAIMS:
            first, last = plain_load(waiting, begin), plain_load(waiting, stop - 1)
            if ((first ^ last) >> shift) & mask == 0 and differ_64(waiting, begin, mask << shift) == 0:
                stage_run(segment, ((first >> shift) & mask) + fixed, waiting, begin)
                begin = stop
            elif are_few and begin + 2 * STRIP_CLAIMS <= n_waiting:
                n_strips = stage_128(
                    waiting,
                    begin,
                    shift,
                    mask,
                    n_targets,
                    plain_load(segment.state, N_STRIPS),
                    segment.claims,
                    segment.owners,
                    segment.places,
                )
                if n_strips >= 0:
                    plain_store(segment.state, N_STRIPS, n_strips)
                    ahead = n_before + begin + _CLAIMS_AHEAD
                    for line in range(ahead, ahead + 2 * STRIP_CLAIMS, 8):
                        prefetch(segment.claims, line)
                    begin += 2 * STRIP_CLAIMS
                    stop = begin
        for index in range(begin, stop):
            claim = plain_load(waiting, index)
            target = ((claim >> shift) & mask) + fixed
            place = plain_load(segment.places, target)
            if place & (STRIP_CLAIMS - 1) == 0:
                target, place = strip_for(segment, target)
            plain_store(segment.claims, place, claim)
            plain_store(segment.places, target, place + 1)
        begin = stop


@helper
def length_of(places: NDArray[np.int64], strip: int, target: int) -> int:
    """Return how many claims a strip of a target has: all but its last one are full."""
    last: int = plain_load(places, target)
    return last - strip * STRIP_CLAIMS if (last - 1) // STRIP_CLAIMS == strip else STRIP_CLAIMS


@helper
def finish(fields: Fields, waiting: NDArray[np.int64], segment: Segment) -> None:
    """Stage what waits, and count what was staged, in all and by target."""
    stage(fields, waiting, segment.state[N_WAITING], segment)
    segment.state[N_WAITING] = n_staged = 0
    for strip in range(segment.state[N_STRIPS]):
        target = plain_load(segment.owners, strip)
        length = length_of(segment.places, strip, target)
        plain_store(segment.n_of_target, target, plain_load(segment.n_of_target, target) + length)
        n_staged += length
    segment.state[N_STAGED] = n_staged
