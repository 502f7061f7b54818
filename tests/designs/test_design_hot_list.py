"""kpromoted: what its heap takes, forgets, blocks and frees twice, and what its locks cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.designs.built_in.hot_list import ENTRY_BYTES, HotList, HotListTunables
from gpuscan.designs.engine import DesignEngine, design_engine
from gpuscan.designs.locks import LockUse
from gpuscan.designs.machine import ArrayMachine, BatchCall, ZoneSpan
from gpuscan.engine.policy import Policy
from gpuscan.engine.stages import FolioEvents
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, KernelCostSpec, MachineSpec, ProcessSpec
from machines import tiered
from transcripts.kpromoted import PlainHotList

MS = 1_000_000
EAGAIN = -11


def lower(n: int = 8, first_pfn: int = 0, **arrays: Any) -> ArrayMachine:
    """Return a machine with ``n`` pages on node 2, below the top tier of nodes 0 and 1, both with room."""
    zones = [ZoneSpan(0, 0, 0), ZoneSpan(1, 0, 0), ZoneSpan(2, first_pfn, first_pfn + n)]
    arrays = {"top_tier": (0, 1), "free_enough": (0, 1), **arrays}
    return ArrayMachine(np.full(n, 2), zones, first_pfn=first_pfn, **arrays)


def kpromoted(machine: ArrayMachine | None = None, **tunables: Any) -> HotList:
    return HotList(machine or lower(), HotListTunables(**{"heap_entries": 100, **tunables}))


def access(design: HotList, pfn: int, nid: int = 0, times: int = 2, now: int = 10) -> None:
    for _ in range(times):
        assert design.record_access(pfn, nid, now) == 0


def test_two_accesses_make_a_page_hot_and_its_target_s_thread_takes_it() -> None:
    design = kpromoted()
    access(design, 3, nid=1, times=1)
    design.walk(1, now_jiffies=10)
    assert design.calls == []
    assert design.listed() == [3]
    access(design, 3, nid=1, times=1)
    design.walk(0, now_jiffies=10)
    assert design.calls == []
    design.walk(1, now_jiffies=10)
    assert design.calls == [BatchCall((3,), 1)]
    assert design.listed() == []
    assert design.ledger.migrated == 1
    assert design.counters["pghot_records_hash"] == design.counters["pghot_records_heap"] == 1
    design.verify()


def test_the_hottest_go_first_and_equals_as_the_kernel_s_heap_has_them() -> None:
    design = kpromoted(migrate_batch=2)
    for pfn in range(4):
        access(design, pfn, times=3 if pfn == 1 else 2)
    design.walk(0)
    design.walk(0)
    # By hand: 1 0 2, then 3 passes its equal 0: 1 3 2 0. Without 1, 0 sinks past 2: 2 3 0; without 2 past 3.
    # Batches are stacks: the first that is taken out is the last of the list.
    assert [call.pfns for call in design.calls] == [(2, 1), (0, 3)]


def test_a_batch_is_bounded_and_the_rest_waits() -> None:
    design = HotList(lower(3000), HotListTunables(heap_entries=3000))
    for pfn in range(2000):
        access(design, pfn)
    design.walk(0)
    assert len(design.calls[0].pfns) == 1024
    assert design.ledger.pending == 976
    design.verify()
    design.walk(0)
    assert design.ledger.pending == 0


def test_the_eighth_access_wraps_the_frequency_and_the_page_is_forgotten() -> None:
    design = kpromoted()
    access(design, 3, times=7)
    assert design.heap(0)[0].frequency == 7
    access(design, 3, times=1)
    assert design.heap(0) == []
    assert design.ledger.lost["frequency wrapped around"] == 1
    design.walk(0)
    assert design.calls == []
    design.verify()


def test_a_full_heap_drops_what_comes() -> None:
    design = kpromoted(heap_entries=2)
    for pfn in range(3):
        access(design, pfn)
    assert design.ledger.lost["heap full"] == 1
    design.walk(0)
    assert design.ledger.migrated == 2
    access(design, 2, times=1)  # the next access brings it in
    design.walk(0)
    assert design.ledger.migrated == 3
    design.verify()


def test_the_heap_holds_an_eighth_of_the_lower_tier() -> None:
    machine = lower(80_000)
    design = HotList(machine)
    assert design.heap_entries == 10_000
    assert design._hash_order == 5  # 39 lists wanted, 32 used


def test_a_page_accessed_from_two_nodes_is_in_two_heaps_and_freed_twice() -> None:
    design = kpromoted()
    access(design, 3, nid=0)
    access(design, 3, nid=1)
    assert design.ledger.lost["counted anew for another node"] == 1
    assert [len(design.heap(nid)) for nid in (0, 1)] == [1, 1]
    design.walk(0)  # the thread of the older target gets it, checks the newer one, and moves it home
    assert design.calls == [BatchCall((3,), 0)]
    assert design.ledger.elsewhere == 1
    design.walk(1)
    assert design.counters["use_after_free"] == 1
    assert len(design.calls) == 1
    design.verify()


def test_hot_from_a_node_without_a_heap_an_entry_forgets_its_place_and_is_put_in_twice() -> None:
    design = kpromoted()
    access(design, 3, times=3)
    access(design, 4, times=2)
    assert design.heap(0)[1].pfn == 4
    # phi_heap_insert() writes place 0 before min_heap_push() finds that there is no heap.
    access(design, 4, nid=5, times=2)
    assert design.ledger.lost["no heap for the target"] == 1
    assert design.heap(0)[1].heap_idx == 0
    # So what comes home does not find itself in the heap, and another copy of it goes in.
    access(design, 4, nid=0, times=2)
    assert [entry.pfn for entry in design.heap(0)] == [3, 4, 4]
    assert design.counters["pghot_records_heap"] == 4
    design.walk(0)
    assert design.calls == [BatchCall((4, 3), 0)]
    assert design.counters["use_after_free"] == 1
    design.verify()


def test_it_starts_wherever_there_is_memory_below_the_top_tier() -> None:
    without_cpus = kpromoted(lower(cpus_on=(2,)))
    access(without_cpus, 3)
    assert without_cpus.counters["pghot_records_hash"] == 1
    assert without_cpus.ledger.lost["no heap for the target"] == 1
    assert not any(without_cpus.has_thread(nid) for nid in (0, 1, 2))
    flat = kpromoted(lower(top_tier=(0, 1, 2)))
    assert flat.record_access(3, 0, 10) == -22


def test_an_entry_that_cooled_on_top_of_the_heap_blocks_what_is_behind_it() -> None:
    design = kpromoted()
    access(design, 3, times=3)
    access(design, 4, times=2)
    access(design, 3, nid=1, times=1)  # begins anew, and stays where it was
    design.walk(0)
    assert design.calls == []
    assert design.ledger.pending == 1
    design.finish()
    assert design.ledger.lost["behind a cool head of the heap"] == 1
    design.verify()
    design = kpromoted()
    access(design, 3, times=3)
    access(design, 4, times=2)
    access(design, 3, nid=1, times=1)
    access(design, 5, times=2)  # rises past it, and uncovers nothing but itself
    design.walk(0)
    assert design.calls[0].pfns[-1] == 5


def test_hint_faults_however_far_apart_make_a_page_hot_and_other_sources_do_not() -> None:
    design = kpromoted()
    design.record_access(3, 0, 1000)
    design.record_access(3, 0, 100_000)
    design.walk(0, now_jiffies=100_000)
    assert design.ledger.migrated == 1
    assert design.counters["promoted_beyond_window"] == 1
    other = kpromoted()
    other.record_access(3, 0, 1000, hint_fault=False)
    other.record_access(3, 0, 100_000, hint_fault=False)
    other.walk(0, now_jiffies=100_000)
    assert other.calls == []
    other.record_access(3, 0, 100_001, hint_fault=False)
    other.record_access(3, 0, 200_000, hint_fault=False)
    assert other.ledger.lost["a new window before it was found"] == 1
    other.verify()


def test_the_threshold_compares_jiffies_with_milliseconds_and_a_wrapped_time_looks_old_or_fresh() -> None:
    tight: dict[str, Any] = {"free_enough": ()}
    for age, moves in ((4999, True), (5000, False), (1 << 19, True), ((1 << 19) - 1, False)):
        design = kpromoted(lower(**tight))
        access(design, 3, now=100)
        design.walk(0, now_jiffies=100 + age)
        assert (len(design.calls) == 1) == moves, age
        assert design.counters["false_promotions"] == (age == 1 << 19)
        assert design.ledger.lost["consumed before the rate limit"] == (not moves)
    slow = kpromoted(lower(**tight), hz=250)  # 4999 jiffies are 20 s there
    access(slow, 3, now=100)
    slow.walk(0, now_jiffies=100 + 4999)
    assert len(slow.calls) == 1


def test_the_rate_limit_counts_candidates_and_forgets_them() -> None:
    design = HotList(lower(600, free_enough=()), HotListTunables(rate_limit_mbps=1, heap_entries=600))
    for pfn in range(600):
        access(design, pfn, now=2000)
    design.walk(0, now_jiffies=2001)
    assert len(design.calls[0].pfns) == 256  # of the second, which the first one begins
    assert design.counters["pgpromote_candidate"] == 600
    assert design.counters["kpromoted_dropped"] == 344
    assert design.ledger.lost["consumed before the rate limit"] == 344
    assert design.ledger.pending == 0


def test_what_is_refused_or_off_the_lru_is_forgotten() -> None:
    machine = lower(prepare=[0, EAGAIN, 0, 0, 0, 0, 0, 0])
    design = kpromoted(machine)
    for pfn in (1, 2, 3):
        access(design, pfn)
    assert machine.prepare(2, 0) == 0  # somebody isolates it for a moment
    design.walk(0)
    assert design.calls == [BatchCall((3,), 0)]
    assert design.counters["kpromoted_non_lru"] == 1
    assert design.counters["prepare_refused"] == 1
    assert design.ledger.lost["consumed before refusal"] == 2
    assert design.listed() == []


def test_an_entry_outlives_its_folio_and_moves_the_next_owner() -> None:
    design = kpromoted()
    access(design, 3)
    design.apply([FolioEvents(np.array([3]), np.empty(0, np.int64))])
    assert design.ledger.lost["stale: freed or reallocated"] == 1
    design.walk(0)
    assert design.calls == [BatchCall((3,), 0)]
    assert design.ledger.stale_claims == 1
    assert design.ledger.migrated == 0
    design.verify()


def test_only_lower_tier_pages_on_the_lru_are_listed_and_only_where_there_is_a_lower_tier() -> None:
    nid, online, lru = np.full(8, 2), np.ones(8, bool), np.ones(8, bool)
    nid[3], online[1], lru[2] = 1, False, False
    zones = [ZoneSpan(0, 0, 0), ZoneSpan(1, 3, 4), ZoneSpan(2, 0, 6), ZoneSpan(2, 6, 8, device=True)]
    design = kpromoted(ArrayMachine(nid, zones, online=online, lru=lru, top_tier=(0, 1)))
    for pfn in (1, 2, 3, 7, 99):
        access(design, pfn)
    assert design.listed() == []
    assert design.counters["pghot_recorded_accesses"] == 10  # counted before it is looked at
    assert design.record_access(4, 1024, 10) == -22
    assert design.mark(4, -1) == 0  # do_numa_page() wants no move
    assert design.listed() == []
    flat = HotList(ArrayMachine(np.zeros(4), [ZoneSpan(0, 0, 4)], top_tier=(0,)))
    assert flat.record_access(0, 0, 10) == -22
    assert not flat.has_thread(0)


def test_a_target_without_cpus_has_no_heap_and_no_thread() -> None:
    design = kpromoted(lower(cpus_on=(0,)))
    access(design, 3, nid=1)
    assert not design.has_thread(1)
    assert design.ledger.lost["no heap for the target"] == 1
    access(design, 4, nid=0)
    access(design, 4, nid=1, times=1)
    assert design.ledger.lost["counted anew for another node"] == 1
    assert design.ledger.pending == 0
    design.verify()


def test_no_target_means_node_0() -> None:
    design = kpromoted()
    access(design, 3, nid=-1)
    design.walk(0)
    assert design.calls == [BatchCall((3,), 0)]


def test_a_list_is_searched_from_the_newest_entry_on() -> None:
    design = kpromoted()  # 4 entries wanted: one list
    for pfn in range(4):
        access(design, pfn, times=1)
    assert design.counters["hash_entries_examined"] == 0 + 1 + 2 + 3
    access(design, 0, times=1)
    assert design.counters["hash_entries_examined"] == 6 + 4
    access(design, 3, times=1)
    assert design.counters["hash_entries_examined"] == 10 + 1


def test_a_lock_s_wait_is_that_of_an_m_g_1_queue_until_it_is_always_held() -> None:
    cost = KernelCostSpec(cold_line_ns=100.0, atomic_ns=0.0)
    always_one = LockUse()
    for _ in range(500):
        always_one.hold(1)
    # Half busy with holds that are all alike: rho / (2 (1 - rho)) holds.
    assert always_one.wait_ns(100_000, cost, n_cpus=64) == pytest.approx(50.0)
    assert always_one.wait_ns(100_000, cost, n_cpus=64, n_locks=500) == pytest.approx(0.05, rel=0.01)
    assert always_one.wait_ns(100_000, cost, n_cpus=1) == 0.0
    assert always_one.wait_ns(50_000, cost, n_cpus=64) == 6300.0  # everybody else
    uneven = LockUse()
    for n_lines in [1, 3] * 125:
        uneven.hold(n_lines)
    assert uneven.wait_ns(100_000, cost, n_cpus=64) == pytest.approx(0.5 / (2 * 0.5) * 200 * 1.25)
    assert LockUse().wait_ns(100_000, cost, n_cpus=64) == 0.0


def test_producers_are_charged_for_lists_heaps_and_waiting() -> None:
    cost = KernelCostSpec(cold_line_ns=100.0, atomic_ns=0.0)
    design = kpromoted()
    access(design, 3, times=1)
    assert design.producer_ns(cost) == 100.0  # its own entry
    access(design, 4, times=1)
    assert design.producer_ns(cost) == 300.0  # another one in the same list
    access(design, 4, times=1)
    assert design.producer_ns(cost) == 400.0  # the first of the list, and an empty heap
    waits = [design.producer_wait_ns(1000, cost, n_cpus) for n_cpus in (8, 8)]
    assert waits[0] > 0
    assert waits[1] == 0  # counted once
    access(design, 5, times=1)  # two entries of the list, and its own
    alone = LockUse()
    alone.hold(3)
    assert design.producer_wait_ns(1000, cost, 8) == alone.wait_ns(1000, cost, 8) > 0


def engine(n_pages: int = 4096, *, tick_ms: int = 100, **changes: Any) -> DesignEngine:
    process = ProcessSpec("app", n_pages, (0,), 400_000.0, ((2, 1.0),))
    hint_faults = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=100 * MS, hot_latency_ns=0)
    sim = SimulatedMachine(tiered(), MachineSpec((process,), hint_faults, **changes))
    return design_engine("hot-list", sim, Policy(interval_ns=tick_ms * MS))


def test_a_target_s_thread_has_several_turns_in_a_tick() -> None:
    report = engine(30_000).run(4)
    busiest = max(report.ticks, key=lambda tick: tick.migrated)
    # 20 ms of sleep and the turn itself, each of 1,024 entries at most.
    assert 2 * 1024 < busiest.migrated <= 5 * 1024
    assert busiest.n_batches >= 3
    assert report.counters["batch_folios"] == report.ledger.migrated
    # Node 1's thread finds its heap empty 20 times; those of node 0 take longer than the 20 ms.
    assert 20 + 8 < report.counters["turns"] < 20 + 20
    assert busiest.examined_bytes >= busiest.migrated * ENTRY_BYTES
    assert report.counters["producer_marks"] >= report.counters["pghot_records_hash"] > 5_000
    assert report.counters["producer_ns"] > 160 * report.counters["producer_marks"]


def test_more_marks_a_second_wait_longer_for_the_lock() -> None:
    slow, fast = (engine(kernel=KernelCostSpec(cold_line_ns=ns)).run(3).counters for ns in (100.0, 10_000.0))
    each = [counters["producer_wait_ns"] / counters["producer_marks"] for counters in (slow, fast)]
    assert each[1] > 1000 * each[0] > 0


_TARGETS = st.sampled_from((-1, 0, 0, 0, 1))
_EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("access"), st.integers(0, 15), _TARGETS, st.integers(1, 9)),
        st.tuples(st.just("walk"), st.sampled_from((0, 1)), st.just(0), st.just(0)),
        st.tuples(st.just("free"), st.integers(0, 15), st.just(0), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=200, deadline=None)
@given(events=_EVENTS, heap_entries=st.integers(0, 6), batch=st.integers(1, 4), hint_fault=st.booleans())
def test_no_request_is_lost_without_a_reason(
    events: list[tuple[str, int, int, int]], heap_entries: int, batch: int, hint_fault: bool
) -> None:
    machine = lower(16, prepare=[0, 0, EAGAIN, 0] * 4)
    design = kpromoted(machine, heap_entries=heap_entries, migrate_batch=batch)
    now = 100
    for what, at, nid, times in events:
        now += 2001
        match what:
            case "access":
                for _ in range(times):
                    design.record_access(at, nid, now, hint_fault=hint_fault)
            case "walk":
                design.walk(at, now_jiffies=now)
            case "free":
                design.apply([FolioEvents(np.array([at]), np.empty(0, np.int64))])
        design.verify()
        for heap in map(design.heap, (0, 1)):
            where = [entry.heap_idx for at, entry in enumerate(heap) if entry.heap_idx == at]
            assert where == sorted(where)
    design.finish()
    design.verify()
    assert design.ledger.in_flight == 0


@settings(max_examples=120, deadline=None)
@given(events=_EVENTS, heap_entries=st.integers(0, 6), batch=st.integers(1, 4), hint_fault=st.booleans())
def test_the_compiled_lists_and_heaps_do_what_the_plain_ones_do(
    events: list[tuple[str, int, int, int]], heap_entries: int, batch: int, hint_fault: bool
) -> None:
    tunables = HotListTunables(heap_entries=heap_entries, migrate_batch=batch, freq_window_ms=5000)
    models = [kind(lower(16, prepare=[0, 0, EAGAIN, 0] * 4), tunables) for kind in (HotList, PlainHotList)]
    for model in models:
        now = 100
        for what, at, nid, times in events:
            now += 2001
            match what:
                case "access":
                    for _ in range(times):
                        model.record_access(at, nid, now, hint_fault=hint_fault)
                case "walk":
                    model.walk(at, now_jiffies=now)
                case "free":
                    model.apply([FolioEvents(np.array([at]), np.empty(0, np.int64))])
    compiled, plain = models
    assert isinstance(compiled, HotList)
    assert isinstance(plain, PlainHotList)
    assert compiled.listed() == sorted(plain.entries)
    for nid, heap in plain.heaps.items():
        found = [(entry.pfn, entry.frequency, entry.heap_idx) for entry in compiled.heap(nid)]
        assert found == [(entry.pfn, entry.frequency, entry.heap_idx) for entry in heap.data]
    cost = KernelCostSpec(cold_line_ns=100.0, atomic_ns=20.0)
    assert compiled.producer_wait_ns(10_000, cost, 8) == plain.producer_wait_ns(10_000, cost, 8)
    for model in models:
        model.finish()
    assert compiled.calls == plain.calls
    assert +compiled.counters == +plain.counters
    assert compiled.ledger.as_dict() == plain.ledger.as_dict()
