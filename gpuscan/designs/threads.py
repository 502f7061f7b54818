"""One thread for each node: it waits, walks, and meets marks that come meanwhile.

Whoever runs a design says which marks come when, and what a look takes: ``gpuscan run --design`` and the
closed loop of a comparison (:mod:`gpuscan.designs.engine`), and its open loop
(:mod:`gpuscan.compare.open_loop`). What a thread does in between is the same here for all of them.

A walk goes through the spans of its node (zones, or sections) in turn. A mark is met that is made before the
walk comes to its page; one that is made before the walk comes to its span may be what raises the flag that
the walk asks for there. How long migrations on the way take is known only when they are done, and what asking
sections takes is little, so a walk is where its looks alone bring it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.contract import Modelled
from gpuscan.designs.machine import ZoneSpan
from gpuscan.designs.model import MarksAhead, Model
from gpuscan.designs.races import Atomics, Race, drawn, interleaved
from gpuscan.engine.policy import Policy
from gpuscan.topology import Topology

_NS_PER_S = 1_000_000_000
_COUNTED_MAX = 1 << 16
_MEANS_MAX = 20
"""A drawn distance between two atomics is longer than so many means once in 500 million."""


@dataclass(slots=True)
class ThreadWait:
    """When a node's thread, which nobody wakes, begins its next walk.

    ``wait_event_timeout()`` looks at the condition when the wait begins and when it is
    over, and in between only if somebody wakes the queue, which neither RFC v1 nor pghot
    does. So the flag of a node starts a walk at once if it was set during the last one;
    one that is set during the wait changes nothing before the timeout.

    Attributes:
        sleep_ns: the timeout.
        needs_flag: whether a timeout without the flag starts a walk too (RFC v1: yes; pghot: no).
        since_ns: when the wait began.
        flag_ns: when the flag was set, None while it is clear.
    """

    sleep_ns: int
    needs_flag: bool
    since_ns: int = 0
    flag_ns: int | None = None

    def walk_start_ns(self, now_ns: int) -> int | None:
        """Return when a walk has begun by ``now_ns``, None if none has."""
        if self.flag_ns is not None and self.flag_ns <= self.since_ns:
            start_ns = self.since_ns
        elif not self.needs_flag:
            start_ns = self.since_ns + self.sleep_ns
        elif self.flag_ns is None:
            return None
        else:  # a timeout without the flag begins the next wait
            n_timeouts = -(-(self.flag_ns - self.since_ns) // self.sleep_ns)
            start_ns = self.since_ns + n_timeouts * self.sleep_ns
        return start_ns if start_ns <= now_ns else None

    def timeout_from(self, now_ns: int) -> int:
        """Return when the wait begins or is over next, from ``now_ns`` on: when a flag is set before that
        makes no difference."""
        n_timeouts = max(0, -(-(now_ns - self.since_ns) // self.sleep_ns))
        return self.since_ns + n_timeouts * self.sleep_ns

    def walked(self, start_ns: int, walk_ns: float) -> None:
        """Begin to wait after a walk, which cleared the flag."""
        self.since_ns = start_ns + int(walk_ns)
        self.flag_ns = None


def first_waits(
    model: Model, how: Modelled, topology: Topology, since_ns: Callable[[], int]
) -> dict[int, ThreadWait]:
    """Return the wait of each node's thread by nid; ``since_ns`` says when one began."""
    return {
        node.nid: ThreadWait(model.sleep_ns, how.needs_flag, since_ns())
        for node in topology.nodes
        if node.present_pages and model.has_thread(node.nid)
    }


@dataclass(frozen=True, slots=True, eq=False)
class Marks:
    """Marks in the order of their times.

    Attributes:
        times_ns: int64[n].
        pfns, nids, cpus: what each names, and on which CPU.
        own_nids: where the page is.
        done: bool[n], made already.
        counts: int64[n], accesses that each reports: see :class:`gpuscan.producers.contract.Observed`.
    """

    times_ns: NDArray[np.int64]
    pfns: NDArray[np.int64]
    nids: NDArray[np.int32]
    cpus: NDArray[np.int64]
    own_nids: NDArray[np.int32]
    done: NDArray[np.bool_]
    counts: NDArray[np.int64] | None = None

    @classmethod
    def none(cls) -> Marks:
        """Return no marks."""
        none = np.empty(0, dtype=np.int64)
        return cls(none, none, none.astype(np.int32), none, none.astype(np.int32), none.astype(np.bool_))


