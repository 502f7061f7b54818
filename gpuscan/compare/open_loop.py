"""The open loop: one design is given the list of requests, at the times it says, and nothing moves.

Time here is that of the list. A thread sleeps and walks as its design says, and meets the marks that come
while it walks (:mod:`gpuscan.designs.threads`); a walk takes the measured time for every page it looks at
(one for a folio that it steps over).
Moving takes no time, checks refuse nothing. When the list is over the threads go on until
everything was found that will be.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
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
from gpuscan.designs.model import Model
from gpuscan.designs.taking import parts_without_repeats
from gpuscan.designs.threads import Marks, Threads, ThreadWait, first_waits
from gpuscan.engine.policy import Policy
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.topology import Topology

OnMarks = Callable[[int], None]
"""Called with marks made."""

_NS_PER_S = 1_000_000_000
_FOR_EVER_NS = 1 << 62
_CHUNK_PAGES = 1 << 20
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
        lost: requests that ended without being handed on, by reason; see
            :class:`gpuscan.compare.endings.Endings`.
        examined, unit: pages (or entries) looked at.
        examined_bytes: what that reads.
        scan_ns: time of all walks: gpuscan's measured, a model's modelled from measured steps.
        interval_ns: pause between two scans.
        n_scans, n_threads: walks (or turns, or scans), and threads that wait for the next one.
        n_sections_asked: looks at a section as a whole.
        n_marked_sections: of all scans together, sections in which one found something; gpuscan alone.
        end_ns: when the last of them was over, the end of the list at least.
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
    interval_ns: int = 0
    n_scans: int = 0
    n_threads: int = 1
    n_sections_asked: int = 0
    n_marked_sections: int = 0
    end_ns: float = 0.0
    no_resched_ns: float = float("nan")
    false_promotions: int = 0


class _SleptOut(ThreadWait):
    """A wait that goes on to its timeout also where the flag was set before it began."""

    def walk_start_ns(self, now_ns: int) -> int | None:
        """See :class:`gpuscan.designs.threads.ThreadWait`."""
        if self.flag_ns is not None and self.flag_ns <= self.since_ns:
            start_ns = self.since_ns + self.sleep_ns
            return start_ns if start_ns <= now_ns else None
        return ThreadWait.walk_start_ns(self, now_ns)


class OpenLoop:
    """A model of a design under the list.

    Args:
        design: what it declares.
        model: of the design, on a machine on which nothing moves.
        topology: its nodes and zones.
        entries: the list.
        costs: of a step.
        policy: the design's.
        waits_out: a thread sleeps its whole interval after each walk, also where its flag was set meanwhile.
    """

    def __init__(
        self,
        design: Design,
        model: Model,
        topology: Topology,
        entries: NDArray[Any],
        costs: StepCosts,
        policy: Policy,
        *,
        waits_out: bool = False,
    ) -> None:
        assert design.model is not None
        self.design, self.model = design, model
        self._entries, self._policy, self._topology = entries, policy, topology
        counter = "pfns_examined" if design.looks_at == "pages" else "entries_examined"
        self.place = WalkPlace(model, counter, costs.look_ns(design))
        self.ledger = TimedLedger(self.place, model.machine.n_positions)
        model.ledger = self.ledger
        self.marks = _marks_of(entries, topology)
        self.fills: list[int] = []
        self.scan_ns = 0.0
        self.n_scans, self.end_ns = 0, float(entries["time_ns"][-1]) if len(entries) else 0.0
        first = first_waits(model, design.model, topology, lambda: 0)
        if waits_out:
            first = {nid: _SleptOut(wait.sleep_ns, wait.needs_flag) for nid, wait in first.items()}
        self.threads = Threads(model, design.model, first, self.place, policy, make=self._make)
        self.n_threads = len(first)
        self.threads.expect(self.marks)

    def run(self, on_marks: OnMarks | None = None) -> None:
        """Make every mark and let the threads find them."""
        threads, model, n_entries = self.threads, self.model, len(self._entries)
        after_end: Counter[int] = Counter()
        left, n_told = -1, 0
        while (due := threads.next_walk(_FOR_EVER_NS)) is not None:
            if on_marks is not None and threads.n_marked > n_told:
                on_marks(threads.n_marked - n_told)
                n_told = threads.n_marked
            _, nid = due
            if threads.n_marked == n_entries:
                if self.ledger.pending != left:
                    left = self.ledger.pending
                    after_end.clear()
                after_end[nid] += 1
                if not self.ledger.pending or after_end[nid] > _WALKS_AFTER_END:
                    del threads.waits[nid]
                    continue
            look_ns = threads.walk(*due).look_ns
            self.scan_ns += look_ns
            self.n_scans += 1
            self.end_ns = max(self.end_ns, due[0] + look_ns)
            self.fills += [len(call.pfns) for call in model.calls if call.pfns]
            model.calls.clear()
        if on_marks is not None and n_entries > n_told:
            on_marks(n_entries - n_told)

    def _make(self, marks: Marks, which: NDArray[np.int64]) -> None:
        """Make marks in the order of their times; of those made together each folio has one, and its time."""
        machine = self.model.machine
        pfns, times_ns = marks.pfns[which], marks.times_ns[which]
        positions = machine.online_positions(pfns)
        heads = np.where(positions < 0, -1, machine.pages(np.maximum(positions, 0)).head)
        for part in parts_without_repeats(heads):
            self.ledger.coming(heads[part], times_ns[part])
            self.model.mark_many(
                pfns[part],
                marks.nids[which[part]],
                times_ns[part] * self._policy.hz // _NS_PER_S,
                marks.cpus[which[part]],
            )

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
        positions = ledger.positions
        return OpenResult(
            design.name,
            digest_entries(self._entries, self.marks.done),
            requested=ledger.requested,
            found=len(positions),
            pending=ledger.pending,
            superseded=ledger.superseded,
            never_ready=max(0, len(self._entries) - ledger.requested),
            delays_ns=ledger.delays_ns,
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
            interval_ns=model.sleep_ns,
            n_scans=self.n_scans,
            n_threads=self.n_threads,
            n_sections_asked=counters["sections_examined"],
            end_ns=self.end_ns,
            no_resched_ns=self.place.longest_ns,
            false_promotions=counters["false_promotions"],
        )


def _marks_of(entries: NDArray[Any], topology: Topology) -> Marks:
    page_map, pfns = topology.page_map, np.ascontiguousarray(entries["pfn"])
    return Marks(
        np.ascontiguousarray(entries["time_ns"]),
        pfns,
        np.ascontiguousarray(entries["nid"]),
        entries["cpu"].astype(np.int64),
        page_map.nid_of_flat(page_map.flat_of_pfn(pfns)),
        np.zeros(len(entries), dtype=np.bool_),
    )


def run_model(
    name: str,
    settings: Settings,
    pages: StillPages,
    requests: RequestList,
    costs: StepCosts,
    on_marks: OnMarks | None = None,
    *,
    waits_out: bool = False,
) -> OpenResult:
    """Give a model the list; ``waits_out``: see :class:`OpenLoop`.

    Raises:
        InputError: the design has nothing to do on this machine.
        RunFailedError: conservation broke.
    """
    policy = settings.policy_of(name)
    model = make_model(name, pages, policy)
    settings.tune(model)
    model.hint_faults = requests.hint_faults
    entries, design = requests.entries(), DESIGNS.get(name)
    loop = OpenLoop(design, model, settings.topology, entries, costs, policy, waits_out=waits_out)
    loop.run(on_marks)
    return loop.result()


def places_in_zone(topology: Topology, flats: NDArray[np.int64]) -> NDArray[np.float32]:
    """Return float32[n]: where pages lie in the span of their zone, 0 its start, 1 its end."""
    page_map = topology.page_map
    starts, lengths = [], []
    for _, zone in topology.zones:
        first = zone.present[0][0] if zone.present else 0
        starts.append(first)
        lengths.append((zone.present[-1][1] - first) if zone.present else 1)
    places = np.empty(len(flats), dtype=np.float32)
    for start in range(0, len(flats), _CHUNK_PAGES):
        part = flats[start : start + _CHUNK_PAGES]
        zone_ids = page_map.section_zone[part // SECTION_PAGES]
        behind = page_map.pfn_of_flat(part) - np.array(starts)[zone_ids]
        places[start : start + len(part)] = behind / np.array(lengths)[zone_ids]
    return places
