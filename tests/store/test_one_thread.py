"""One thread that promotes and demotes: both in one index, one scan, one plan; kswapd moves nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conservation import assert_conserved
from gpuscan.base.errors import InputError
from gpuscan.engine.policy import Policy
from gpuscan.engine.tick import Engine, RunReport
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.producers.built_in.hint_faults import HintFaultSource
from gpuscan.producers.demotions import DemotingSource
from gpuscan.run.scenario import build_scenario
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, ProcessSpec
from gpuscan.store.plan import Plan
from gpuscan.store.single import Store
from gpuscan.topology import Topology, Zone
from gpuscan.workload.files import load_workload
from machines import tiered

MS = 1_000_000
TICK = 100 * MS
QUIET = HintFaultSpec(scan_period_ns=0)


def crowded(*, order: int = 0, **changes: Any) -> SimulatedMachine:
    """Return a machine whose node 0 is full of cold pages, and whose hot ones are on node 2."""
    cold = ProcessSpec("cold", 32_768 - 80 >> order << order, (0,), 1.0, ((0, 1.0),), order=order)
    hot = ProcessSpec("hot", 4096, (0,), 100_000.0, ((2, 1.0),))
    hint_faults = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=200 * MS, hot_latency_ns=0)
    spec = replace(MachineSpec((cold, hot), hint_faults, demotion_marked=True), **changes)
    topology = tiered()
    zone = topology.nodes[0].zones[0]
    zone = replace(zone, watermarks=replace(zone.watermarks, promo=1023))
    node_0 = replace(topology.nodes[0], zones=(zone,))
    return SimulatedMachine(replace(topology, nodes=(node_0, *topology.nodes[1:])), spec)


def run(
    sim: SimulatedMachine, n_ticks: int = 30, **policy: Any
) -> tuple[RunReport, list[tuple[list[int], dict[int, int]]]]:
    """Run the machine on an engine; return the report, and per plan its targets and base pages each."""
    store = Store(sim.topology, device="cpu", large_folios=sim.has_large_folios)
    for event in sim.folios():
        store.admit(event.allocated, event.order)
    plans: list[tuple[list[int], dict[int, int]]] = []

    def see(_tick: int, plan: Plan, _batches: object) -> None:
        targets = plan.targets.tolist()
        plans.append((targets, {nid: plan.pages_for(nid) for nid in targets}))

    source = DemotingSource(HintFaultSource(sim), sim)
    settings = Policy(interval_ns=TICK, one_thread=True, **policy)
    engine = Engine(store, source, SimulatedMigrator(sim), settings, verify_every_tick=True, plan_sink=see)
    return engine.run(n_ticks), plans


def test_one_plan_holds_promotions_and_demotions() -> None:
    sim = crowded()
    report, plans = run(sim)
    assert any(0 in targets and {2, 3} & set(targets) for targets, _ in plans)
    on_node_0 = sim.page_map.nid_of_flat(sim.space.frame_of.astype(np.int64)) == 0
    assert on_node_0[-4096:].mean() > 0.9  # the hot ones, promoted into the room that was made
    demoted = sum(tick.metrics["demoted_pages"] for tick in report.ticks)
    marked = sum(tick.metrics["demotion_marks"] for tick in report.ticks)
    assert 3500 < demoted <= marked
    assert (~on_node_0[:-4096]).sum() == demoted
    ledger = report.ledger
    assert ledger.requested == ledger.pending + ledger.migrated + ledger.superseded + ledger.dropped.total()
    assert_conserved(sim)


def test_the_thread_s_time_is_that_of_all_its_batches() -> None:
    report, plans = run(crowded(), n_ticks=12)
    both = next(i for i, (targets, _) in enumerate(plans) if len(targets) > 1)
    tick = [tick for tick in report.ticks if tick.n_plans][both]
    pages = sum(plans[both][1].values())
    assert tick.migrate_busy_ns == pytest.approx(1090 * tick.migrated_pages, rel=0.2)
    assert tick.migrated_pages == pages  # demotions first, so that promotions find room at once


def test_the_rate_limit_is_one_of_promotions() -> None:
    _, plans = run(crowded(), rate_limit_bytes_per_s=1 << 20)  # 256 pages a second
    promoted = sum(pages.get(0, 0) for _, pages in plans)
    assert 256 * 2 <= promoted <= 256 * 4
    assert max(pages.get(2, 0) for _, pages in plans) > 900
    tight, plans = run(crowded(), rate_limit_bytes_per_s=1 << 30, budget_pages=20)
    assert max(max(pages.values()) for _, pages in plans) <= 20
    assert tight.ledger.migrated > 100


def test_nothing_is_marked_while_there_is_room_and_nothing_moves_but_by_the_engine() -> None:
    process = ProcessSpec("app", 4096, (0,), 1000.0, ((0, 1.0),))
    sim = SimulatedMachine(tiered(), MachineSpec((process,), QUIET, demotion_marked=True))
    source = DemotingSource(HintFaultSource(sim), sim)
    sampled = source.sample(0, TICK)
    assert (sampled.produced, sampled.metrics["demotion_marks"]) == ((), 0)
    full = crowded(hint_faults=QUIET)
    source = DemotingSource(HintFaultSource(full), full)
    assert len(full.frames.alloc(1, 0, marks=("min",))) == 1  # below the low watermark
    before = full.space.frame_of.copy()
    sampled = source.sample(0, TICK)
    assert sampled.events == ()
    assert np.array_equal(before, full.space.frame_of)
    (part,) = sampled.produced
    assert part.kind == "request"
    assert len(part.pfns) == sampled.metrics["demotion_marks"] == 945  # 79 are free, more than 1023 wanted
    assert set(part.nids.tolist()) == {2}
    assert not source.finished()


def test_cold_folios_cover_the_shortage_and_no_more() -> None:
    sim = crowded(order=9, hint_faults=QUIET)
    while sim.frames.free_pages(0) >= 80:
        sim.frames.alloc(1, 0, marks=("min",))
    frames, nids, nowhere = sim.cold_folios(TICK)
    assert (len(frames), nids.tolist(), nowhere) == (2, [2, 2], 0)  # of 512 pages each, for 945
    kswapd = crowded(order=9, hint_faults=QUIET, demotion_marked=False)
    while kswapd.frames.free_pages(0) >= 80:
        kswapd.frames.alloc(1, 0, marks=("min",))
    assert kswapd.run(0, TICK).metrics["demoted_pages"] == 1024


def test_cold_folios_cover_what_one_zone_lacks() -> None:
    topology = tiered()
    start = 32_768
    marks = topology.nodes[0].zones[0].watermarks
    zones = (
        Zone("DMA", ((start, start + 2048),), 2048, replace(marks, promo=90)),
        Zone("Normal", ((start + 2048, start + 32_768),), 30_720, replace(marks, promo=800)),
    )
    two = replace(topology, nodes=(replace(topology.nodes[0], zones=zones), *topology.nodes[1:]))
    full = ProcessSpec("cold", 32_768 - 160, (0,), 1.0, ((0, 1.0),))
    sim = SimulatedMachine(two, MachineSpec((full,), HintFaultSpec(scan_period_ns=0), demotion_marked=True))
    sim._kswapd._hands[0] = 4096  # in the Normal zone: what it frees there does not help the other
    sim.wake_kswapd(0)
    frames, _, _ = sim.cold_folios(TICK)
    lacks = sim.frames.shortages(0, "promo")
    assert list(lacks.values()) == [11, 721]
    assert len(frames) >= 721
    assert set(sim.frames.zones_of(frames).tolist()) == {1}


def test_a_node_without_a_lower_tier_is_counted() -> None:
    flat = Topology("flat", tiered().nodes[:2], np.array([[10, 20], [20, 10]], dtype=np.uint8))
    process = ProcessSpec("app", 4096, (0,), 1.0, ((0, 1.0),))
    sim = SimulatedMachine(flat, MachineSpec((process,), QUIET, demotion_marked=True))
    sim.wake_kswapd(0)
    source = DemotingSource(HintFaultSource(sim), sim)
    assert source.sample(0, TICK).metrics["kswapd_no_lower_tier"] == 1
    assert source.sample(TICK, TICK).metrics["kswapd_no_lower_tier"] == 0


def test_a_workload_switches_it_on() -> None:
    settings = ["topology.memory=2GiB", "ticks=6", "seed=3", "policy.one_thread=true"]
    scenario = build_scenario(load_workload("cxl-promote", settings))
    assert isinstance(scenario.engine, Engine)
    assert isinstance(scenario.engine.source, DemotingSource)
    report = scenario.run()
    assert report.policy.one_thread
    assert all("demotion_marks" in tick.metrics for tick in report.ticks)


@pytest.mark.parametrize(
    ("setting", "says"),
    [
        ("demotion=false", "policy.one_thread demotes, and demotion = false"),
        ("policy.record_format=pghot-compact", "pghot-compact has one for all; choose rfc or pghot"),
    ],
)
def test_what_cannot_demote_is_refused(setting: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        load_workload("cxl-promote", ["policy.one_thread=true", setting])


def test_it_is_a_switch_of_gpuscan_alone() -> None:
    workload = load_workload("cxl-promote", ["topology.memory=2GiB", "policy.one_thread=true"])
    with pytest.raises(InputError, match=r"a switch of gpuscan; leave it out, or --design rfc-v1"):
        build_scenario(workload, design="rfc-v1")
