"""Walks that a kernel told of, done again by the model ``rfc-v1``, and its batches laid beside the kernel's.

The model is given the marks, in their order, and what only the machine knows: which marked pages were off
their LRU list when the thread came by. These are the ones whose mark it did not take. All else the model
has to find: which marks the thread takes, for which target, which pages go and in which order, where a
batch ends, and where it goes.

Whether a thread met a mark that came during its walk follows from the marks that it took before and after:
it had passed the page, or had not. A mark that it did not take waits for the next walk.
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
        n_marked_walks: walks that took a mark.
        n_taken: marks that were taken; n_at_home: those of them whose page was on its target.
        n_mixed: batches whose pages had several targets; n_elsewhere: pages that went to another than theirs.
        n_met: marks that came during a walk and were met by it.
        n_off_lru: marked pages whose mark a walk did not take, see the module.
        differences: what differs, a line for each walk: its first batch that differs, and the page.
    """

    n_walks: int = 0
    n_marked_walks: int = 0
    n_batches: int = 0
    n_folios: int = 0
    n_taken: int = 0
    n_at_home: int = 0
    n_mixed: int = 0
    n_elsewhere: int = 0
    n_met: int = 0
    n_off_lru: int = 0
    differences: list[str] = field(default_factory=list)


class TracedMachine(ArrayMachine):
    """The pages of a machine, of which each walk finds others off their LRU lists."""

    def __init__(self, zones: Sequence[ZoneSpan]) -> None:
        nid = np.full(max(zone.end_pfn for zone in zones), -1, dtype=np.int64)
        for zone in zones:
            nid[zone.start_pfn : zone.end_pfn] = zone.nid
        super().__init__(nid, zones)

    def before_walk(self, off_lru: Sequence[int]) -> None:
        """Let all pages be in order but these."""
        self._lru[:] = True
        self._lru[list(off_lru)] = False

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
        taken = {mark.pfn: mark.nid for mark in walk.taken}
        off_lru = [pfn for pfn in targets if pfn not in taken]
        machine.before_walk(off_lru)
        n_before = len(model.calls)
        model.walk(walk.nid)
        done.n_walks += 1
        done.n_marked_walks += bool(taken)
        done.n_taken += len(walk.taken)
        done.n_at_home += sum(nid == walk.nid for nid in taken.values())
        done.n_off_lru += len(off_lru)
        for batch in walk.batches:
            asked = [taken[pfn] for pfn in batch.pfns]
            done.n_batches += bool(asked)
            done.n_folios += len(asked)
            done.n_mixed += len(set(asked)) > 1
            done.n_elsewhere += sum(nid != batch.nid for nid in asked)
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
            for mark in walk.taken:
                self._events[mark.pfn].append((mark.at, True))
        for events in self._events.values():
            events.sort()

    def is_taken_unmarked(self, pfn: int, at: int) -> bool:
        """Return whether the mark of a page is taken, from a line on, before anybody makes one."""
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
    taken = {mark.pfn: mark for mark in walk.taken}
    at = [mark.at for mark in walk.taken]
    found, left = [], []
    for number, mark in enumerate(marks):
        if mark.at > walk.ended:
            left += marks[number:]
            break
        if mark.at < walk.began or _is_met(mark, taken.get(mark.pfn), walk, at, later):
            found.append(mark)
        else:
            left.append(mark)
    return found, left


def _is_met(mark: Mark, taken: Mark | None, walk: Walk, at: list[int], later: _Later) -> bool:
    """Return whether a mark that came during a walk came before the thread was at its page."""
    n_before = bisect_left(at, mark.at)
    passed = n_before > 0 and mark.pfn <= walk.taken[n_before - 1].pfn
    if passed or taken is None:
        return False
    # It may have come between the thread's look at the page and the line that says so.
    return taken.nid == mark.nid & RfcV1.NID_MASK and not later.is_taken_unmarked(mark.pfn, taken.at + 1)


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


def _difference(walk: Walk, calls: Sequence[BatchCall], targets: dict[int, int]) -> str:
    """Return what is the first thing that differs, or nothing."""
    for taken in walk.taken:
        if targets.get(taken.pfn) != taken.nid:
            there = f"for node {targets[taken.pfn]}" if taken.pfn in targets else "without a mark"
            return f"page {taken.pfn:#x} is for node {taken.nid} in the kernel and {there} in the model"
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
