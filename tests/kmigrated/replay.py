"""Walks that a kernel told of, done again by the model ``rfc-v1``, and its batches laid beside the kernel's.

The model is given the marks, in their order, and what only the machine knows: which marked pages were
refused or off their LRU list when the thread came by. The trace shows that of pages that did not go onto
the list: one that goes in a later walk, without another mark, was off its LRU list and kept its mark; every
other one lost it in the checks. All else the model has to find: which pages go, in which order and for
which target, where a batch ends, and where it goes.

Whether a thread met a mark that came during its walk follows from the pages that it listed before and
after: it had passed the page, or had not. The mark of a page that it did not list waits for the next walk.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.machine import ArrayMachine, BatchCall, ZoneSpan
from gpuscan.designs.rfc import Kmigrated, RfcV1
from gpuscan.records.formats import FORMATS

from .events import Mark, Trace, Walk

_FORMAT = FORMATS["rfc"]


@dataclass(slots=True)
class Replayed:
    """How a replay came out.

    Attributes:
        n_walks, n_batches, n_folios: compared; empty batches are none of these.
        n_marked_walks: walks that found a mark.
        n_mixed: batches whose pages had several targets.
        n_met: marks that came during a walk and were met by it.
        n_refused, n_off_lru: marked pages that did not go, by walk, see the module.
        differences: what differs, a line for each walk: its first batch that differs, and the page.
    """

    n_walks: int = 0
    n_marked_walks: int = 0
    n_batches: int = 0
    n_folios: int = 0
    n_mixed: int = 0
    n_met: int = 0
    n_refused: int = 0
    n_off_lru: int = 0
    differences: list[str] = field(default_factory=list)


class TracedMachine(ArrayMachine):
    """The pages of a machine, of which each walk finds others refused or off their LRU lists."""

    def __init__(self, zones: Sequence[ZoneSpan]) -> None:
        nid = np.full(max(zone.end_pfn for zone in zones), -1, dtype=np.int64)
        for zone in zones:
            nid[zone.start_pfn : zone.end_pfn] = zone.nid
        super().__init__(nid, zones)

    def before_walk(self, refused: Iterable[int], off_lru: Iterable[int]) -> None:
        """Let all pages be in order but these."""
        self._lru[:], self._prepare[:] = True, 0
        self._lru[list(off_lru)] = False
        self._prepare[list(refused)] = -1

    def pfns_of(self, nid: int) -> NDArray[np.int64]:
        """Return the PFNs of a node, ascending."""
        return np.flatnonzero(self._nid == nid)


def replay(trace: Trace, zones: Sequence[ZoneSpan], design: type[Kmigrated] = RfcV1) -> Replayed:
    """Do all walks of a trace again and compare the batches, page by page.

    Args:
        trace: what the kernel told.
        zones: of its machine, in its order.
        design: the model; another one than that of RFC v1 differs.
    """
    machine, done = TracedMachine(zones), Replayed()
    model = design(machine)
    pages = {zone.nid: machine.pfns_of(zone.nid) for zone in zones}
    waiting = _by_node(trace.marks, machine, pages)
    later = _Later(trace)
    for number, walk in enumerate(trace.walks):
        met, waiting[walk.nid] = _met(waiting[walk.nid], walk, later)
        done.n_met += sum(mark.at > walk.began for mark in met)
        _mark(model, met)
        mine = pages[walk.nid]
        ready = mine[model.records[mine] & _FORMAT.ready.mask != 0]
        targets = dict(zip(ready.tolist(), _targets(model, ready), strict=True))
        listed = {page.pfn for page in walk.listed}
        stopped = [pfn for pfn, nid in targets.items() if pfn not in listed and nid != walk.nid]
        off_lru = [pfn for pfn in stopped if later.goes_unmarked(pfn, walk.ended)]
        refused = set(stopped) - set(off_lru)
        machine.before_walk(refused, off_lru)
        n_before = len(model.calls)
        model.walk(walk.nid)
        done.n_walks += 1
        done.n_marked_walks += bool(targets)
        done.n_refused += len(refused)
        done.n_off_lru += len(off_lru)
        done.n_batches += sum(bool(batch.pfns) for batch in walk.batches)
        done.n_folios += len(walk.listed)
        done.n_mixed += _n_mixed(walk)
        why = _difference(walk, model.calls[n_before:], targets)
        if why:
            done.differences.append(f"walk {number} (node {walk.nid}, {walk.t_s:.6f} s): {why}")
    return done


class _Later:
    """What happens to pages after a line of a trace."""

    def __init__(self, trace: Trace) -> None:
        self._events: dict[int, list[tuple[int, bool]]] = defaultdict(list)
        for mark in trace.marks:
            self._events[mark.pfn].append((mark.at, False))
        for walk in trace.walks:
            for page in walk.listed:
                self._events[page.pfn].append((page.at, True))
        for events in self._events.values():
            events.sort()

    def goes_unmarked(self, pfn: int, at: int) -> bool:
        """Return whether a page goes onto a list, from a line on, before anybody marks it."""
        events = self._events[pfn]
        following = bisect_left(events, (at, False))
        return following < len(events) and events[following][1]


def _by_node(
    marks: Iterable[Mark], machine: TracedMachine, pages: dict[int, NDArray[np.int64]]
) -> dict[int, list[Mark]]:
    found: dict[int, list[Mark]] = {nid: [] for nid in pages}
    for mark in marks:
        found[machine.page(machine.position(mark.pfn)).nid].append(mark)
    return found


def _met(marks: list[Mark], walk: Walk, later: _Later) -> tuple[list[Mark], list[Mark]]:
    """Return the marks of a node that a walk finds, and those that it does not."""
    by_pfn = {page.pfn: page for page in walk.listed}
    at = [page.at for page in walk.listed]
    found, left = [], []
    for number, mark in enumerate(marks):
        if mark.at > walk.ended:
            left += marks[number:]
            break
        if mark.at < walk.began or _is_met(mark, by_pfn.get(mark.pfn), walk, at, later):
            found.append(mark)
        else:
            left.append(mark)
    return found, left


def _is_met(mark: Mark, listed: Mark | None, walk: Walk, at: list[int], later: _Later) -> bool:
    """Return whether a mark that came during a walk came before the thread was at its page."""
    n_before = bisect_left(at, mark.at)
    passed = n_before > 0 and mark.pfn <= walk.listed[n_before - 1].pfn
    if passed or listed is None:
        return False
    # It may have come between the thread's look at the page and the line that says so.
    return listed.nid == mark.nid & RfcV1.NID_MASK and not later.goes_unmarked(mark.pfn, listed.at + 1)


def _mark(model: Kmigrated, marks: Sequence[Mark]) -> None:
    nothing = np.zeros(len(marks), dtype=np.int64)
    model.mark_many(
        np.array([mark.pfn for mark in marks], dtype=np.int64),
        np.array([mark.nid for mark in marks], dtype=np.int32),
        nothing,
        nothing,
    )


def _targets(model: Kmigrated, positions: NDArray[np.int64]) -> list[int]:
    nids: list[int] = (model.records[positions] >> _FORMAT.nid.shift & model.NID_MASK).tolist()
    return nids


def _n_mixed(walk: Walk) -> int:
    target = {page.pfn: page.nid for page in walk.listed}
    return sum(len({target[pfn] for pfn in batch.pfns}) > 1 for batch in walk.batches)


def _difference(walk: Walk, calls: Sequence[BatchCall], targets: dict[int, int]) -> str:
    """Return what is the first thing that differs, or nothing."""
    for page in walk.listed:
        if targets.get(page.pfn) != page.nid:
            there = f"for node {targets[page.pfn]}" if page.pfn in targets else "without a mark"
            return f"page {page.pfn:#x} goes to node {page.nid} in the kernel and is {there} in the model"
    for number, (kernel, model) in enumerate(zip(walk.batches, calls, strict=False)):
        if kernel.nid != model.nid:
            return f"batch {number} goes to node {kernel.nid} in the kernel, to node {model.nid} in the model"
        for place, (mine, its) in enumerate(zip(kernel.pfns, model.pfns, strict=False)):
            if mine != its:
                return f"batch {number}: page {place} is {mine:#x} in the kernel, {its:#x} in the model"
        if len(kernel.pfns) != len(model.pfns):
            sizes = f"{len(kernel.pfns)} pages in the kernel, {len(model.pfns)} in the model"
            return f"batch {number} has {sizes}"
    if len(walk.batches) != len(calls):
        return f"{len(walk.batches)} batches in the kernel, {len(calls)} in the model"
    return ""


def summary(done: Replayed) -> str:
    """Return the counts of a replay as a line."""
    counts = Counter({name: getattr(done, name) for name in done.__slots__ if name.startswith("n_")})
    text = ", ".join(f"{count:,} {name[2:].replace('_', ' ')}" for name, count in counts.items())
    return f"{text}, {len(done.differences):,} walks that differ"
