"""What all models of designs have in common: batch calls, counters, losses, and how they are driven."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.distinct import distinct
from gpuscan.designs.machine import BatchCall, Machine, Page, ZoneSpan
from gpuscan.designs.races import Race
from gpuscan.designs.requests import (
    ALREADY_THERE,
    CONSUMED,
    INVALID_NID,
    NO_TARGET,
    NOBODY,
    NOT_PROMOTED,
    STALE,
    RequestLedger,
)
from gpuscan.designs.taking import (
    AHEAD,
    AT_HOME,
    FAR_AHEAD,
    FLUSH_BEFORE_IT,
    FLUSH_WITH_IT,
    GOES,
    GONE,
    NOT_ADMITTED,
    NOWHERE,
    PASSED_OVER,
    REFUSED,
    RESCHED_BEFORE_IT,
    Batch,
    Window,
)
from gpuscan.engine.stages import FolioEvents
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.sim.spec import KernelCostSpec

_AHEAD_LEAST = 64


class MarksAhead(NamedTuple):
    """Marks that may come while a node is walked, span after span, those of each in the order of their times.

    Attributes:
        times_ns, pfns, jiffies: int64[n], when and of which page.
        nids: int32[n], where each shall go.
        counts: int64[n], accesses that each reports; None: marks.
    """

    times_ns: NDArray[np.int64]
    pfns: NDArray[np.int64]
    jiffies: NDArray[np.int64]
    nids: NDArray[np.int32]
    counts: NDArray[np.int64] | None


class Meeting(NamedTuple):
    """Which marks a walk met.

    Attributes:
        made: int64[n], their places among all, ascending.
        during: bool[n], not before the walk came to their span.
        asked: bool[n], which made a page READY, or found it so.
    """

    made: NDArray[np.int64]
    during: NDArray[np.bool_]
    asked: NDArray[np.bool_]


class Model(ABC):
    """A design at work on a machine: it finds pages, and hands them to ``migrate_misplaced_folios_batch()``.

    Args:
        machine: whose pages are walked.

    Attributes:
        sleep_ns: timeout of the thread's wait.
        batch_folios: folios after which a batch is flushed.
        hint_faults: whether what is marked are hint faults; whoever drives the design says so.
        calls: every ``migrate_misplaced_folios_batch(list, nid)`` call.
        counters: by the kernel's names where it has one.
        ledger: where every request went.
        busy_ns: modelled time of all migrations.
        span: what the walk under way, or the last one, went through last.
    """

    sleep_ns: int
    batch_folios: int

    def __init__(self, machine: Machine) -> None:
        self.machine = machine
        self.calls: list[BatchCall] = []
        self.counters: Counter[str] = Counter()
        self.ledger = RequestLedger(machine.n_positions)
        self.busy_ns = 0.0
        self.span: ZoneSpan | None = None
        self.hint_faults = True
        self._has_memory = np.array([nid in machine.nids for nid in range(N_NODES_MAX)])
        self._active: set[int] = set()
        self._asked: dict[int, int | None] = {}  # head of an isolated folio: what was asked for

    @abstractmethod
    def mark(self, pfn: int, nid: int, now_jiffies: int = 0, *, cpu: int = 0) -> int:
        """Handle an access that a producer reports from a CPU, to a page that shall go to a node; 0 or
        -errno."""

    def mark_many(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        cpus: NDArray[np.int64],
    ) -> None:
        """Handle accesses, one after the other: see :meth:`mark`."""
        rows = zip(pfns.tolist(), nids.tolist(), jiffies.tolist(), cpus.tolist(), strict=True)
        for pfn, nid, now_jiffies, cpu in rows:
            self.mark(pfn, nid, now_jiffies, cpu=cpu)

    def report_many(
        self,
        pfns: NDArray[np.int64],
        nids: NDArray[np.int32],
        jiffies: NDArray[np.int64],
        cpus: NDArray[np.int64],
        counts: NDArray[np.int64],
    ) -> None:
        """Handle reports of several accesses each, one after the other, from a producer that counts accesses
        and only guesses the node; by default each is a mark of that node."""
        self.mark_many(pfns, nids, jiffies, cpus)

    @abstractmethod
    def walk(self, nid: int, races: Iterable[Race] = (), *, now_jiffies: int = 0) -> None:
        """Do one round of a node's thread; time stands still meanwhile.

        Args:
            nid: the node.
            races: marks that interleave with what the thread does at their page, for a design whose
                declaration says ``two_atomics``.
            now_jiffies: the time.
        """

    def has_thread(self, nid: int) -> bool:
        """Whether a node with memory has a thread."""
        return True

    def spans(self, nid: int) -> Sequence[ZoneSpan]:
        """Return what a walk of a node may go through, in its order; nothing where there is no walk."""
        return ()

    def will_walk(self, span: ZoneSpan) -> bool:
        """Whether a walk that comes to one of its :meth:`spans` now goes through it."""
        return True

    def raise_flag(self, span: ZoneSpan) -> None:
        """Set the flag of a span, where there is one, as a mark does that comes while the span is walked."""
        return

    def meet(
        self,
        spans: Sequence[ZoneSpan],
        ends: NDArray[np.int64],
        marks: MarksAhead,
        start_ns: int,
        look_ns: float,
    ) -> Meeting | None:
        """Make the marks that a walk meets, where a model can find out which these are all together.

        Args:
            spans: what the walk may go through, in its order, none over another.
            ends: int64[n_spans], the first mark behind those of each.
            marks: those in these spans; in which a mark is met: :mod:`gpuscan.designs.threads`.
            start_ns, look_ns: when the walk begins, and what a look takes.

        Returns:
            None where it cannot; then nothing was made.
        """
        return None

    def n_before(self, span: ZoneSpan, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return int64[n]: how many PFNs of a span a walk looks at before it comes to each of these."""
        return pfns - span.start_pfn

    def n_examined(self, span: ZoneSpan) -> int:
        """Return how many PFNs of a span a walk looks at."""
        return int(self.n_before(span, np.array([span.end_pfn]))[0])

    def finish(self) -> None:
        """Book, at the end of a run, what is pending but will not be found."""
        return

    def producer_wait_ns(self, duration_ns: int, cost: KernelCostSpec, n_cpus: int) -> float:
        """Return how long producers waited for locks since the last call, ``duration_ns`` ago, modelled."""
        return 0.0

    def producer_ns(self, cost: KernelCostSpec) -> float:
        """Return what all marks took besides waiting, modelled: cold lines and locked instructions."""
        counters = self.counters
        return counters["producer_lines"] * cost.cold_line_ns + counters["producer_atomics"] * cost.atomic_ns

    def activate(self, nid: int) -> None:
        """Set PGDAT_KMIGRATED_ACTIVATE of a node."""
        self._active.add(nid)

    def activated(self, nid: int) -> bool:
        """Whether PGDAT_KMIGRATED_ACTIVATE of a node is set."""
        return nid in self._active

    def apply(self, events: Sequence[FolioEvents]) -> None:
        """End the requests of folios that are gone. Nothing tells the design, so its marks stay."""
        for event in events:
            self._freed(event.freed, 1 << event.order)

    def _freed(self, heads: NDArray[np.int64], n_pages: int) -> None:
        """Note that folios are gone, each of so many pages."""
        if self.ledger.pending:
            positions = heads if n_pages == 1 else (heads[:, None] + np.arange(n_pages)).ravel()
            self.ledger.end_pending_many(positions, STALE)

    def verify(self) -> None:
        """Prove conservation: see :meth:`RequestLedger.verify`."""
        pending = self.ledger.pending_positions()
        self.ledger.verify(self._ready_at(pending))

    def _have_memory(self, nids: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which are nodes with memory; any number may stand there."""
        inside = (nids >= 0) & (nids < N_NODES_MAX)
        have: NDArray[np.bool_] = inside & self._has_memory[np.where(inside, nids, 0)]
        return have

    @abstractmethod
    def _ready_at(self, positions: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pages the records say are READY."""

    def _charge(self, lines: int, *, atomics: int, n_marks: int = 1) -> None:
        """Count what each mark costs its producer: cache lines that other CPUs wrote, locked instructions."""
        counters = self.counters
        counters["producer_marks"] += n_marks
        counters["producer_lines"] += n_marks * lines
        counters["producer_atomics"] += n_marks * atomics

    def _at_home(self, page: Page, nid: int, asked: int | None, reason: str = ALREADY_THERE) -> bool:
        """Return whether a claimed folio is on its target already, which ends the request."""
        self.counters["invalid_nid"] += nid not in self.machine.nids
        if page.nid != nid:
            return False
        self.counters["at_home"] += 1
        self.ledger.lose(asked, reason)
        return True

    def _isolate(self, page: Page, nid: int, asked: int | None, *, still_there: bool = True) -> bool:
        """Check and isolate a claimed folio; what is refused here is forgotten."""
        if not still_there or self.machine.prepare(page.head, nid):
            self.counters["prepare_refused"] += 1
            self.ledger.lose(asked, CONSUMED if nid in self.machine.nids else INVALID_NID)
            return False
        self._asked[page.head] = asked
        self.counters["isolated"] += 1
        self.counters["batch_pages"] += page.n_pages
        return True

    def _flush(self, migrate_list: list[int], nid: int) -> None:
        """Hand a list of folios that :meth:`_isolate` took over, and empty it."""
        asked = [self._asked.pop(head) for head in migrate_list]
        nobody = [NOBODY if wanted is None else wanted for wanted in asked]
        heads = np.array(migrate_list, dtype=np.int64)
        migrate_list.clear()
        self._hand_over(heads, np.array(nobody, dtype=np.int32), nid)

    def _hand_over(self, listed: NDArray[np.int64], asked: NDArray[np.int32], nid: int) -> None:
        """Move isolated folios; ``list_add()`` puts each at the front.

        Args:
            listed: int64[n], heads in the order they were listed.
            asked: int32[n], the node that each is asked to go to, or NOBODY.
            nid: where they go.
        """
        machine, counters = self.machine, self.counters
        heads, asked = listed[::-1], asked[::-1]
        self.calls.append(BatchCall(tuple(machine.pfns(heads).tolist()), nid))
        counters["batch_calls"] += 1
        counters["batch_folios"] += len(heads)
        if not len(heads):
            counters["empty_batch_calls"] += 1
            return
        result = machine.migrate(heads, nid)
        self.busy_ns += result.busy_ns
        counters.update(dict(result.counts))
        self._count_success(dict(result.counts).get("pgmigrate_success", 0))
        there = nid in machine.nids
        n_right = 0 if not there else int(np.count_nonzero((asked == nid) | (asked == NOBODY)))
        counters["sent_to_wrong_node"] += len(heads) - n_right
        self.ledger.moved_many(asked[result.moved], nid)
        self.ledger.lose_many(asked[~result.moved], CONSUMED if there else INVALID_NID)
        self.apply(result.events)

    def _hand_over_each(
        self,
        listed: NDArray[np.int64],
        asked: NDArray[np.int32],
        ends: NDArray[np.int64],
        nids: NDArray[np.int64],
    ) -> None:
        """Do :meth:`_hand_over` for several batches, one after the other.

        Args:
            listed, asked: as there, batch after batch.
            ends: int64[n_batches], how many folios all batches up to each have.
            nids: int64[n_batches], where each goes.
        """
        machine, counters = self.machine, self.counters
        sizes = np.diff(ends, prepend=0)
        order = np.repeat(2 * ends - sizes - 1, sizes) - np.arange(len(listed))
        heads, asked, each_nid = listed[order], asked[order], np.repeat(nids, sizes)
        pfns = machine.pfns(heads).tolist()
        for start, end, nid in zip((ends - sizes).tolist(), ends.tolist(), nids.tolist(), strict=True):
            self.calls.append(BatchCall(tuple(pfns[start:end]), nid))
        counters["batch_calls"] += len(ends)
        counters["batch_folios"] += len(heads)
        counters["empty_batch_calls"] += int(np.count_nonzero(sizes == 0))
        if not len(heads):
            return
        result = machine.migrate_each(heads, ends[sizes > 0], nids[sizes > 0])
        for busy_ns in result.busy_ns.tolist():  # in their order, as floats are added
            self.busy_ns += busy_ns
        counters.update(result.counts)
        self._count_success(result.counts.get("pgmigrate_success", 0))
        there = self._have_memory(each_nid)
        right = there & ((asked == each_nid) | (asked == NOBODY))
        counters["sent_to_wrong_node"] += len(heads) - int(np.count_nonzero(right))
        moved = result.moved
        self.ledger.moved_many(asked[moved], each_nid[moved])
        self.ledger.lose_many(asked[~moved & there], CONSUMED)
        self.ledger.lose_many(asked[~moved & ~there], INVALID_NID)
        self.apply(result.events)

    def _take_spans(
        self,
        window: Window,
        batch: Batch,
        ends: NDArray[np.int64],
        when_off_lru: int = PASSED_OVER,
        *,
        closes: bool = False,
    ) -> None:
        """Go through candidates of one span or several, and hand over each batch that is due.

        Args:
            window: of pages of different folios, which stay as they are until the thread is through.
            batch: what is listed so far.
            ends: int64[n_spans], the first candidate behind those of each.
            when_off_lru: see :meth:`_take_all`.
            closes: a batch ends with its span, the last one's too.
        """
        became, stops, batch_ends, nids = window.take_spans(batch, ends, when_off_lru, closes=closes)
        window.stops = stops if batch.reschedules else None
        heads, asked = self._book(window, became)
        if batch.reschedules:
            self.counters["cond_resched"] += int(stops.sum())
        batch_ends = batch_ends + sum(map(len, batch.heads))
        batch.add(heads, asked)
        if len(batch_ends):
            heads, asked = batch.take_all()
            n = int(batch_ends[-1])
            self._hand_over_each(heads[:n], asked[:n], batch_ends, nids)
            batch.add(heads[n:], asked[n:])

    def _n_steady(self, window: Window, batch: Batch) -> int:
        """Return how many candidates of a window the thread may go through before a batch may change what is
        known of the rest: whether its target is balanced, and has room."""
        pages, nids, machine = window.pages, window.nids, self.machine
        if (pages.n_pages > 1).any():
            return 0
        go = window.looked & pages.lru & (pages.nid != nids)
        targets, from_nids = set(distinct(nids[go])), set(distinct(pages.nid[go]))
        n_listed = sum(map(len, batch.heads))
        if n_listed:
            listed = np.concatenate(batch.heads)
            targets.add(batch.nid)
            from_nids.update(distinct(machine.nids_at(listed)))
            if machine.refusals(listed, np.full(n_listed, batch.nid)).any():
                return 0  # they were isolated when their target was balanced, and may not find room now
        if not targets <= machine.nids or targets & from_nids:
            return 0
        n_fit = min(map(machine.steady_pages, targets), default=len(go)) - n_listed
        return int(np.searchsorted(go.cumsum(), n_fit, side="right")) if n_fit > 0 else 0

    def _take_all(
        self,
        n: int,
        look: Callable[[slice], Window],
        batch: Batch,
        when_off_lru: int = PASSED_OVER,
    ) -> None:
        """Go through candidates that are all different, in their order, and hand over each batch that is due.

        Args:
            n: how many.
            look: returns what some of them are now.
            batch: what is listed so far; what is left over stays there.
            when_off_lru: what becomes of one that is on no LRU list.
        """
        n_done, n_ahead = 0, FAR_AHEAD
        while n_done < n:
            window = look(slice(n_done, min(n, n_done + n_ahead)))
            n_taken = self._n_steady(window, batch)
            if n_taken:
                self._take_spans(window, batch, np.array([n_taken]), when_off_lru)
                n_ahead = max(_AHEAD_LEAST, min(FAR_AHEAD, 2 * n_taken))
            else:
                n_taken = self._take_window(window, batch, when_off_lru)
                n_ahead = max(_AHEAD_LEAST, min(AHEAD, 2 * n_taken))
            n_done += n_taken

    def _take_window(self, window: Window, batch: Batch, when_off_lru: int = PASSED_OVER) -> int:
        """Go through a window until a batch is due, and hand it over; return how many were gone through."""
        became, why = window.take(
            batch, when_off_lru, isolated_goes_off_lru=self.machine.isolated_goes_off_lru
        )
        heads, asked = self._book(window, became)
        if why in (FLUSH_BEFORE_IT, RESCHED_BEFORE_IT):
            batch.add(heads[:-1], asked[:-1])
            if why == FLUSH_BEFORE_IT:
                self._hand_over(*batch.take_all(), batch.nid)
            self.counters["cond_resched"] += batch.reschedules
            last = len(became) - 1
            batch.begin(int(window.nids[last]), int(window.memcgs[last]))
            heads, asked = heads[-1:], asked[-1:]
        batch.add(heads, asked)
        if why == FLUSH_WITH_IT or batch.is_over:
            self._hand_over(*batch.take_all(), batch.nid)
            self.counters["cond_resched"] += batch.reschedules
            batch.empty()
        return len(became)

    def _book(self, window: Window, became: NDArray[np.int8]) -> tuple[NDArray[np.int64], NDArray[np.int32]]:
        """Book what became of candidates; return those that go: their heads, and the node each asked for."""
        counters, ledger, machine = self.counters, self.ledger, self.machine
        taken = np.flatnonzero(became != PASSED_OVER)
        positions, became, nids = window.positions[taken], became[taken], window.nids[taken]
        heads, n_pages = window.pages.head[taken], window.pages.n_pages[taken]
        if window.asked is None:
            self._clear(positions)
            counters["claimed"] += len(taken)
            asked = ledger.claim_many(
                positions,
                None if window.n_to_come is None else window.n_to_come[taken],
                None if window.stops is None else window.stops[taken],
            )
        else:
            asked = window.asked[taken]
        there = self._have_memory(nids)
        counters["invalid_nid"] += int(np.count_nonzero(~there & (became > NOWHERE)))
        ledger.lose_many(asked[became == GONE], CONSUMED)
        nowhere = became == NOWHERE
        if nowhere.any():
            counters["no_target"] += int(np.count_nonzero(nowhere))
            ledger.lose_many(asked[nowhere], NO_TARGET)
        at_home = became == AT_HOME
        if at_home.any():
            counters["at_home"] += int(np.count_nonzero(at_home))
            self._lose_at_home(asked[at_home], nids[at_home])
        not_admitted = became == NOT_ADMITTED
        if not_admitted.any():
            counters["not_promoted"] += int(np.count_nonzero(not_admitted))
            ledger.lose_many(asked[not_admitted], NOT_PROMOTED)
        refused, goes = became == REFUSED, became == GOES
        checked = goes | refused & (window.refused[taken] >= 0)
        machine.prepare_many(heads[checked], nids[checked], goes[checked])
        if refused.any():
            counters["prepare_refused"] += int(np.count_nonzero(refused))
            ledger.lose_many(asked[refused & there], CONSUMED)
            ledger.lose_many(asked[refused & ~there], INVALID_NID)
        counters["isolated"] += int(np.count_nonzero(goes))
        counters["batch_pages"] += int(n_pages[goes].sum())
        return heads[goes], asked[goes]

    def _clear(self, positions: NDArray[np.int64]) -> None:
        """Take the marks of pages that the thread claims."""
        return

    def _lose_at_home(self, asked: NDArray[np.int32], nids: NDArray[np.int64]) -> None:
        """End the requests of folios that are on their targets already."""
        self.ledger.lose_many(asked, ALREADY_THERE)

    def _count_success(self, n_pages: int) -> None:
        """Count base pages moved as the patch does."""
        if n_pages:
            self.counters["numa_pages_migrated"] += n_pages
            self.counters["pgpromote_success"] += n_pages
