"""The open loop: one design is given the list of requests, at the times it says, and nothing moves.

Time here is that of the list. A thread sleeps and walks as its design says (nobody wakes it,
see :class:`gpuscan.designs.engine.ThreadWait`); a walk takes the measured time for every page it looks
at (one for a folio that it steps over), and a mark that is made while it is under way is seen by it if the
walk has not come past the page, and, with flags of zones or sections, goes through where it lies.
Moving takes no time, checks refuse nothing. When the list is over the threads go on until
everything was found that will be.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.compare.discovery import TimedLedger, WalkPlace
from gpuscan.compare.request_list import RequestList, digest_entries
from gpuscan.compare.settings import Settings
from gpuscan.compare.static_machine import StillPages
from gpuscan.designs.catalogue import DESIGNS, make_model
from gpuscan.designs.contract import Design
from gpuscan.designs.engine import ThreadWait
from gpuscan.designs.machine import ZoneSpan
from gpuscan.designs.model import Model
from gpuscan.engine.policy import Policy
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.topology import Topology

OnMarks = Callable[[int], None]
"""Called with marks made."""

_WALKS_AFTER_END = 3
"""Waits of a thread after the list in which nothing was found: what is pending then will never be."""


@dataclass(frozen=True, slots=True)
class StepCosts:
    """What one step of a design's thread takes, see :mod:`gpuscan.compare.cost_model`: per page that a walk
    looks at, and per entry of a list."""

    page_ns: float
    entry_ns: float

    def look_ns(self, design: Design) -> float:
        """Return what a look of a design takes."""
        return self.page_ns if design.looks_at == "pages" else self.entry_ns


@dataclass(slots=True)
class OpenResult:
    """What one design did with the list.

    Attributes:
        design, list_digest: its name, SHA-256 of the entries that were marked.
        requested, found, pending: requests, those that were found, those that nobody will find.
        superseded: requests for a page and node for which there was one already.
        never_ready: entries after which the page was not READY: below the design's threshold, or not wanted.
        delays_ns, positions: int64[found], how long each waited, and the page (flat).
        place_in_zone: float32[found], 0 to 1: where in its zone's span the page lies.
        fills: int32[batches], what each batch that was not empty holds; batch_limit: what it may hold;
            fill_unit: of both, ``folios`` or ``base pages``.
        wrong_node: folios handed over for another node than asked for, or for one that is not there.
        lost: requests that ended without being handed on, by reason.
        examined, unit: pages (or entries) looked at.
        examined_bytes: what that reads.
        scan_ns: time of all walks: gpuscan's measured, a model's modelled from measured steps.
        no_resched_ns: longest stretch of a walk without a ``cond_resched()``; NaN for none needed.
        false_promotions: batched only since a record's time had wrapped around.
    """

    design: str
    list_digest: str = ""
    requested: int = 0
    found: int = 0
    pending: int = 0
    superseded: int = 0
    never_ready: int = 0
    delays_ns: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    positions: NDArray[np.int64] = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    place_in_zone: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, dtype=np.float32))
    fills: NDArray[np.int32] = field(default_factory=lambda: np.empty(0, dtype=np.int32))
    batch_limit: int = 0
    fill_unit: str = "folios"
    wrong_node: int = 0
    lost: dict[str, int] = field(default_factory=dict)
    examined: int = 0
    unit: str = "pages"
    examined_bytes: int = 0
    scan_ns: float = 0.0
    no_resched_ns: float = float("nan")
    false_promotions: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class _Spans:
    """What walks of a node may go through, in their order.

    Attributes:
        spans: see :meth:`gpuscan.designs.model.Model.spans`.
        starts, ends: int64[n], their PFNs.
        n_examined: PFNs that a walk through all of them looks at.
    """

    spans: Sequence[ZoneSpan]
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    n_examined: int


class OpenLoop:
    """A model of a design under the list.

    Args:
        design: what it declares.
        model: of the design, on a machine on which nothing moves.
        topology: its nodes and zones.
        entries: the list.
        costs: of a step.
        policy: the design's.
    """

    def __init__(
        self,
        design: Design,
        model: Model,
        topology: Topology,
        entries: NDArray[Any],
        costs: StepCosts,
        policy: Policy,
    ) -> None:
        assert design.model is not None
        self.design, self.model = design, model
        self._needs_flag = design.model.needs_flag
        self._entries = entries
        self._page_map = topology.page_map
        self._look_ns = costs.look_ns(design)
        self._policy = policy
        counter = "pfns_examined" if design.looks_at == "pages" else "entries_examined"
        self.place = WalkPlace(model, counter, self._look_ns)
        self.ledger = TimedLedger(self.place)
        model.ledger = self.ledger
        self._times = np.ascontiguousarray(entries["time_ns"])
        self._pfns = np.ascontiguousarray(entries["pfn"])
        self._nid_of_entry = self._page_map.nid_of_flat(self._page_map.flat_of_pfn(self._pfns))
        self._marked = np.zeros(len(entries), dtype=np.bool_)
        self._next = 0
        self.fills: list[int] = []
        self.scan_ns = 0.0
        self._topology = topology
        self._spans: dict[int, _Spans] = {}

    def run(self, on_marks: OnMarks | None = None) -> None:
        """Make every mark and let the threads find them."""
        model = self.model
        threads = {
            node.nid: ThreadWait(model.sleep_ns, self._needs_flag)
            for node in self._topology.nodes
            if node.present_pages and model.has_thread(node.nid)
        }
        events = [(thread.sleep_ns, nid) for nid, thread in threads.items()]
        heapq.heapify(events)
        after_end: Counter[int] = Counter()
        left = -1
        while events:
            now_ns, nid = heapq.heappop(events)
            before = self._next
            self._mark_until(now_ns)
            if on_marks is not None and self._next > before:
                on_marks(self._next - before)
            over = self._next == len(self._entries)
            if over:
                if self.ledger.pending != left:
                    left = self.ledger.pending
                    after_end.clear()
                after_end[nid] += 1
                if not self.ledger.pending or after_end[nid] > _WALKS_AFTER_END:
                    continue
            thread = threads[nid]
            if thread.needs_flag and not model.activated(nid):
                heapq.heappush(events, (now_ns + thread.sleep_ns, nid))
                continue
            end_ns, flagged = self._walk(nid, now_ns)
            heapq.heappush(events, (end_ns if flagged else end_ns + thread.sleep_ns, nid))

    def _walk(self, nid: int, start_ns: int) -> tuple[int, bool]:
        """Walk a node; return when that ended, and whether its flag was raised meanwhile."""
        model, place = self.model, self.place
        self.ledger.last_asked_ns = -1
        flagged = self._mark_ahead(nid, start_ns)
        asked_ahead = self.ledger.last_asked_ns > start_ns
        place.begin(start_ns)
        model.walk(nid, now_jiffies=self._jiffies(start_ns))
        walk_ns = place.end()
        end_ns = start_ns + max(1, int(walk_ns))
        self.scan_ns += walk_ns
        self.fills += [len(call.pfns) for call in model.calls if call.pfns]
        model.calls.clear()
        if asked_ahead:  # set after the thread had cleared it
            model.activate(nid)
        for span in flagged:
            model.raise_flag(span)
        self._mark_all(self._between(nid, start_ns, end_ns))
        return end_ns, model.activated(nid)

    def _between(self, nid: int, start_ns: int, end_ns: int) -> NDArray[np.int64]:
        """Return the entries of a node in ``(start, end]`` that were not marked yet."""
        lo, hi = np.searchsorted(self._times, [start_ns, end_ns], side="right").tolist()
        found: NDArray[np.int64] = lo + np.flatnonzero(
            (self._nid_of_entry[lo:hi] == nid) & ~self._marked[lo:hi]
        )
        return found

    def _mark_ahead(self, nid: int, start_ns: int) -> list[ZoneSpan]:
        """Make the marks that come during a walk, ahead of it; return the spans in which one comes after the
        walk has cleared their flag."""
        model, spans = self.model, self._spans_of(nid)
        if not len(spans.starts):
            return []
        longest_ns = int(spans.n_examined * self._look_ns)
        coming = self._between(nid, start_ns, start_ns + longest_ns)
        if not len(coming):
            return []
        coming = coming[np.argsort(self._pfns[coming], kind="stable")]
        pfns, times = self._pfns[coming], self._times[coming]
        firsts, ends = np.searchsorted(pfns, spans.starts), np.searchsorted(pfns, spans.ends)
        seen = np.zeros(len(coming), dtype=np.bool_)  # a page in two zones is looked at in the first
        n_before, flagged = 0, []
        for span, first, end in zip(spans.spans, firsts.tolist(), ends.tolist(), strict=True):
            mine = first + np.flatnonzero(~seen[first:end])
            seen[mine] = True
            begin_ns = self.place.when(start_ns, np.array([n_before]))[0]
            # What comes before the walk is here may be what makes it go through.
            self._mark_all(coming[mine[times[mine] <= begin_ns]])
            if not model.will_walk(span):
                continue
            reached_ns = self.place.when(start_ns, n_before + model.n_before(span, pfns[mine]))
            requested = self.ledger.requested
            self._mark_all(coming[mine[(times[mine] > begin_ns) & (times[mine] <= reached_ns)]])
            if self.ledger.requested > requested:
                flagged.append(span)
            n_before += model.n_examined(span)
        return flagged

    def _spans_of(self, nid: int) -> _Spans:
        found = self._spans.get(nid)
        if found is None:
            spans = self.model.spans(nid)
            starts = np.array([span.start_pfn for span in spans], dtype=np.int64)
            ends = np.array([span.end_pfn for span in spans], dtype=np.int64)
            n_examined = sum(self.model.n_examined(span) for span in spans)
            found = self._spans[nid] = _Spans(spans, starts, ends, n_examined)
        return found

    def _mark_until(self, now_ns: int) -> None:
        end = int(np.searchsorted(self._times, now_ns, side="right"))
        self._mark_all(self._next + np.flatnonzero(~self._marked[self._next : end]))
        self._next = max(self._next, end)

    def _mark_all(self, entries: NDArray[np.int64]) -> None:
        """Make marks in the order of their times."""
        for index in np.sort(entries).tolist():
            self._mark(index)

    def _mark(self, index: int) -> None:
        entry = self._entries[index]
        self._marked[index] = True
        time_ns = int(entry["time_ns"])
        self.ledger.now_ns = time_ns
        self.model.mark(int(entry["pfn"]), int(entry["nid"]), self._jiffies(time_ns), cpu=int(entry["cpu"]))

    def _jiffies(self, now_ns: int) -> int:
        return self._policy.jiffies(now_ns)

    def result(self) -> OpenResult:
        """Return what came of it, and prove conservation.

        Raises:
            RunFailedError: conservation broke.
        """
        design, model, ledger = self.design, self.model, self.ledger
        model.finish()
        model.verify()
        counters = model.counters
        n_looked_at = design.n_looked_at(counters)
        positions = np.array(ledger.positions, dtype=np.int64)
        return OpenResult(
            design.name,
            digest_entries(self._entries[self._marked]),
            requested=ledger.requested,
            found=len(positions),
            pending=ledger.pending,
            superseded=ledger.superseded,
            never_ready=max(0, len(self._entries) - ledger.requested),
            delays_ns=np.array(ledger.delays_ns, dtype=np.int64),
            positions=positions,
            place_in_zone=places_in_zone(self._topology, positions),
            fills=np.array(self.fills, dtype=np.int32),
            batch_limit=model.batch_folios,
            wrong_node=counters["sent_to_wrong_node"],
            lost=dict(ledger.lost.most_common()),
            examined=n_looked_at,
            unit=design.looks_at,
            examined_bytes=n_looked_at * design.look_bytes(self._policy),
            scan_ns=self.scan_ns,
            no_resched_ns=self.place.longest_ns,
            false_promotions=counters["false_promotions"],
        )


def run_model(
    name: str,
    settings: Settings,
    pages: StillPages,
    requests: RequestList,
    costs: StepCosts,
    on_marks: OnMarks | None = None,
) -> OpenResult:
    """Give a model the list.

    Raises:
        InputError: the design has nothing to do on this machine.
        RunFailedError: conservation broke.
    """
    policy = settings.policy_of(name)
    model = make_model(name, pages, policy)
    settings.tune(model)
    model.hint_faults = requests.hint_faults
    loop = OpenLoop(DESIGNS.get(name), model, settings.topology, requests.entries(), costs, policy)
    loop.run(on_marks)
    return loop.result()


def places_in_zone(topology: Topology, flats: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return float32[n]: where pages lie in the span of their zone, 0 its start, 1 its end."""
    page_map = topology.page_map
    zone_ids = page_map.section_zone[flats // SECTION_PAGES]
    starts, lengths = [], []
    for _, zone in topology.zones:
        first = zone.present[0][0] if zone.present else 0
        starts.append(first)
        lengths.append((zone.present[-1][1] - first) if zone.present else 1)
    pfns = page_map.pfn_of_flat(flats)
    share: NDArray[np.float64] = (pfns - np.array(starts)[zone_ids]) / np.array(lengths)[zone_ids]
    return share.astype(np.float32)