class Pace(Protocol):
    """How fast a walk is."""

    @property
    def look_ns(self) -> float:
        """What a look takes."""
        ...

    def begin(self, start_ns: int) -> None:
        """Begin a walk."""
        ...

    def end(self) -> float:
        """End it, and return how long its looks took."""
        ...


class Walked(NamedTuple):
    """What a walk took: ``look_ns`` looking, ``migrate_ns`` moving what was found."""

    look_ns: float
    migrate_ns: float


@dataclass(slots=True)
class _Met:
    """What a walk meets.

    Attributes:
        flag_ns: when the first of the marks that it met, or raced with, was made; None: there was none.
        flagged: spans in which one came after the walk had cleared the flag.
        races: those whose atomics and the thread's overlap.
    """

    flag_ns: int | None = None
    flagged: list[ZoneSpan] = field(default_factory=list)
    races: list[Race] = field(default_factory=list)

    def note(self, times_ns: NDArray[np.int64]) -> None:
        """Note marks that set the node's flag."""
        first_ns = int(times_ns.min())
        self.flag_ns = first_ns if self.flag_ns is None else min(self.flag_ns, first_ns)


class _Spans(NamedTuple):
    """What walks of a node may go through, in their order, and int64[n], where each starts and ends."""

    spans: Sequence[ZoneSpan]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]

    @property
    def apart(self) -> bool:
        """Whether they ascend, and none lies over another."""
        return bool((self.ends[:-1] <= self.starts[1:]).all())


