"""What a thread does with its candidates, one after the other, until it hands a batch over: in compiled code.

A model looks at some candidates ahead (:class:`Window`): what each page is, where its mark says that it
shall go, and whether the checks would refuse it now. All of that holds until a batch is handed over, so
:func:`take` goes through them in their order and stops there; the model does what the batch does to the
machine and looks anew at those that are left.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.compiled import compiled
from gpuscan.designs.machine import NUMA_NO_NODE, Pages
from gpuscan.designs.promotion_limit import Admission

AHEAD = 1024
"""Candidates that are looked at together."""
FAR_AHEAD = 1 << 16
"""The same, where no batch changes what is known of them."""

PASSED_OVER, GONE, NOWHERE, AT_HOME, NOT_ADMITTED, REFUSED, GOES = range(7)
"""What becomes of a candidate: its mark stays; it is claimed and was off its LRU list; it has no target (of
pghot); is on its target; refused by the rate limit; refused by the checks; isolated and listed."""

WALK_ENDS, FLUSH_BEFORE_IT, FLUSH_WITH_IT, RESCHED_BEFORE_IT = range(4)
"""Why :func:`take` stopped: all are done; the batch goes without the last one, which begins the next; the
batch goes with it; no batch goes, but the thread reschedules before it lists it."""

KMIGRATED_V1, KMIGRATED_FIXED, PGHOT, LISTED, ALL_IN_ONE = range(5)
"""When a batch goes: see :func:`_stops`."""

ASKED, NOT_ASKED = 0, -1
"""In ``refused`` of a window: the checks are asked and pass; above: they are asked and refuse. Not asked:
refused without (there is no such node)."""

_NID, _MEMCG, _N_COUNTED, _N_LISTED = range(4)
"""Places in :attr:`Batch.state`."""


@dataclass(slots=True, eq=False)
class Batch:
    """What a thread has listed for its next call.

    Attributes:
        rule: when a batch goes.
        limit: folios of a batch.
        state: int64[4], node, memcg, folios counted so far, folios listed.
        heads, asked: parts: head positions in the order they were listed, and the node each asked for.
    """

    rule: int
    limit: int
    state: NDArray[np.int64] = field(default_factory=lambda: np.array([NUMA_NO_NODE, 0, 0, 0]))
    heads: list[NDArray[np.int64]] = field(default_factory=list)
    asked: list[NDArray[np.int32]] = field(default_factory=list)

    @property
    def nid(self) -> int:
        """The node of the next call."""
        return int(self.state[_NID])

    @property
    def reschedules(self) -> bool:
        """Whether the thread reschedules after each batch but the last."""
        return self.rule != LISTED

    @property
    def is_over(self) -> bool:
        """Whether a batch that was just begun is one too many for its limit: pghot with a limit of none."""
        return self.rule == PGHOT and bool(self.state[_N_COUNTED] > self.limit)

    def begin(self, nid: int, memcg: int) -> None:
        """Begin the next batch with one folio; kmigrated of RFC v1 does not count it."""
        self.state[:] = nid, memcg, self.rule == PGHOT, 1

    def empty(self) -> None:
        """Begin the next batch with nothing, for the same node."""
        self.state[_N_COUNTED] = self.state[_N_LISTED] = 0

    def add(self, heads: NDArray[np.int64], asked: NDArray[np.int32]) -> None:
        """List folios."""
        if len(heads):
            self.heads.append(heads)
            self.asked.append(asked)

    def take_all(self) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Return all that is listed, and empty the list."""
        heads = np.concatenate([np.empty(0, dtype=np.int64), *self.heads])
        asked = np.concatenate([np.empty(0, dtype=np.int32), *self.asked])
        self.heads.clear()
        self.asked.clear()
        return heads, asked


