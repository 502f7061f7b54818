"""Designs on simulated machines: when threads walk, what producers mark, and how folios move."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.cli.main import main
from gpuscan.designs.built_in.percpu_list import PercpuList
from gpuscan.designs.catalogue import DESIGNS
from gpuscan.designs.engine import DesignEngine, design_engine
from gpuscan.designs.machine import ArrayMachine, ZoneSpan
from gpuscan.designs.races import interleaved
from gpuscan.designs.rfc import Kmigrated, RfcV1
from gpuscan.designs.simulated import SimulatedPages
from gpuscan.designs.threads import Marks, Threads, ThreadWait
from gpuscan.engine.policy import Policy
from gpuscan.engine.tick import RunReport
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.producers.built_in.hint_faults import HintFaultSource
from gpuscan.producers.contract import Observed
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.sampler import SamplerSpec
from gpuscan.sim.spec import (
    HintFaultSpec,
    KernelCostSpec,
    MachineSpec,
    MigrationCostSpec,
    PatternSpec,
    ProcessSpec,
)
from gpuscan.topology import Topology
from machines import node, tiered
from workload_files import small

MS = 1_000_000
SMALL = small(25)


def machine(
    topology: Topology | None = None, *, n_pages: int = 4096, order: int = 0, **changes: Any
) -> SimulatedMachine:
    """Return a machine whose one process lies on node 2 (CXL) and runs on node 0."""
    process = ProcessSpec("app", n_pages, (0,), 40_000.0, ((2, 1.0),), order=order)
    hint_faults = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=200 * MS, hot_latency_ns=0)
    spec = replace(MachineSpec((process,), hint_faults), **changes)
    return SimulatedMachine(topology or tiered(), spec)


def engine(name: str, sim: SimulatedMachine, **policy: Any) -> DesignEngine:
    return design_engine(name, sim, Policy(interval_ns=100 * MS, **policy))


def pages(sim: SimulatedMachine) -> SimulatedPages:
    return SimulatedPages(sim, SimulatedMigrator(sim, has_vma=False))


def starts(wait: ThreadWait, *times_ms: int) -> list[float | None]:
    """Return when a walk has begun by each moment, in ms."""
    found = [wait.walk_start_ns(ms * MS) for ms in times_ms]
    return [None if start is None else start / MS for start in found]


def test_a_flag_set_while_the_thread_waits_starts_nothing() -> None:
    wait = ThreadWait(1000 * MS, needs_flag=False)
    wait.flag_ns = 100 * MS
    assert starts(wait, 100, 500, 999, 1000, 1050) == [None, None, None, 1000, 1000]


def test_a_flag_set_during_a_walk_starts_the_next_one_at_once() -> None:
    wait = ThreadWait(1000 * MS, needs_flag=False)
    wait.walked(1000 * MS, 300 * MS)
    wait.flag_ns = 1200 * MS
    assert starts(wait, 1200, 1300) == [None, 1300]
    wait.walked(1300 * MS, 0)
    assert getattr(wait, "flag_ns", "none") is None
    assert starts(wait, 1400, 2300) == [None, 2300]


def test_a_timeout_without_the_flag_walks_as_posted_and_not_in_pghot() -> None:
    posted, pghot = ThreadWait(1000 * MS, needs_flag=False), ThreadWait(100 * MS, needs_flag=True)
    assert starts(posted, 1000) == [1000]
    assert starts(pghot, 100) == [None]
    pghot.flag_ns = 150 * MS
    assert starts(pghot, 199, 200) == [None, 200]


TRACE = Path(__file__).parents[1] / "data" / "traces" / "perf-cpu-time-weight-phys.txt"


@pytest.mark.parametrize("name", DESIGNS.models)
def test_every_design_promotes_and_loses_nothing_without_a_reason(name: str) -> None:
    sim = machine()
    report = engine(name, sim).run(40)
    assert report.design == name
    ledger = report.ledger
    assert ledger.requested == ledger.pending + ledger.migrated + ledger.superseded + ledger.dropped.total()
    assert ledger.migrated == report.counters["pgpromote_success"] > 500
    on_dram = sim.space.frame_of < 2 * SECTION_PAGES
    assert on_dram.sum() == ledger.migrated
    assert ledger.in_flight == 0


def test_the_posted_thread_walks_once_a_second_whatever_is_marked() -> None:
    rare = HintFaultSpec(1 << 30, 5000 * MS, hot_latency_ns=0)
    report = engine("rfc-v1", machine(n_pages=64, hint_faults=rare)).run(40)
    # Four nodes, four seconds. A wait lasts its second, wherever in it the run began.
    assert report.counters["walks"] == 4 * 4
    assert report.ledger.migrated == 64
    assert len({tick.tick % 10 for tick in report.ticks if tick.n_plans}) <= 4


def test_a_node_onlined_later_has_no_thread_and_its_marks_wait_for_ever() -> None:
    sim = machine()
    design = RfcV1(pages(sim), onlined_later=(2,))
    running = DesignEngine(
        DESIGNS.get("rfc-v1"), design, sim, HintFaultSource(sim), Policy(interval_ns=100 * MS)
    )
    report = running.run(20)
    assert report.ledger.migrated == 0
    assert report.ledger.dropped["no thread on its node"] > 1000
    assert report.ledger.pending == 0
    assert report.counters["walks"] == 3 * 2


def test_under_load_the_posted_thread_walks_without_a_pause() -> None:
    slow = KernelCostSpec(walk_pfn_locked_ns=9000.0)  # 0.3 s a zone
    copies = MigrationCostSpec(copy_failure_share=1.0)  # so that the marks go on
    busy, idle = (
        engine("rfc-fixed", machine(kernel=slow, cost=copies, hint_faults=faults)).run(100).counters["walks"]
        for faults in (HintFaultSpec(1 << 30, 200 * MS, hot_latency_ns=0), HintFaultSpec(scan_period_ns=0))
    )
    assert 4 * 7 <= idle <= 4 * 8  # each of four nodes every 1.3 s
    assert 3 * 7 + 28 <= busy <= 3 * 8 + 33  # node 2: from the end of its wait on, one after the other


def test_marks_race_with_the_walk_as_often_as_their_atomics_are_apart() -> None:
    # A torn mark moves with the folio that it is on, if that moves; here none does.
    stuck = MigrationCostSpec(isolation_failure_share=1.0)
    faults = HintFaultSpec(1 << 30, 1000 * MS, hot_latency_ns=0)

    def run(name: str, apart_ns: float, seed: int = 0) -> RunReport:
        spec = KernelCostSpec(atomics_apart_ns=apart_ns)
        sim = machine(kernel=spec, seed=seed, cost=stuck, hint_faults=faults)
        return engine(name, sim).run(60)

    for name in ("rfc-v1", "rfc-fixed"):
        torn = run(name, 10.0 * MS)
        assert torn.counters["raced_marks"] > 50
        assert torn.counters["invalid_nid"] == torn.ledger.dropped["invalid nid"] > 5
    same, other = run("rfc-fixed", 10.0 * MS), run("rfc-fixed", 10.0 * MS, seed=1)
    assert same.counters == torn.counters != other.counters
    whole = run("rfc-v1", 0.0)
    assert (whole.counters["raced_marks"], whole.counters["invalid_nid"]) == (0, 0)


def test_the_times_of_four_atomics_say_how_they_interleave() -> None:
    late = np.array([-30.0, -5.0, -5.0, 3.0, 3.0, 20.0, -1.0])
    apart = np.array([[10.0, 20.0, 8.0, 4.0, 20.0, 5.0, 9.0], [10.0] * 7])
    pfns = np.array([1, 2, 3, 4, 5, 6, 2])
    races = interleaved(pfns, np.zeros(7, np.int32), late, apart)
    orders = {i: race.order for i, race in races.items()}
    assert orders == {1: "PCCP", 2: "PCPC", 3: "CPPC", 4: "CPCP"}
    # The first is there in time, the sixth is not, the last finds another one at its page and goes before.
    assert [race.pfn for race in races.values()] == [2, 3, 4, 5]


class Steady:
    """A pace of 2 ns a page."""

    look_ns = 2.0

    def begin(self, start_ns: int) -> None:
        pass

    def end(self) -> float:
        return 0.0


def test_a_walk_comes_by_the_zones_in_turn_and_not_by_device_memory() -> None:
    zones = [ZoneSpan(0, 100, 200), ZoneSpan(0, 300, 400, device=True), ZoneSpan(0, 1000, 2000)]
    head = np.arange(2000)
    head[1008:1012] = 1008  # a folio of 4 pages
    pfns = np.array([100, 150, 350, 1000, 1012])
    for name, last_ns in (("rfc-v1", 224), ("rfc-fixed", 218)):
        how = DESIGNS.get(name).model
        assert how is not None
        at_ns = [0, 100, 0, 200, last_ns]  # when the walk is at each; it is never at device memory
        for late_ns, met in ((0, [False, True, False, True, True]), (1, [False] * 5)):
            model = how.make(ArrayMachine(np.zeros(2000), zones, head=head), Policy())
            times = np.array(at_ns) + late_ns
            order = np.argsort(times, kind="stable")
            marks = Marks(times, pfns, *(np.zeros(5, kind) for kind in (np.int32, np.int64, np.int32, bool)))
            threads = Threads(
                model, how, {0: ThreadWait(1, needs_flag=False, since_ns=-1)}, Steady(), Policy()
            )
            marks = Marks(
                times[order],
                pfns[order],
                marks.nids[order],
                marks.cpus[order],
                marks.own_nids[order],
                marks.done[order],
            )
            threads.expect(marks)
            due = threads.next_walk(0)
            assert due == (0, 0)
            before = marks.done.copy()
            threads.walk(*due)
            found = dict(zip(pfns[order].tolist(), (marks.done & ~before).tolist(), strict=True))
            assert [found[pfn] for pfn in pfns.tolist()] == met


def test_zone_flag_finds_ahead_only_what_lies_in_a_zone_that_it_walks() -> None:
    spec = KernelCostSpec(walk_pfn_locked_ns=1000.0, atomics_apart_ns=0.0)
    for flagged in (False, True):
        running = engine("zone-flag", machine(kernel=spec))
        first, last = (running.model.machine.pfn(int(running._machine.space.frame_of[i])) for i in (0, 4095))
        if flagged:
            running.model.mark(first, 0)
        nids, own, cpus = np.array([0], np.int32), np.array([2], np.int32), np.zeros(1, np.int64)
        marks = Marks(np.array([MS]), np.array([last]), nids, cpus, own, np.zeros(1, bool))
        running.threads.expect(marks)
        running.threads.walk(0, 2)
        assert running.model.ledger.migrated == (2 if flagged else 0)
        assert marks.done.tolist() == [flagged]
        (zone,) = running.model.spans(2)
        assert running.model.will_walk(zone) == flagged  # set again by the mark that came during the walk


def test_a_walk_finds_what_is_marked_ahead_of_it() -> None:
    spec = KernelCostSpec(walk_pfn_locked_ns=1000.0, atomics_apart_ns=0.0)
    running = engine("rfc-fixed", machine(kernel=spec))
    first, last = (running.model.machine.pfn(int(running._machine.space.frame_of[i])) for i in (0, 4095))
    nids = np.array([0, 0], dtype=np.int32)
    times = np.array([5 * MS // 2, 5 * MS // 2])  # half a way to the last page
    own, cpus = np.full(2, 2, np.int32), np.zeros(2, np.int64)
    marks = Marks(times, np.array([first, last]), nids, cpus, own, np.zeros(2, bool))
    running.threads.expect(marks)
    running.threads.walk(0, 2)
    assert running.model.ledger.migrated == 1
    assert running._machine.page_map.nid_of_flat(
        running._machine.space.frame_of[[0, 4095]].astype(int)
    ).tolist() == [2, 0]
    assert marks.done.tolist() == [False, True]
    assert running.model.activated(2)
    assert running.threads.waits[2].walk_start_ns(40 * MS) == running.threads.waits[2].since_ns


def marks_at(running: DesignEngine, folios: list[int], times_ns: list[int]) -> Marks:
    """Return marks of folios on node 2 for node 0."""
    frames = running._machine.space.frame_of[folios].astype(np.int64)
    pfns, n = running._machine.page_map.pfn_of_flat(frames), len(folios)
    nids, own = np.zeros(n, np.int32), np.full(n, 2, np.int32)
    return Marks(np.array(times_ns), pfns, nids, np.zeros(n, np.int64), own, np.zeros(n, bool))


def test_section_flag_finds_what_is_marked_ahead_of_it_and_its_flag_is_set_again() -> None:
    running = engine("section-flag", machine(kernel=KernelCostSpec(walk_pfn_ns=1000.0)), freq_threshold=1)
    # The walk comes to the last page after 4.1 ms; the first mark is what it walks for.
    marks = marks_at(running, [7, 3, 4095], [0, 2 * MS, 2 * MS])
    running.threads.expect(marks)
    assert running.threads.next_walk(0) is None
    running.threads.walk(0, 2)
    assert running.model.ledger.migrated == 2
    assert marks.done.tolist() == [True, False, True]
    (span,) = running.model.spans(2)
    assert running.model.activated(2)
    assert running.model.will_walk(span)


def test_zone_flag_is_asked_when_the_walk_comes_to_the_zone() -> None:
    topology = tiered()
    zone = topology.nodes[2].zones[0]
    start, half = zone.present[0][0], SECTION_PAGES // 2
    first = replace(zone, present=((start, start + half),), managed_pages=half)
    second = replace(
        zone,
        name="Movable",
        present=((start + SECTION_PAGES, start + SECTION_PAGES + half),),
        managed_pages=half,
    )
    node_2 = replace(topology.nodes[2], zones=(first, second))
    split = Topology("split", (*topology.nodes[:2], node_2, topology.nodes[3]), topology.distance)
    for late_ms, migrated in ((10, 2), (40, 1)):  # the walk comes to the second zone after 16.4 ms
        spec = KernelCostSpec(walk_pfn_locked_ns=1000.0, atomics_apart_ns=0.0)
        running = engine("zone-flag", machine(split, n_pages=20_000, kernel=spec))
        low, *_, high = np.argsort(running._machine.space.frame_of).tolist()
        marks = marks_at(running, [low, high], [0, late_ms * MS])
        running.threads.expect(marks)
        running.threads.next_walk(0)
        assert not running.model.will_walk(running.model.spans(2)[1])
        running.threads.walk(0, 2)
        assert running.model.ledger.migrated == migrated


def test_a_mark_that_is_refused_starts_no_walk() -> None:
    # per-folio marks folios on an LRU list alone; kmigrated as posted marks whatever is online.
    for name, flagged in (("per-folio", False), ("rfc-fixed", True)):
        spec = KernelCostSpec(walk_pfn_locked_ns=1000.0, atomics_apart_ns=0.0)
        running = engine(name, machine(kernel=spec))
        marks = marks_at(running, [4095], [2 * MS])
        free = running._machine.page_map.pfn_of_flat(running._machine.frames.free_frames(2)[-1:])
        marks.pfns[:] = free.astype(np.int64)
        running.threads.expect(marks)
        running.threads.walk(0, 2)
        assert marks.done.all()
        assert (running.threads.waits[2].flag_ns is not None) == flagged == running.model.activated(2)


def mark_one_by_one(self: Threads, end: int) -> None:
    """Make marks up to ``end`` or the first that sets a flag, as if each came alone."""
    marks = self._marks
    while self.n_marked < end:
        i = self.n_marked
        self.n_marked += 1
        if marks.done[i]:
            continue
        now_ns, nid = int(marks.times_ns[i]), int(marks.own_nids[i])
        self._model.mark(
            int(marks.pfns[i]), int(marks.nids[i]), self._policy.jiffies(now_ns), cpu=int(marks.cpus[i])
        )
        wait = self.waits.get(nid)
        if wait is not None and wait.flag_ns is None and self._model.activated(nid):
            wait.flag_ns = now_ns
            return


@pytest.mark.parametrize("order", [0, 3])
@pytest.mark.parametrize("name", DESIGNS.models)
def test_marks_in_bulk_are_those_made_one_by_one(
    name: str, order: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Walks of 33 to 66 ms, so that marks come during, before and behind them; small waits for the others.
    spec = KernelCostSpec(walk_pfn_ns=1000.0, walk_pfn_locked_ns=1000.0, atomics_apart_ns=20_000.0)
    faults = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=30 * MS, hot_latency_ns=0)
    for interval_ms in (100, 35):
        reports = []
        for bulk in (True, False):
            with monkeypatch.context() as patched:
                if not bulk:
                    patched.setattr(Threads, "_mark", mark_one_by_one)
                sim = machine(kernel=spec, hint_faults=faults, seed=interval_ms, order=order)
                running = design_engine(name, sim, Policy(interval_ns=interval_ms * MS))
                running.model.sleep_ns = 20 * MS
                for thread in running.threads.waits.values():
                    thread.sleep_ns, thread.since_ns = 20 * MS, -7 * MS
                reports.append((running.run(20), running.model))
        (many, ours), (single, theirs) = reports
        assert many.counters == single.counters
        assert ours.ledger.as_dict() == theirs.ledger.as_dict()
        assert many.ticks == single.ticks
        assert ours.ledger.migrated > 100
        if isinstance(ours, Kmigrated):
            assert isinstance(theirs, Kmigrated)
            np.testing.assert_array_equal(ours.records, theirs.records)
            assert many.counters["raced_marks"] > 0 or order


class Timed:
    """A source that keeps what it saw, and may keep the times to itself.

    Args:
        source: who really looks.
        tells: whether it says when.
    """

    def __init__(self, source: HintFaultSource, *, tells: bool) -> None:
        self._source, self._tells = source, tells
        self.seen: list[tuple[int, int]] = []

    def observe(self, now_ns: int, duration_ns: int) -> Observed:
        seen = self._source.observe(now_ns, duration_ns)
        assert seen.at_ns is not None
        self.seen += zip(seen.pfns.tolist(), seen.at_ns.tolist(), strict=True)
        return seen if self._tells else replace(seen, at_ns=None)


@pytest.mark.parametrize("tells", [True, False])
def test_marks_come_when_the_producer_made_them_and_at_drawn_times_where_it_cannot_say(
    tells: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[tuple[int, int]] = []

    def mark_many(
        self: PercpuList, pfns: np.ndarray, nids: np.ndarray, jiffies: np.ndarray, cpus: np.ndarray
    ) -> None:
        made.extend(zip(pfns.tolist(), jiffies.tolist(), strict=True))

    monkeypatch.setattr(PercpuList, "mark_many", mark_many)
    sim = machine()
    source = Timed(HintFaultSource(sim), tells=tells)
    interval_ms = 40
    running = DesignEngine(
        DESIGNS.get("percpu-list"), PercpuList(pages(sim)), sim, source, Policy(interval_ns=interval_ms * MS)
    )
    running.run(5)
    given = [(pfn, at_ns // MS) for pfn, at_ns in source.seen]
    assert len(given) > 1000
    assert [jiffies for _, jiffies in made] == sorted(jiffies for _, jiffies in made)
    assert (sorted(made) == sorted(given)) == tells
    assert [pfn for pfn, _ in sorted(made)] == [pfn for pfn, _ in sorted(given)]
    # Drawn or not, in the tick in which they were seen; no page faults twice here.
    known = dict(given)
    apart_ms = [abs(known[pfn] - jiffies) for pfn, jiffies in made]
    assert max(apart_ms) <= interval_ms
    assert (len(set(apart_ms)) > interval_ms / 2) != tells


def test_a_fault_without_a_target_marks_the_page_with_its_own_node() -> None:
    no_room = HintFaultSpec(1 << 30, 200 * MS, hot_latency_ns=0, promote_bytes_per_s=4096)  # for a second
    report = engine("rfc-fixed", machine(hint_faults=no_room)).run(10)
    assert report.ledger.requested > 1000
    assert set(report.ledger.dropped) == {"already there"}
    assert report.ledger.migrated == 0


def test_huge_pages_bypass_kmigrated_and_not_pghot() -> None:
    for name in ("rfc-v1", "hot-list"):
        posted = engine(name, machine(n_pages=16_384, order=9)).run(20)
        assert posted.ledger.requested == 0
        assert posted.counters["thp_migrated_at_fault"] == 32
        assert posted.counters["pgpromote_success"] == 16_384
        # What moving them took, their producers waited for; nothing else here was marked.
        each_ns = MigrationCostSpec().round_ns + 512 * MigrationCostSpec().page_ns
        assert posted.counters["producer_migrate_ns"] == 32 * each_ns
        assert posted.counters["producer_ns"] == 32 * each_ns
    pghot = engine("section-flag", machine(n_pages=16_384, order=9)).run(20)
    assert pghot.ledger.migrated == 32
    assert pghot.counters["pgpromote_success"] == 16_384
    # Each huge page fills a round by itself.
    assert pghot.counters["migrate_pages_rounds"] == 32


def test_a_promotion_at_the_fault_is_counted_in_memory_tiering_mode_only() -> None:
    # In normal mode do_huge_pmd_numa_page() moves between nodes alike, and none of them is a promotion.
    two_sockets = HintFaultSpec(1 << 30, 200 * MS, hot_latency_ns=0, only_lower_tier=False)
    moving = ProcessSpec("app", 16_384, (0, 1), 40_000.0, ((0, 1.0),), order=9, move_at_ns=1000 * MS)
    sim = SimulatedMachine(tiered(), MachineSpec((moving,), two_sockets))
    report = engine("rfc-v1", sim).run(20)
    n_moved = report.counters["thp_migrated_at_fault"]
    assert n_moved > 0
    assert report.counters["numa_pages_migrated"] == 512 * n_moved
    assert report.counters["pgpromote_success"] == 0
    # migrate_pages() counts these as all others.
    assert report.counters["thp_migration_success"] == n_moved
    assert report.counters["migrate_pages_rounds"] == n_moved


def test_failures_at_the_fault_are_counted_where_migrate_pages_was_called() -> None:
    refused = engine("rfc-v1", machine(n_pages=16_384, order=9, cost=MigrationCostSpec(copy_failure_share=1)))
    counters = refused.run(5).counters
    assert counters["thp_migration_fail"] == counters["thp_at_fault"] > 0
    assert counters["pgmigrate_fail"] == 512 * counters["thp_at_fault"]
    off_lru = MigrationCostSpec(isolation_failure_share=1)
    kept = engine("rfc-v1", machine(n_pages=16_384, order=9, cost=off_lru)).run(5).counters
    assert kept["thp_at_fault"] > 0
    assert kept["pgmigrate_fail"] == kept["thp_migration_fail"] == 0


@pytest.mark.parametrize("name", ["section-flag", "hot-list"])
def test_in_normal_mode_a_counting_design_records_what_passes_the_filter_only(name: str) -> None:
    # Nobody faulted on a page below the top tier before: the first fault is not wanted, the second is.
    for tiering_mode in (True, False):
        hint_faults = HintFaultSpec(1 << 30, 200 * MS, hot_latency_ns=0, only_lower_tier=tiering_mode)
        report = engine(name, machine(hint_faults=hint_faults)).run(10)
        metrics = [tick.metrics for tick in report.ticks]
        n_wanted = sum(one["marks"] for one in metrics)
        n_faults = sum(one["hint_faults"] for one in metrics)
        n_recorded = report.counters["pghot_recorded_hintfaults"]
        assert n_recorded == (n_faults if tiering_mode else n_wanted)
        assert n_wanted > 100
        assert tiering_mode or n_faults > n_wanted + 1000


def test_a_huge_page_that_a_sampler_reports_is_no_fault_and_moves_at_none() -> None:
    report = engine("hot-list", machine(n_pages=16_384, order=9, producer=SamplerSpec(period=5))).run(20)
    assert report.counters["thp_at_fault"] == 0
    assert report.ledger.migrated == 32
    assert report.counters["pghot_recorded_accesses"] > 1000
    assert report.counters["pghot_recorded_hintfaults"] == 0


def test_accesses_far_apart_make_a_page_hot_for_kpromoted_where_they_are_hint_faults_only() -> None:
    # Each page is touched every 8 s, which is longer than the window of 5 s.
    process = ProcessSpec("app", 80, (0,), 10.0, ((2, 1.0),), pattern=PatternSpec(kind="scan"))
    faults = HintFaultSpec(1 << 30, 1000 * MS, hot_latency_ns=0)
    for producer, n_moved in ((None, 80), (SamplerSpec(period=1, useless_share=0.0), 0)):
        sim = SimulatedMachine(tiered(), MachineSpec((process,), faults, producer=producer))
        report = engine("hot-list", sim).run(170)
        assert report.counters["pghot_recorded_accesses"] >= 160
        assert report.ledger.migrated == report.counters["promoted_beyond_window"] == n_moved


def test_a_demoted_page_s_request_is_stale() -> None:
    sim = machine()
    running = engine("rfc-fixed", sim)
    for _ in range(5):
        running.tick()
    pending = running.model.ledger.pending_positions()
    assert len(pending) > 100
    folios = sim.space.folios_at(pending[:10])
    frames = sim.frames.alloc(10, 3)
    old = sim.space.move(folios, frames)
    sim.frames.free(old)
    running.model._freed(old[:1], 1)
    assert running.model.ledger.lost["stale: freed or reallocated"] == 1
    running.model.verify()


def test_pghot_has_nothing_to_do_without_a_lower_tier() -> None:
    flat = Topology(
        "flat",
        (node(0, (0, SECTION_PAGES), cpus=(0,)), node(2, (SECTION_PAGES, 2 * SECTION_PAGES), cpus=(1,))),
        np.array([[10, 20], [20, 10]], dtype=np.uint8),
    )
    hint_faults = HintFaultSpec(1 << 30, 200 * MS, only_lower_tier=False)
    with pytest.raises(InputError, match=r"lower tiers only.*one tier; choose another"):
        engine("section-flag", machine(flat, hint_faults=hint_faults))
    engine("rfc-v1", machine(flat, hint_faults=hint_faults)).run(2)


def test_513_folios_cost_two_rounds() -> None:
    sim = machine()
    seen = pages(sim)
    heads = sim.space.frame_of[:513].astype(int).tolist()
    for head in heads:
        assert seen.page(head).lru
        assert seen.prepare(head, 0) == 0
        assert not seen.page(head).lru
    result = seen.migrate(heads[::-1], 0)
    assert all(result.moved)
    assert dict(result.counts)["migrate_pages_rounds"] == 2
    # In list order, the last one first: it gets the first free page.
    assert sim.space.frame_of[512] < sim.space.frame_of[0]


def test_enomem_ends_the_call_and_what_it_did_not_reach_is_not_counted_as_failed() -> None:
    topology = tiered()
    few = node(0, (SECTION_PAGES, SECTION_PAGES + 300), cpus=(0,))
    sim = machine(replace(topology, nodes=(few, *topology.nodes[1:])), demotion=False)
    seen = pages(sim)
    heads = sim.space.frame_of[:1000].astype(int).tolist()
    for head in heads:  # all see the same free memory
        assert seen.prepare(head, 0) == 0
    result = seen.migrate(heads, 0)
    n_moved = sum(result.moved)
    assert 200 < n_moved < 300
    assert dict(result.counts)["pgmigrate_fail"] == 1
    assert all(seen.page(head).lru for head in heads[n_moved:])
    assert seen.prepare(heads[-1], 0) == -11  # the target is not balanced now


def test_a_failed_copy_is_put_back_and_forgotten() -> None:
    sim = machine(cost=MigrationCostSpec(copy_failure_share=1.0))
    report = engine("rfc-fixed", sim).run(20)
    assert report.ledger.migrated == 0
    assert report.ledger.dropped["consumed before refusal"] > 500
    assert report.counters["pgmigrate_fail"] >= report.ledger.dropped["consumed before refusal"]
    assert report.counters["pgpromote_success"] == 0


def test_pages_of_a_simulated_machine() -> None:
    sim = machine(n_pages=2048, order=9)
    seen = pages(sim)
    head = int(sim.space.frame_of[1])
    assert seen.page(head) == (True, 2, head, 512, True)
    assert seen.page(head + 511) == (True, 2, head, 512, True)
    free = int(sim.frames.free_frames(0)[0])
    assert seen.page(free) == (True, 0, free, 1, False)
    for position in (head, free):
        assert seen.position(seen.pfn(position)) == position
    assert seen.position(0) == -1  # a hole
    (zone,) = seen.zones(2)
    assert seen.n_steps(zone.start_pfn, zone.end_pfn, 2) == SECTION_PAGES - 4 * 511
    assert seen.n_steps(zone.start_pfn, zone.end_pfn, 3) == SECTION_PAGES
    starts = np.array([zone.start_pfn, 0])
    n_steps = [seen.n_steps(start, start + SECTION_PAGES) for start in starts.tolist()]
    assert seen.n_steps_each(starts, starts + SECTION_PAGES).tolist() == n_steps
    assert n_steps[0] == SECTION_PAGES - 4 * 511
    assert seen.ranges(0, 8 * SECTION_PAGES) == [
        (n * SECTION_PAGES, (n + 1) * SECTION_PAGES) for n in range(4)
    ]


def test_a_mark_on_a_page_that_lies_inside_a_huge_page_now_takes_the_whole() -> None:
    sim = machine(n_pages=2048, order=9)
    design = RfcV1(pages(sim))
    head = int(sim.space.frame_of[1])
    design.request(sim.page_map.pfn_of_flat(head + 7).item(), 0)
    design.walk(2)
    assert design.counters["pgpromote_success"] == 512
    assert design.counters["pfns_examined"] == SECTION_PAGES


@pytest.fixture(name="small")
def small_toml(tmp_path: Path) -> str:
    path = tmp_path / "small.toml"
    path.write_text(SMALL, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", DESIGNS.models)
def test_gpuscan_run_takes_a_design(small: str, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", small, "--design", name, "--json", "--quiet"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["design"] == name
    assert document["device"]["name"] == "model"
    assert document["counters"]["pgpromote_success"] == document["ledger"]["migrated"] > 1000
    assert document["summary"]["fast"]["after"] > 0.7
    assert main(["run", small, "--design", name, "--quiet"]) == 0
    shown = capsys.readouterr().out
    assert f"none, {name} is a model" in shown
    assert "pgpromote_success" in shown


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["--design", "rfc-v2"],
            "unknown design 'rfc-v2' (did you mean 'rfc-v1'?); choose gpuscan, hot-list",
        ),
        (["--design", "rfc-v1", "--device", "cpu"], "a model that runs on no device; leave out --device"),
        (["--design", "rfc-v1", "--trace", str(TRACE)], "not by a trace"),
    ],
)
def test_wrong_designs_are_refused(
    small: str, arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", small, *arguments]) == 2
    error = capsys.readouterr().err
    assert complaint in error
    assert "building" not in error


def test_out_says_that_a_design_makes_no_plans(
    small: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "kept"
    assert main(["run", small, "--design", "rfc-v1", "--ticks", "3", "--out", str(out)]) == 0
    assert "makes no plans" in capsys.readouterr().out
    assert json.loads((out / "ledger.json").read_text())["requested"] > 0
