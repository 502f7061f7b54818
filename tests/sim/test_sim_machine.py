"""The simulated machine as a whole: time, accesses, hint faults, kswapd, and no frame ever lost."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numba import njit

from conservation import assert_conserved
from gpuscan.base.errors import InputError, TopologyError
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.producers.built_in.hint_faults import HintFaultSource
from gpuscan.sim import loops
from gpuscan.sim.frames import index_dtype
from gpuscan.sim.loops import PROT_NONE, REFERENCED
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, MigrationCostSpec, PatternSpec, ProcessSpec
from gpuscan.topology.model import Link, Node, Topology
from machines import node, tiered

MS = 1_000_000
TICK = 100 * MS
NO_SCAN = HintFaultSpec(scan_period_ns=0)


def process(n_pages: int = 20_000, **changes: Any) -> ProcessSpec:
    spec = ProcessSpec("app", n_pages, (0,), 1e6, ((0, 0.5), (2, 0.5)))
    return replace(spec, **changes)


def machine(*processes: ProcessSpec, topology: Topology | None = None, **changes: Any) -> SimulatedMachine:
    return SimulatedMachine(topology or tiered(), replace(MachineSpec(processes or (process(),)), **changes))


def test_places_pages_in_address_order() -> None:
    sim = machine(process(placement=((2, 0.25), (0, 0.75))))
    nids = sim.page_map.nid_of_flat(sim.space.frame_of.astype(np.int64))
    assert (nids[:5000] == 2).all()
    assert (nids[5000:] == 0).all()
    assert_conserved(sim)


def test_a_full_node_spills_to_the_next_nearest() -> None:
    sim = machine(process(50_000, placement=((0, 1.0),)))
    nids, counts = np.unique(
        sim.page_map.nid_of_flat(sim.space.frame_of.astype(np.int64)), return_counts=True
    )
    assert dict(zip(nids.tolist(), counts.tolist(), strict=True)) == {0: 32_768 - 80, 1: 50_000 - 32_768 + 80}


def test_the_last_pages_come_from_below_the_low_watermark() -> None:
    sim = machine(process(4 * (32_768 - 64)))
    assert [sim.frames.free_pages(nid) for nid in range(4)] == [64] * 4


@pytest.mark.parametrize(
    ("wrong", "error", "says"),
    [
        (process(4 * 32_768), InputError, "does not fit machine 'tiered-test': 1 MiB of its 512 MiB"),
        (process(cpu_nids=(2,)), InputError, "node 2, which has no CPUs"),
        (process(cpu_nids=()), InputError, "name at least one node"),
        (process(cpu_nids=(7,)), TopologyError, "no node 7"),
        (process(placement=((9, 1.0),)), TopologyError, "no node 9"),
        (process(placement=()), InputError, "placed on no node"),
        (process(511, order=9), InputError, "less than one folio of order 9"),
    ],
)
def test_refuses_processes_that_make_no_sense(wrong: ProcessSpec, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        machine(wrong)


def test_counts_accesses_by_who_serves_them() -> None:
    topology = tiered()
    links = {(0, 0): Link(100.0, 1e9), (0, 2): Link(300.0, 1e9)}
    pattern = PatternSpec(kind="scan")
    sim = machine(process(pattern=pattern), topology=replace(topology, links=links), hint_faults=NO_SCAN)
    metrics = sim.run(0, 20 * MS).metrics  # 20,000 accesses at a million a second: every page once
    assert metrics["accesses"] == 20_000
    assert metrics["accesses_fast"] == metrics["accesses_local"] == 10_000
    assert metrics["mean_latency_ns"] == 200.0
    assert (sim.space.flags[sim.space.frame_of] == REFERENCED).all()
    other = machine(process(pattern=pattern, cpu_nids=(1,)), topology=replace(topology, links=links))
    metrics = other.run(0, 20 * MS).metrics
    assert (metrics["accesses_fast"], metrics["accesses_local"]) == (10_000, 0)
    assert "mean_latency_ns" not in metrics  # no link from node 1


def test_a_cpu_without_memory_has_the_nearest_top_tier_node_as_its_own() -> None:
    topology = tiered()
    no_memory = replace(topology, nodes=(node(0, cpus=(0,)), *topology.nodes[1:]))
    placed = process(placement=((1, 0.25), (2, 0.75)), pattern=PatternSpec(kind="scan"))
    sim = machine(placed, topology=no_memory, hint_faults=NO_SCAN)
    assert sim.home_nid(0) == 1
    assert sim.run(0, 20 * MS).metrics["accesses_local"] == 5000


def test_fast_means_local_where_all_memory_is_top_tier() -> None:
    flat = Topology("flat", tiered().nodes[:2], np.array([[10, 20], [20, 10]], dtype=np.uint8))
    moved = process(placement=((0, 1.0),), cpu_nids=(0, 1), move_at_ns=TICK)
    sim = machine(moved, topology=flat, hint_faults=NO_SCAN)
    assert sim.fast_means == "local"
    assert sim.run(0, TICK).metrics["accesses_fast"] == 100_000
    assert sim.run(TICK, TICK).metrics["accesses_fast"] == 0


def test_tasks_move_and_rotate_in_the_middle_of_a_tick() -> None:
    flat = Topology("flat", tiered().nodes[:2], np.array([[10, 20], [20, 10]], dtype=np.uint8))
    for change in ({"move_at_ns": TICK // 4}, {"rotate_every_ns": TICK // 4}):
        sim = machine(
            process(placement=((0, 1.0),), cpu_nids=(0, 1), **change), topology=flat, hint_faults=NO_SCAN
        )
        local = sim.run(0, TICK).metrics["accesses_fast"]
        assert local == (25_000 if "move_at_ns" in change else 50_000)


def test_accesses_do_not_depend_on_the_ticks() -> None:
    busy = process(accesses_per_s=333_333.0, pattern=PatternSpec(shift_every_ns=30 * MS))
    whole, parts = (machine(busy, hint_faults=NO_SCAN) for _ in range(2))
    total = whole.run(0, TICK).metrics["accesses_fast"]
    assert (
        total
        == sum(parts.run(start, 7 * MS).metrics["accesses_fast"] for start in range(0, 98 * MS, 7 * MS))
        + (parts.run(98 * MS, 2 * MS).metrics["accesses_fast"])
    )
    assert np.array_equal(whole.space.flags, parts.space.flags)


def test_scanner_unmaps_lower_tier_pages_and_skips_the_rest_faster() -> None:
    # A window is 1,024 pages. Of the 10,000 pages on node 0, eight windows are passed over, then
    # one more; the tenth has 240 pages that count, and counts whole.
    faults = HintFaultSpec(scan_bytes=4 << 20, scan_period_ns=TICK)
    sim = machine(process(accesses_per_s=1.0), hint_faults=faults)
    unmapped = [sim.run(k * TICK, TICK).metrics["unmapped_folios"] for k in range(3)]
    assert unmapped == [0, 240, 1024]
    gone = np.flatnonzero(sim.space.flags[sim.space.frame_of] & PROT_NONE)
    assert gone[0] == 10_000


def test_processes_are_scanned_in_turn() -> None:
    faults = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=2 * TICK, only_lower_tier=False)
    one = process(1000, accesses_per_s=1.0)
    sim = machine(one, replace(one, n_pages=3000), hint_faults=faults)
    assert [sim.run(k * TICK, TICK).metrics["unmapped_folios"] for k in range(2)] == [1000, 3000]


def test_scanner_visits_all_pages_once_a_window_and_wraps() -> None:
    faults = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=TICK, only_lower_tier=False)
    sim = machine(process(accesses_per_s=1.0), hint_faults=faults)
    assert sim.run(0, TICK).metrics["unmapped_folios"] == 20_000
    assert sim.run(TICK, TICK).metrics["unmapped_folios"] == 0


def test_fault_latency_is_from_the_first_unmapping() -> None:
    faults = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=TICK, only_lower_tier=False)
    scan = process(100, accesses_per_s=100.0, pattern=PatternSpec(kind="scan"))
    sim = machine(scan, hint_faults=faults)
    elapsed = sim.run(0, 500 * MS)
    # Access k comes at 10 (k + 1) ms; no page is touched twice before 1 s.
    assert elapsed.faults.folios.tolist() == list(range(50))
    assert elapsed.faults.latency_ms.tolist() == [10 * (k + 1) for k in range(50)]
    assert elapsed.faults.cpu_nids.tolist() == [0] * 50
    assert np.array_equal(elapsed.faults.frames, sim.space.frame_of[:50])


def test_kswapd_demotes_cold_pages_until_balanced_and_spares_referenced_ones() -> None:
    # Node 0 is filled down to its low watermark (80); all but the first 200 pages are cold.
    full = process(
        32_768 - 80, placement=((0, 1.0),), accesses_per_s=200 / 0.1, pattern=PatternSpec(kind="scan")
    )
    sim = machine(full, hint_faults=replace(NO_SCAN, only_lower_tier=True))
    sim.run(0, TICK)
    before = sim.space.frame_of.copy()
    sim.wake_kswapd(0)
    elapsed = sim.run(TICK, 1 * MS)
    assert elapsed.metrics["demoted_pages"] == 33  # promo is 112: more than that must be free
    assert sim.frames.free_pages(0) == 113
    moved = np.flatnonzero(before != sim.space.frame_of)
    assert moved.tolist() == list(range(200, 233))
    assert (sim.page_map.nid_of_flat(sim.space.frame_of[moved].astype(np.int64)) == 2).all()
    assert np.array_equal(np.concatenate([e.freed for e in elapsed.events]), before[moved])
    assert np.array_equal(np.concatenate([e.allocated for e in elapsed.events]), sim.space.frame_of[moved])
    assert not sim.space.flags[before[:33]].any()  # one chance used up
    assert sim.run(2 * TICK, TICK).metrics["demoted_pages"] == 0
    assert_conserved(sim)


def test_kswapd_is_bounded_by_what_migration_costs() -> None:
    full = process(32_768 - 80, placement=((0, 1.0),), accesses_per_s=1.0)
    cost = MigrationCostSpec(round_ns=32_000.0, page_ns=99_000.0)  # 0.1 ms a page with 32 a round
    sim = machine(full, hint_faults=NO_SCAN, cost=cost)
    sim.wake_kswapd(0)
    assert sim.run(0, 1 * MS).metrics["demoted_pages"] == 11
    assert sim.run(1 * MS, 100 * MS).metrics["demoted_pages"] == 22  # awake until balanced


def test_kswapd_without_a_lower_tier_or_without_demotion() -> None:
    flat = Topology("flat", tiered().nodes[:2], np.array([[10, 20], [20, 10]], dtype=np.uint8))
    full = process(32_768 - 80, placement=((0, 1.0),), accesses_per_s=1.0)
    sim = machine(full, topology=flat, hint_faults=NO_SCAN)
    sim.wake_kswapd(0)
    assert sim.run(0, TICK).metrics["kswapd_no_lower_tier"] == 1
    assert sim.run(TICK, TICK).metrics["kswapd_no_lower_tier"] == 0
    off = machine(full, hint_faults=NO_SCAN, demotion=False)
    off.wake_kswapd(0)
    assert off.run(0, TICK).metrics["demoted_pages"] == 0


def test_kswapd_goes_on_to_other_lower_nodes_and_wakes_the_one_it_fills() -> None:
    topology = tiered()
    nodes = (*topology.nodes[:2], node(2, (163_840, 163_840 + 128), tier=1), topology.nodes[3])
    full = process(32_768 - 80, placement=((0, 1.0),), accesses_per_s=1.0)
    hog = replace(full, n_pages=48, placement=((2, 1.0),))  # leaves 80 pages free, the low mark
    sim = machine(full, hog, topology=replace(topology, nodes=nodes), hint_faults=NO_SCAN)
    sim.wake_kswapd(0)
    elapsed = sim.run(0, TICK)
    went_to = np.concatenate([sim.page_map.nid_of_flat(event.allocated) for event in elapsed.events])
    assert went_to.tolist() == [2] * 16 + [3] * 17  # down to the min mark of 64, then the next
    assert sim.run(TICK, TICK).metrics["kswapd_no_lower_tier"] == 1
    assert_conserved(sim)


def test_kswapd_prefers_the_next_tier_to_a_nearer_node_below_it() -> None:
    topology = tiered()
    nodes = (*topology.nodes[:2], replace(topology.nodes[2], tier=2), topology.nodes[3])
    full = process(32_768 - 80, placement=((0, 1.0),), accesses_per_s=1.0)
    sim = machine(full, topology=replace(topology, nodes=nodes), hint_faults=NO_SCAN)
    sim.wake_kswapd(0)
    (event,) = sim.run(0, TICK).events
    assert set(sim.page_map.nid_of_flat(event.allocated).tolist()) == {3}  # at 40; node 2 is at 30


def test_kswapd_counts_when_no_lower_node_has_room() -> None:
    full = process(4 * (32_768 - 64), accesses_per_s=1.0)
    sim = machine(full, hint_faults=NO_SCAN)
    sim.wake_kswapd(0)
    for now_ns in (0, TICK):  # it goes on trying, and node 1, which is below its low mark, too
        metrics = sim.run(now_ns, TICK).metrics
        assert (metrics["demoted_pages"], metrics["kswapd_demotion_failed"]) == (0, 2)


def test_a_node_below_its_low_watermarks_wakes_its_kswapd() -> None:
    full = process(32_768 - 80, placement=((0, 1.0),), accesses_per_s=1.0)
    for demotion, demoted in ((True, 34), (False, 0)):
        sim = machine(full, hint_faults=NO_SCAN, demotion=demotion)
        assert sim.run(0, TICK).metrics["demoted_pages"] == 0  # 80 pages are free: at the mark, not below
        assert len(sim.frames.alloc(1, 0, marks=("min",))) == 1
        assert sim.run(TICK, TICK).metrics["demoted_pages"] == demoted


def roomy(nid: int, n_free: int) -> Node:
    """Return a node of :func:`tiered` whose kswapd works until ``n_free`` pages are free."""
    found = tiered().nodes[nid]
    marks = replace(found.zones[0].watermarks, promo=n_free - 1)
    return replace(found, zones=(replace(found.zones[0], watermarks=marks),))


def test_kswapd_draws_among_equally_near_nodes_for_every_cluster() -> None:
    topology = tiered()
    distance = topology.distance.copy()
    distance[0, 3] = distance[0, 2]
    near = replace(topology, nodes=(roomy(0, 80 + 320), *topology.nodes[1:]), distance=distance)
    full = process(32_768 - 80, placement=((0, 1.0),), accesses_per_s=1.0)

    def went_to(seed: int) -> list[list[int]]:
        sim = machine(full, topology=near, hint_faults=replace(NO_SCAN, only_lower_tier=True), seed=seed)
        sim.wake_kswapd(0)
        return [sim.page_map.nid_of_flat(event.allocated).tolist() for event in sim.run(0, TICK).events]

    clusters = went_to(1)
    assert [len(nids) for nids in clusters] == [32] * 10
    assert all(len(set(nids)) == 1 for nids in clusters)
    assert {nids[0] for nids in clusters} == {2, 3}
    assert clusters == went_to(1) != went_to(2)


def test_kswapd_goes_on_along_the_zonelist_of_its_target() -> None:
    topology = tiered()
    nodes = (
        topology.nodes[0],
        *(
            node(nid, ((2 * nid + 1) * 32_768, (2 * nid + 1) * 32_768 + size), tier=1)
            for nid, size in ((2, 128), (3, 32_768), (4, 32_768))
        ),
    )
    near_to_0 = [10, 20, 30, 40]
    distance = np.array([near_to_0, [20, 10, 40, 15], [30, 40, 10, 50], [40, 15, 50, 10]], dtype=np.uint8)
    full = process(32_768 - 80, placement=((0, 1.0),), accesses_per_s=1.0)
    hog = replace(full, n_pages=64, placement=((2, 1.0),))
    sim = machine(full, hog, topology=Topology("chain", nodes, distance), hint_faults=NO_SCAN)
    sim.wake_kswapd(0)
    went_to = {int(sim.page_map.nid_of_flat(event.allocated)[0]) for event in sim.run(0, TICK).events}
    assert went_to == {2, 4}  # node 4 is next to node 2, which fills up; node 3 is nearer to node 0


def test_huge_pages_stay_whole() -> None:
    sim = machine(
        process(40 * 512 + 100, order=9, accesses_per_s=1e5), hint_faults=HintFaultSpec(scan_period_ns=TICK)
    )
    assert sim.has_large_folios
    assert sim.space.n_folios == 40
    assert_conserved(sim)
    source, migrator = HintFaultSource(sim), SimulatedMigrator(sim)
    moved = 0
    for k in range(5):
        for produced in source.sample(k * TICK, TICK).produced:
            result = migrator.migrate(
                0, np.unique(produced.pfns), np.full(len(np.unique(produced.pfns)), 512)
            )
            moved += sum(len(e.allocated) for e in result.events)
            assert {e.order for e in result.events} <= {9}
    assert moved == 20
    assert_conserved(sim)


def test_tells_every_folio_at_the_start() -> None:
    sim = machine(process(2000), process(3 * 512, order=9))
    told = list(sim.folios())
    assert [(len(e.allocated), len(e.freed), e.order) for e in told] == [(2000, 0, 0), (3, 0, 9)]
    assert np.array_equal(np.concatenate([e.allocated for e in told]), sim.space.frame_of)


def closed_loop(seed: int, n_ticks: int = 15) -> tuple[SimulatedMachine, list[dict[str, float]], list[int]]:
    """A stub engine: whatever is marked is migrated at once, in PFN order."""
    faults = HintFaultSpec(scan_bytes=32 << 20, scan_period_ns=TICK)
    crowded = process(60_000, placement=((0, 0.5), (2, 0.5)), accesses_per_s=2e5)
    cost = MigrationCostSpec(isolation_failure_share=0.05, copy_failure_share=0.05)
    sim = machine(crowded, hint_faults=faults, cost=cost, seed=seed)
    source, migrator = HintFaultSource(sim), SimulatedMigrator(sim)
    series, statuses = [], []
    for tick in range(n_ticks):
        sampled = source.sample(tick * TICK, TICK)
        series.append(sampled.metrics)
        for produced in sampled.produced:
            pfns = np.unique(produced.pfns)
            for start in range(0, len(pfns), 512):
                part = pfns[start : start + 512]
                result = migrator.migrate(0, part, np.ones(len(part), dtype=np.int64))
                assert sum(result.reasons.values()) == np.count_nonzero(result.status)
                statuses += result.status.tolist()
    return sim, series, statuses


def test_closed_loop_raises_the_share_of_fast_accesses_and_loses_no_frame() -> None:
    sim, series, statuses = closed_loop(seed=3)
    share = [metrics["accesses_fast"] / metrics["accesses"] for metrics in series]
    assert share[0] < 0.6
    assert share[-1] > share[0] + 0.2
    assert sum(metrics["demoted_pages"] for metrics in series) > 100  # node 0 filled up
    assert {0, -11} <= set(statuses)
    assert_conserved(sim)


def test_same_seed_same_run_other_seed_another() -> None:
    first, again, other = (closed_loop(seed, n_ticks=6) for seed in (5, 5, 6))
    assert first[1:] == again[1:]
    assert np.array_equal(first[0].space.frame_of, again[0].space.frame_of)
    assert first[2] != other[2]


def test_machines_of_more_than_2_32_frames_take_wider_arrays() -> None:
    assert index_dtype(2**32 + 1) == np.uint64
    assert index_dtype(2**32) == np.uint32
    # Compiled apart from the cached loops, on arrays as such a machine has them.
    nothing = np.uint64(2**64 - 1)
    frame_of, folio_of = np.array([2, 1], np.uint64), np.array([nothing, 1, 0], np.uint64)
    flags, nids, counts = np.zeros(3, np.uint8), np.zeros(1, np.int32), np.zeros(4, np.int64)
    scanned, out = np.ones(4, np.uint8), np.empty(4, np.int64)
    compiled: list[Any] = [loops.unmap, loops.touch, loops.second_chance]
    unmap, touch, second_chance = (njit(each.py_func) for each in compiled)
    assert unmap(0, 2, 5, frame_of, 0, flags, np.zeros(2, np.uint32), nids, scanned) == 2
    assert touch(np.array([0]), 0, frame_of, 0, flags, nids, counts, out) == 1
    assert flags.tolist() == [0, PROT_NONE, REFERENCED]
    assert second_chance(0, 3, 0, folio_of, nothing, flags, out) == (1, 3)
    assert out[0] == 1


def test_tasks_on_several_nodes_make_the_accesses_alike() -> None:
    (both,) = machine(process(cpu_nids=(0, 1))).processes
    stretches = list(both.stretches(0, TICK, both.visits_ns(0, TICK, 40 * MS)))
    by_nid = {nid: sum(s.n_accesses for s in stretches if s.cpu_nid == nid) for nid in (0, 1)}
    assert sum(by_nid.values()) == 100_000
    assert abs(by_nid[0] - by_nid[1]) <= 4096
    assert [s.start_ns for s in stretches if s.visit_due] == [0, 40 * MS, 80 * MS]
    ends = [s.first_access + s.n_accesses for s in stretches]
    assert [s.first_access for s in stretches] == [0, *ends[:-1]]