@dataclass(slots=True, eq=False)
class Window:
    """Candidates that are all different, as they are now.

    Attributes:
        positions: int64[n], of their marks, in the order that the thread has them.
        pages: what each is.
        nids: int64[n], where each shall go.
        memcgs: int64[n], of their folios; zeros where nobody asks.
        looked: bool[n], the thread takes the mark if the folio is on its LRU list.
        admission: of the rate limit, where there is one.
        refused: int8[n], see :data:`ASKED`.
        off_lru: bool[n], what the next checks that are asked draw: the isolation fails.
        asked: int32[n], what each asked for, where the marks have been claimed.
        n_to_come: int64[n], how many entries of a list the thread has yet to look at when it has this one;
            None: it has looked at all of them.
        entries: int64[n], what the model knows each by, where that is not its position.
        stops: uint8[n], how often the thread reschedules at each, in a window of several spans: before one
            whose batch is another, and behind one that fills its own.
    """

    positions: NDArray[np.int64]
    pages: Pages
    nids: NDArray[np.int64]
    memcgs: NDArray[np.int64]
    looked: NDArray[np.bool_]
    admission: Admission | None
    refused: NDArray[np.int8]
    off_lru: NDArray[np.bool_]
    asked: NDArray[np.int32] | None = None
    n_to_come: NDArray[np.int64] | None = None
    entries: NDArray[np.int64] | None = None
    stops: NDArray[np.uint8] | None = None

    def take_spans(
        self, batch: Batch, ends: NDArray[np.int64], when_off_lru: int, *, closes: bool
    ) -> tuple[NDArray[np.int8], NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
        """Go through the first candidates, span after span: see :func:`take_spans`.

        Returns:
            What became of each; how often the thread stops there; and of each batch, how many of the folios
            that go are in all up to it, and its node.
        """
        n = int(ends[-1])
        became, stops = np.zeros(n, dtype=np.int8), np.zeros(n, dtype=np.uint8)
        batch_ends, batch_nids = np.empty(2 * n, dtype=np.int64), np.empty(2 * n, dtype=np.int64)
        admitted = np.ones(n, dtype=np.bool_) if self.admission is None else self.admission.admitted
        n_batches = take_spans(
            self.looked,
            self.pages.lru,
            self.pages.nid == self.nids,
            admitted,
            self.refused,
            self.nids,
            self.memcgs,
            ends,
            batch.state,
            batch.rule,
            batch.limit,
            when_off_lru,
            closes,
            became,
            stops,
            batch_ends,
            batch_nids,
        )
        return became, stops, batch_ends[:n_batches], batch_nids[:n_batches]

    def take(
        self, batch: Batch, when_off_lru: int, *, isolated_goes_off_lru: bool
    ) -> tuple[NDArray[np.int8], int]:
        """Go through the candidates until a batch goes.

        Args:
            batch: the state of it is brought forward.
            when_off_lru: what becomes of one that is on no LRU list.
            isolated_goes_off_lru: on this machine a folio that was isolated is on none any more.

        Returns:
            What became of each up to the one that the thread stopped at, and why it stopped.
        """
        heads, n = self.pages.head, len(self.positions)
        folios = np.arange(n)
        if len(self.pages.n_pages) and self.pages.n_pages.max() > 1:
            folios = np.unique(heads, return_inverse=True)[1]
        became = np.zeros(n, dtype=np.int8)
        n_done, why = take(
            self.looked,
            self.pages.lru.copy(),
            folios,
            self.pages.nid == self.nids,
            np.ones(n, dtype=np.bool_) if self.admission is None else self.admission.admitted,
            self.refused,
            self.off_lru,
            self.nids,
            self.memcgs,
            batch.state,
            batch.rule,
            batch.limit,
            when_off_lru,
            isolated_goes_off_lru,
            became,
        )
        return became[:n_done], why


@compiled
def _stops(state: NDArray[np.int64], rule: int, limit: int, nid: int, memcg: int) -> int:
    """List a folio; return whether that hands a batch over (``_stops`` in the order of the patches)."""
    if rule in (KMIGRATED_V1, KMIGRATED_FIXED):
        # kmigrated_walk_zone() (RFC v1) has != where the first candidate should set the node.
        first = state[_NID] == NUMA_NO_NODE
        if first == (rule == KMIGRATED_FIXED):
            state[_NID] = nid
        state[_N_COUNTED] += 1
        if state[_N_COUNTED] >= limit or state[_NID] != nid:
            return FLUSH_BEFORE_IT
    elif rule == PGHOT:
        # kmigrated_walk_zone() (pghot): a change of node or memcg sends what is listed, if anything is.
        if state[_NID] == NUMA_NO_NODE:
            state[_NID], state[_MEMCG] = nid, memcg
        changes = state[_NID] != nid or state[_MEMCG] != memcg
        if changes and state[_N_LISTED] == 0:
            return RESCHED_BEFORE_IT
        if changes:
            return FLUSH_BEFORE_IT
        state[_N_COUNTED] += 1
        if state[_N_COUNTED] > limit:
            return FLUSH_WITH_IT
    elif rule == LISTED:
        if state[_NID] == NUMA_NO_NODE:
            state[_NID] = nid
        if state[_N_LISTED] >= limit or state[_NID] != nid:
            return FLUSH_BEFORE_IT
    state[_N_LISTED] += 1
    return WALK_ENDS


@compiled
def _before_the_checks(rule: int, nid: int, at_home: bool, admitted: bool, checked: bool) -> int:
    """Return what becomes of a candidate that is taken before the checks are asked; GOES: they are."""
    if rule == PGHOT and nid == NUMA_NO_NODE:
        return NOWHERE
    if at_home:
        return AT_HOME
    if not admitted:
        return NOT_ADMITTED
    return GOES if checked else REFUSED


@compiled
def take(
    looked: NDArray[np.bool_],
    lru: NDArray[np.bool_],
    folios: NDArray[np.int64],
    at_home: NDArray[np.bool_],
    admitted: NDArray[np.bool_],
    refused: NDArray[np.int8],
    off_lru: NDArray[np.bool_],
    nids: NDArray[np.int64],
    memcgs: NDArray[np.int64],
    state: NDArray[np.int64],
    rule: int,
    limit: int,
    when_off_lru: int,
    isolated_goes_off_lru: bool,  # compiled functions take arguments by place
    became: NDArray[np.int8],
) -> tuple[int, int]:
    """Do :meth:`Window.take`; ``folios`` are numbers from 0, the same for pages of one folio."""
    isolated = np.zeros(len(looked), dtype=np.bool_)
    n_asked = 0
    for i in range(len(looked)):
        if not looked[i]:
            continue
        there = lru[i] and not isolated[folios[i]]
        if not there and when_off_lru != REFUSED:
            became[i] = when_off_lru
            continue
        became[i] = _before_the_checks(
            rule, nids[i], at_home[i], admitted[i], there and refused[i] != NOT_ASKED
        )
        if became[i] != GOES:
            continue
        n_asked += 1
        if refused[i] != ASKED or off_lru[n_asked - 1]:
            became[i] = REFUSED
            continue
        isolated[folios[i]] = isolated_goes_off_lru
        why = _stops(state, rule, limit, nids[i], memcgs[i])
        if why != WALK_ENDS:
            return i + 1, why
    return len(looked), WALK_ENDS


@compiled
def take_spans(
    looked: NDArray[np.bool_],
    lru: NDArray[np.bool_],
    at_home: NDArray[np.bool_],
    admitted: NDArray[np.bool_],
    refused: NDArray[np.int8],
    nids: NDArray[np.int64],
    memcgs: NDArray[np.int64],
    ends: NDArray[np.int64],
    state: NDArray[np.int64],
    rule: int,
    limit: int,
    when_off_lru: int,
    closes: bool,  # compiled functions take arguments by place
    became: NDArray[np.int8],
    stops: NDArray[np.uint8],
    batch_ends: NDArray[np.int64],
    batch_nids: NDArray[np.int64],
) -> int:
    """Go through the candidates of several spans, all different folios, where nothing that a batch does to
    the machine changes what is known of the others, and no check draws a failure.

    Args:
        looked, lru, at_home, admitted, refused, nids, memcgs, state, rule, limit, when_off_lru: as
            :func:`take` has them.
        ends: int64[n_spans], the first candidate behind those of each.
        closes: a batch ends with its span, the last one's too.
        became: int8[n], of PASSED_OVER, becomes what each becomes.
        stops: uint8[n], of 0, becomes how often the thread stops there (and reschedules, if its rule does).
        batch_ends, batch_nids: int64[2 * n], become how many of the folios that go are in all batches up to
            each, and its node.

    Returns:
        How many batches there are.
    """
    n_batches = n_listed = i = 0
    for end in ends:
        while i < end:
            if looked[i] and not lru[i]:
                became[i] = when_off_lru
            elif looked[i]:
                checked = refused[i] == ASKED
                became[i] = _before_the_checks(rule, nids[i], at_home[i], admitted[i], checked)
            if became[i] != GOES:
                i += 1
                continue
            why = _stops(state, rule, limit, nids[i], memcgs[i])
            if why in (FLUSH_BEFORE_IT, RESCHED_BEFORE_IT):
                if why == FLUSH_BEFORE_IT:
                    batch_ends[n_batches], batch_nids[n_batches] = n_listed, state[_NID]
                    n_batches += 1
                state[_NID], state[_MEMCG] = nids[i], memcgs[i]
                state[_N_COUNTED], state[_N_LISTED] = int(rule == PGHOT), 1
                stops[i] = 1
            n_listed += 1
            if why == FLUSH_WITH_IT or (rule == PGHOT and state[_N_COUNTED] > limit):
                batch_ends[n_batches], batch_nids[n_batches] = n_listed, state[_NID]
                n_batches += 1
                stops[i] += 1
                state[_N_COUNTED] = state[_N_LISTED] = 0
            i += 1
        if closes and state[_N_LISTED]:
            batch_ends[n_batches], batch_nids[n_batches] = n_listed, state[_NID]
            n_batches += 1
        if closes:
            state[_NID], state[_MEMCG], state[_N_COUNTED], state[_N_LISTED] = NUMA_NO_NODE, 0, 0, 0
    return n_batches


def parts_without_repeats(values: NDArray[np.int64]) -> Iterator[slice]:
    """Yield slices that cut ``values``, as few as can be, so that in each all are different."""
    order = np.argsort(values, kind="stable")
    same = values[order[1:]] == values[order[:-1]]
    repeats, befores = order[1:][same], order[:-1][same]
    start = 0
    for at, before in sorted(zip(repeats.tolist(), befores.tolist(), strict=True)):
        if before >= start:
            yield slice(start, at)
            start = at
    yield slice(start, len(values))