class Threads:
    """The threads of a design's model.

    Args:
        model: whose.
        how: what the design declares of it.
        waits: where each begins, by nid: :func:`first_waits`.
        pace: of their walks.
        policy: ``hz`` counts jiffies.
        atomics: where the distances of a mark's two atomics are drawn from, if they are to be.
        make: makes marks, given as int64[n], ascending; by default in bulk, as the model does.

    Attributes:
        waits: by nid.
        n_marked: marks that were made, or had their turn.
    """

    def __init__(
        self,
        model: Model,
        how: Modelled,
        waits: dict[int, ThreadWait],
        pace: Pace,
        policy: Policy,
        *,
        atomics: Atomics | None = None,
        make: Callable[[Marks, NDArray[np.int64]], None] | None = None,
    ) -> None:
        self.waits = waits
        self.n_marked = 0
        self._model, self._pace, self._policy = model, pace, policy
        self._atomics = atomics if how.two_atomics else None
        self._make = self._make_in_bulk if make is None else make
        self._marks = Marks.none()
        self._spans: dict[int, _Spans] = {}

    def expect(self, marks: Marks) -> None:
        """Let these marks come next; those before have all been made."""
        self._marks, self.n_marked = marks, 0

    def next_walk(self, until_ns: int) -> tuple[int, int] | None:
        """Make the marks that come before the next walk, and return when that begins, and whose it is; None
        where none begins by ``until_ns``, with all marks up to then made."""
        times_ns = self._marks.times_ns
        while True:
            begun = [
                (start_ns, nid)
                for nid, wait in self.waits.items()
                if (start_ns := wait.walk_start_ns(until_ns)) is not None
            ]
            due = min(begun, default=None)
            now_ns = until_ns if due is None else due[0]
            end = int(np.searchsorted(times_ns, now_ns, side="right"))
            if self.n_marked >= end:
                return due
            self._mark(end)  # one that sets a flag may begin a walk before

    def walk(self, start_ns: int, nid: int) -> Walked:
        """Walk a node, as :meth:`next_walk` said."""
        model, wait = self._model, self.waits[nid]
        met = self._meet(nid, start_ns)
        busy_ns = model.busy_ns
        self._pace.begin(start_ns)
        model.walk(nid, met.races, now_jiffies=self._policy.jiffies(start_ns))
        walked = Walked(self._pace.end(), model.busy_ns - busy_ns)
        wait.walked(start_ns, max(1.0, sum(walked)))  # also one that finds no flag anywhere takes time
        if met.flag_ns is not None:  # set after the thread had cleared it
            model.activate(nid)
            wait.flag_ns = met.flag_ns
        for span in met.flagged:
            model.raise_flag(span)
        return walked

    def _mark(self, end: int) -> None:
        """Make the marks up to ``end`` or the next moment at which a flag that one of them sets may begin a
        walk."""
        marks, start = self._marks, self.n_marked
        waiting = [wait for wait in self.waits.values() if wait.flag_ns is None]
        if waiting:
            first_ns = int(marks.times_ns[start])
            until_ns = min(wait.timeout_from(first_ns) for wait in waiting)
            end = min(end, int(np.searchsorted(marks.times_ns, until_ns, side="right")))
        left = start + np.flatnonzero(~marks.done[start:end])
        self._do(left)
        nids, firsts = np.unique(marks.own_nids[left], return_index=True)
        for nid, first in zip(nids.tolist(), firsts.tolist(), strict=True):
            wait = self.waits.get(nid)
            if wait is not None and wait.flag_ns is None and self._model.activated(nid):
                wait.flag_ns = int(marks.times_ns[left[first]])
        self.n_marked = end

    def _meet(self, nid: int, start_ns: int) -> _Met:
        """Make the marks that come during a walk and before it comes to their pages."""
        marks, met, node = self._marks, _Met(), self._spans_of(nid)
        if not len(node.spans):
            return met
        coming = self._coming(nid, start_ns, node)
        if not len(coming):
            return met
        if self._atomics is None and node.apart and self._meet_together(coming, start_ns, node, met):
            return met
        atomics = None if self._atomics is None else drawn(self._atomics, len(coming))
        order = np.argsort(marks.pfns[coming], kind="stable")
        pfns = marks.pfns[coming[order]]
        firsts, ends = np.searchsorted(pfns, node.starts), np.searchsorted(pfns, node.ends)
        seen = np.zeros(len(coming), dtype=np.bool_)  # a page in two zones is looked at in the first
        n_before = 0
        for span, first, end in zip(node.spans, firsts.tolist(), ends.tolist(), strict=True):
            if first == end:  # nothing can happen here but that the walk goes through
                n_before += self._model.n_examined(span) if self._model.will_walk(span) else 0
                continue
            mine = np.sort(order[first:end][~seen[first:end]])
            seen[first:end] = True
            times = None if atomics is None else atomics[:, mine]
            n_before += self._meet_in(span, coming[mine], start_ns, n_before, times, met)
        self._model.counters["raced_marks"] += len(met.races)
        return met

    def _meet_together(self, coming: NDArray[np.int64], start_ns: int, node: _Spans, met: _Met) -> bool:
        """Do :meth:`_meet` for all spans together; False, and nothing is done, for a model that cannot."""
        marks = self._marks
        spans = np.searchsorted(node.starts, marks.pfns[coming], side="right") - 1
        inside = (spans >= 0) & (marks.pfns[coming] < node.ends[spans])
        # Numbers of 16 bits are sorted by counting.
        numbers = spans[inside].astype(np.uint16 if len(node.spans) <= _COUNTED_MAX else np.int64)
        order = np.flatnonzero(inside)[np.argsort(numbers, kind="stable")]
        mine, spans = coming[order], spans[order]
        ahead = MarksAhead(
            marks.times_ns[mine],
            marks.pfns[mine],
            self._jiffies(marks.times_ns[mine]),
            marks.nids[mine],
            None if marks.counts is None else marks.counts[mine],
        )
        ends = np.searchsorted(spans, np.arange(len(node.spans)), side="right")
        found = self._model.meet(node.spans, ends, ahead, start_ns, self._pace.look_ns)
        if found is None:
            return False
        marks.done[mine[found.made]] = True
        # What comes before the walk is at a span is one group of marks, what comes then another.
        groups = 2 * spans[found.made] + found.during
        asked = np.unique(groups[found.asked])
        if len(asked):
            met.note(ahead.times_ns[found.made[np.isin(groups, asked)]])
            met.flagged += [node.spans[group // 2] for group in asked.tolist() if group % 2]
        return True

    def _meet_in(
        self,
        span: ZoneSpan,
        mine: NDArray[np.int64],
        start_ns: int,
        n_before: int,
        atomics: NDArray[np.float64] | None,
        met: _Met,
    ) -> int:
        """Do so in one span; return how many pages the walk looks at there."""
        marks, model, look_ns = self._marks, self._model, self._pace.look_ns
        times_ns, pfns = marks.times_ns[mine], marks.pfns[mine]
        late_ns = times_ns - start_ns - (n_before + model.n_before(span, pfns)) * look_ns
        races = {} if atomics is None else interleaved(pfns, marks.nids[mine], late_ns, atomics)
        raced = np.zeros(len(mine), dtype=np.bool_)
        raced[list(races)] = True
        before = times_ns - start_ns <= n_before * look_ns
        # What comes before the walk is here may be what makes it go through.
        self._do_met(mine[before & ~raced], met)
        if not model.will_walk(span):
            return 0
        asked = self._do_met(mine[~before & ~raced & (late_ns <= 0)], met)
        if races:
            met.races += races.values()
            met.note(times_ns[raced])
            marks.done[mine[raced]] = True
        if asked or (raced & ~before).any():
            met.flagged.append(span)
        return model.n_examined(span)

    def _do_met(self, which: NDArray[np.int64], met: _Met) -> bool:
        """Make marks that a walk meets; return whether one of them made a page READY, or found it so."""
        ledger = self._model.ledger
        requested = ledger.requested
        self._do(which)
        asked = ledger.requested > requested
        if asked:
            met.note(self._marks.times_ns[which])
        return asked

    def _coming(self, nid: int, start_ns: int, node: _Spans) -> NDArray[np.int64]:
        """Return int64[n], the marks of a node that may come while it is walked."""
        marks, n_marked = self._marks, self.n_marked
        if self._atomics is None:
            longest_ns = int((node.ends - node.starts).sum()) * self._pace.look_ns
        else:  # for each of them two distances are drawn
            longest_ns = sum(map(self._model.n_examined, node.spans)) * self._pace.look_ns
            longest_ns += _MEANS_MAX * self._atomics.apart_ns
        # A whole number: for any other NumPy makes floats of all times, those of the whole list.
        end = int(np.searchsorted(marks.times_ns, start_ns + math.ceil(longest_ns)))
        mine = (marks.own_nids[n_marked:end] == nid) & ~marks.done[n_marked:end]
        found: NDArray[np.int64] = n_marked + np.flatnonzero(mine)
        return found

    def _spans_of(self, nid: int) -> _Spans:
        found = self._spans.get(nid)
        if found is None:  # memory stays where it is
            spans = self._model.spans(nid)
            starts = np.array([span.start_pfn for span in spans], dtype=np.int64)
            ends = np.array([span.end_pfn for span in spans], dtype=np.int64)
            found = self._spans[nid] = _Spans(spans, starts, ends)
        return found

    def _do(self, which: NDArray[np.int64]) -> None:
        if len(which):
            self._make(self._marks, which)
            self._marks.done[which] = True

    def _make_in_bulk(self, marks: Marks, which: NDArray[np.int64]) -> None:
        jiffies = self._jiffies(marks.times_ns[which])
        pfns, nids, cpus = marks.pfns[which], marks.nids[which], marks.cpus[which]
        if marks.counts is None:
            self._model.mark_many(pfns, nids, jiffies, cpus)
        else:
            self._model.report_many(pfns, nids, jiffies, cpus, marks.counts[which])

    def _jiffies(self, times_ns: NDArray[np.int64]) -> NDArray[np.int64]:
        return times_ns * self._policy.hz // _NS_PER_S
