"""Producers besides hint faults, on machines small enough to count by hand; all of them under the engines."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import EntryPoint
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscan.base.errors import InputError
from gpuscan.designs.engine import design_engine
from gpuscan.engine.policy import Policy
from gpuscan.engine.tick import Engine
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.producers.catalogue import PRODUCERS, producer_of
from gpuscan.producers.contract import Observed
from gpuscan.producers.source import Producer
from gpuscan.sim import loops
from gpuscan.sim.accessed_bits import ABitSpec
from gpuscan.sim.hotness_units import HotnessUnits, HotnessUnitSpec
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.sampler import SamplerSpec
from gpuscan.sim.spec import (
    HintFaultSpec,
    MachineSpec,
    MigrationCostSpec,
    PatternSpec,
    ProcessSpec,
    ProducerSpec,
)
from gpuscan.store.single import Store
from gpuscan.topology.model import Link, Topology
from gpuscan.workload.files import load_workload
from machines import tiered

MS = 1_000_000
TICK = 100 * MS
FLAT = Topology("flat", tiered().nodes[:2], np.array([[10, 20], [20, 10]], dtype=np.uint8))
ON_NODE_2 = 5 * 32_768
"""First PFN of node 2."""


def machine(
    producer: ProducerSpec | None = None,
    topology: Topology | None = None,
    *,
    spec: MachineSpec | None = None,
    **process: Any,
) -> SimulatedMachine:
    """Return a machine whose process touches 100 pages of node 2 in turn, each once a tick, from node 0."""
    one = ProcessSpec("app", 100, (0,), 1000.0, ((2, 1.0),), pattern=PatternSpec(kind="scan"))
    one = replace(one, **process)
    spec = replace(spec or MachineSpec(()), processes=(one,), producer=producer)
    return SimulatedMachine(topology or tiered(), spec)


def ticks(producer: Producer, n_ticks: int, tick_ns: int = TICK) -> list[Observed]:
    return [producer.observe(k * tick_ns, tick_ns) for k in range(n_ticks)]


def pages(seen: Observed) -> list[int]:
    """Return the pages of node 2 that are wanted."""
    return (seen.pfns[seen.wanted] - ON_NODE_2).tolist()


# --- sampler


def test_one_access_of_each_period_is_sampled_whatever_the_ticks() -> None:
    spec = SamplerSpec(period=10, useless_share=0.0, sample_ns=3.0)
    (seen,) = ticks(producer_of(machine(spec)), 1)
    assert [page // 10 for page in pages(seen)] == list(range(10))
    assert {page % 10 for page in pages(seen)} != {0}  # not always the first of the ten
    assert set(seen.target_nids.tolist()) == set(seen.cpu_nids.tolist()) == {0}
    assert seen.metrics["samples"] == seen.metrics["marks"] == 10
    assert seen.metrics["producer_cost_ns"] == 30.0
    assert not seen.at_fault
    assert seen.at_ns is not None
    assert (seen.at_ns // MS - 1).tolist() == pages(seen)  # page k is accessed after k + 1 ms
    in_parts = [page for part in ticks(producer_of(machine(spec)), 25, 4 * MS) for page in pages(part)]
    assert in_parts == pages(seen)


def test_useless_samples_cost_and_mark_nothing() -> None:
    (seen,) = ticks(producer_of(machine(SamplerSpec(period=5, useless_share=1.0, sample_ns=1.0))), 1)
    assert (seen.metrics["samples"], seen.metrics["samples_useless"]) == (20, 20)
    assert seen.metrics["producer_cost_ns"] == 20.0
    assert len(seen.pfns) == seen.metrics["marks"] == 0


def test_samples_on_the_top_tier_and_at_home_are_not_wanted() -> None:
    spec = SamplerSpec(period=1, useless_share=0.0)
    placed: dict[str, Any] = {"placement": ((1, 0.5), (2, 0.5))}
    (tiering,) = ticks(producer_of(machine(spec, **placed)), 1)
    assert (tiering.metrics["seen_top_tier"], tiering.metrics["marks"]) == (50, 50)
    normal = MachineSpec((), HintFaultSpec(only_lower_tier=False))
    (both,) = ticks(producer_of(machine(spec, spec=normal, **placed)), 1)
    assert (both.metrics["seen_top_tier"], both.metrics["marks"]) == (0, 100)
    (home,) = ticks(producer_of(machine(spec, spec=normal, placement=((0, 1.0),))), 1)
    assert (home.metrics["seen_at_home"], home.metrics["marks"]) == (100, 0)


def test_the_latency_filter_knows_the_links() -> None:
    spec = SamplerSpec(period=1, useless_share=0.0, min_latency_ns=200.0)
    links = {(0, nid): Link(latency, 1e9) for nid, latency in enumerate((100.0, 150.0, 300.0, 199.0))}
    known = replace(tiered(), links=links)
    placed: dict[str, Any] = {"placement": ((0, 0.2), (3, 0.3), (2, 0.5))}
    (seen,) = ticks(producer_of(machine(spec, known, **placed)), 1)
    assert (seen.metrics["samples_filtered"], seen.metrics["marks"]) == (50, 50)
    with pytest.raises(InputError, match=r"no latency from node 0 to node 0.*set min_latency to 0ns"):
        producer_of(machine(spec))


@given(
    period=st.integers(1, 50),
    cuts=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    useless=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_cut_anywhere_each_period_has_one_sample(period: int, cuts: list[int], useless: float) -> None:
    def sampled(first: int, n_accesses: int) -> tuple[list[int], int]:
        out = np.empty(n_accesses // period + 2, dtype=np.int64)
        n_useful, n_useless = loops.sample_positions(first, n_accesses, period, np.uint64(7), useless, out)
        return (first + out[:n_useful]).tolist(), n_useless

    total = sum(cuts)
    whole, n_useless = sampled(0, total)
    starts = np.cumsum([0, *cuts[:-1]]).tolist()
    parts = [sampled(start, n) for start, n in zip(starts, cuts, strict=True)]
    assert [access for part, _ in parts for access in part] == whole
    assert sum(n for _, n in parts) == n_useless
    assert len(whole) + n_useless in (total // period, -(-total // period))
    assert len({access // period for access in whole}) == len(whole)


# --- accessed bits


def test_a_walk_finds_what_was_accessed_since_the_last_one() -> None:
    spec = ABitSpec(walk_period_ns=TICK, pte_ns=2.0)
    half: dict[str, Any] = {"accesses_per_s": 500.0}  # 50 pages a tick
    first, second, third = ticks(producer_of(machine(spec, **half)), 3)
    assert pages(first) == []  # it comes before the first access
    assert pages(second) == list(range(50))
    assert pages(third) == list(range(50, 100))
    assert third.at_ns is not None
    assert set(third.at_ns.tolist()) == {2 * TICK}
    assert third.metrics["ptes_walked"] == 100
    assert third.metrics["ptes_accessed"] == third.metrics["guessed_right"] == 50
    assert third.metrics["producer_cost_ns"] == 200.0


def test_walks_go_round_in_windows() -> None:
    spec = ABitSpec(walk_bytes=40 * 4096, walk_period_ns=TICK)
    seen = ticks(producer_of(machine(spec)), 5)
    assert [one.metrics["ptes_walked"] for one in seen] == [40] * 5
    assert pages(seen[1]) == list(range(40, 80))
    assert pages(seen[2]) == [*range(80, 100), *range(20)]
    assert pages(seen[4]) == list(range(60, 100))


def test_the_node_is_guessed_from_where_the_process_ran_last() -> None:
    # Pages 0 to 49 are accessed from node 0, then the tasks move, and from node 1 the rest.
    spec = ABitSpec(walk_period_ns=2 * TICK)
    moved = machine(spec, cpu_nids=(0, 1), move_at_ns=3 * TICK // 2)
    seen = ticks(producer_of(moved), 3)[2]
    assert set(seen.target_nids.tolist()) == {1}
    assert seen.metrics["marks"] == 100
    assert (seen.metrics["guessed_right"], seen.metrics["guessed_wrong"]) == (50, 50)


def test_of_tasks_on_two_nodes_the_last_to_run_is_guessed() -> None:
    # They take turns of 4,096 accesses: the first half of the pages is accessed from node 0.
    both: dict[str, Any] = {"cpu_nids": (0, 1), "n_pages": 8192, "accesses_per_s": 81_920.0}
    seen = ticks(producer_of(machine(ABitSpec(walk_period_ns=TICK), **both)), 2)[1]
    assert set(seen.target_nids.tolist()) == {1}
    assert (seen.metrics["guessed_right"], seen.metrics["guessed_wrong"]) == (4096, 4096)


def test_only_lower_tier_pages_are_walked_in_memory_tiering_mode() -> None:
    placed: dict[str, Any] = {"placement": ((1, 0.25), (2, 0.75))}
    spec = ABitSpec(walk_period_ns=TICK)
    assert ticks(producer_of(machine(spec, **placed)), 2)[1].metrics["ptes_accessed"] == 75
    normal = MachineSpec((), HintFaultSpec(only_lower_tier=False))
    assert ticks(producer_of(machine(spec, spec=normal, **placed)), 2)[1].metrics["ptes_accessed"] == 100


# --- hotness units


def at_once(**changes: Any) -> HotnessUnitSpec:
    """Return units whose lists the host reads at the end of each epoch, whatever they hold."""
    return replace(HotnessUnitSpec(interrupt_share=0.0), **changes)


def test_units_that_reach_the_threshold_in_an_epoch_are_listed_in_turn() -> None:
    spec = at_once(epoch_ns=2 * TICK, threshold=2, list_entries=31, entry_ns=5.0, page_ns=1.0)
    seen = ticks(producer_of(machine(spec)), 8)
    assert [one.metrics["epochs"] for one in seen] == [0, 1] * 4
    assert [pages(one) for one in seen[::2]] == [[]] * 4
    assert pages(seen[1]) == list(range(30))
    assert pages(seen[3]) == list(range(30, 60))
    assert pages(seen[7]) == [*range(20), *range(90, 100)]  # sorted by folio; the list began with 90
    assert (seen[1].metrics["list_entries"], seen[1].metrics["list_overflow"]) == (30, 70)
    assert seen[1].metrics["unit_accesses"] == 200
    assert seen[1].metrics["producer_cost_ns"] == 180.0
    assert ticks(producer_of(machine(replace(spec, threshold=3))), 2)[1].metrics["list_entries"] == 0


def test_the_device_does_not_know_the_cpu() -> None:
    spec = at_once(epoch_ns=TICK, threshold=1)
    (near,) = ticks(producer_of(machine(spec)), 1)
    assert set(near.target_nids.tolist()) == {0}  # nearest to node 2
    assert (near.metrics["guessed_right"], near.metrics["guessed_wrong"]) == (100, 0)
    (far,) = ticks(producer_of(machine(spec, cpu_nids=(1,))), 1)
    assert set(far.target_nids.tolist()) == set(far.cpu_nids.tolist()) == {0}
    assert (far.metrics["guessed_right"], far.metrics["guessed_wrong"]) == (0, 100)


def test_a_unit_marks_every_page_in_it() -> None:
    spec = at_once(unit_bytes=32 * 4096, epoch_ns=TICK, threshold=32)
    (seen,) = ticks(producer_of(machine(spec)), 1)
    assert seen.metrics["list_entries"] == 3  # the fourth unit has 4 pages
    assert pages(seen) == list(range(96))


def test_a_large_folio_is_marked_once_and_its_accesses_are_spread() -> None:
    huge: dict[str, Any] = {"n_pages": 2048, "order": 9}
    (fine,) = ticks(producer_of(machine(at_once(epoch_ns=TICK, threshold=1), **huge)), 1)
    assert fine.metrics["list_entries"] > 90  # 100 accesses to 2,048 units
    assert pages(fine) == [0, 512, 1024, 1536]
    coarse = at_once(unit_bytes=2 << 20, epoch_ns=TICK, threshold=25)
    (whole,) = ticks(producer_of(machine(coarse, **huge)), 1)
    assert whole.metrics["list_entries"] == 4
    assert pages(whole) == [0, 512, 1024, 1536]


def test_epochs_end_inside_a_tick() -> None:
    spec = at_once(epoch_ns=30 * MS, threshold=1)
    whole = ticks(producer_of(machine(spec)), 3)
    parts = ticks(producer_of(machine(spec)), 30, 10 * MS)
    assert [one.metrics["epochs"] for one in whole] == [3, 3, 4]
    at_ns = whole[2].at_ns
    assert at_ns is not None
    assert np.unique(at_ns).tolist() == [210 * MS, 240 * MS, 270 * MS, 300 * MS]
    assert [page for one in whole for page in pages(one)] == [page for one in parts for page in pages(one)]
    assert sum(one.metrics["accesses"] for one in whole) == 300


def test_counters_stop_at_their_maximum_and_are_cleared() -> None:
    sim = machine(n_pages=1)
    units = HotnessUnits(at_once(threshold=3, counter_bits=2), sim.space, sim.page_map, [2, 3], 0)
    sim.run(0, TICK, units)  # 100 accesses to one page
    assert units._counters.max() == 3
    assert units.end_epoch().n_entries == 1
    assert units.end_epoch().n_entries == 0


def test_downsampling_counts_about_one_in_so_many() -> None:
    sim = machine(n_pages=1, accesses_per_s=100_000.0)
    units = HotnessUnits(HotnessUnitSpec(downsampling=16), sim.space, sim.page_map, [2, 3], 0)
    sim.run(0, TICK, units)
    assert 500 < units._counters.sum() < 750  # 10,000 / 16 is 625
    assert units.end_epoch().n_counted == 10_000


def test_hotness_units_need_memory_below_the_top_tier() -> None:
    with pytest.raises(InputError, match="'flat' has none"):
        producer_of(machine(HotnessUnitSpec(), FLAT, placement=((1, 1.0),)))
    with pytest.raises(InputError, match="only_lower_tier is false"):
        producer_of(machine(HotnessUnitSpec(), spec=MachineSpec((), HintFaultSpec(only_lower_tier=False))))


def test_two_stretches_of_time_add_up_to_one() -> None:
    links = {(0, nid): Link(100.0 * (nid + 1), 1e9) for nid in range(4)}
    placed: dict[str, Any] = {"placement": ((0, 0.5), (2, 0.5)), "pattern": PatternSpec(kind="uniform")}
    whole, parts = (machine(topology=replace(tiered(), links=links), **placed) for _ in range(2))
    expected = whole.run(0, TICK).metrics
    joined = parts.run(0, 30 * MS).then(parts.run(30 * MS, 70 * MS)).metrics
    assert set(joined) == set(expected)
    assert all(joined[name] == pytest.approx(value) for name, value in expected.items())
    idle = parts.run(TICK, 1)  # no access, so no latency
    assert idle.then(parts.run(TICK + 1, TICK)).metrics["mean_latency_ns"] > 0


# --- the adaptive pause of NUMA balancing, and what failed migrations do to it


def pauses_ms(faults: HintFaultSpec, topology: Topology, **process: object) -> tuple[list[float], float]:
    """Run with migrations that all fail; return the pauses in order of appearance, and what was fed back."""
    spec = MachineSpec((), faults, MigrationCostSpec(copy_failure_share=1.0))
    sim = machine(None, topology, spec=spec, **process)
    store = Store(topology, device="reference")
    for event in sim.folios():
        store.admit(event.allocated, event.order)
    engine = Engine(store, producer_of(sim), SimulatedMigrator(sim), Policy(), verify_every_tick=True)
    report = engine.run(40)
    periods = [tick.metrics["mean_scan_period_ms"] for tick in report.ticks]
    return list(dict.fromkeys(periods)), sum(tick.metrics["migrations_failed"] for tick in report.ticks)


ADAPTIVE = HintFaultSpec(
    scan_bytes=101 * 4096,  # more than all pages, so a visit comes to the end and a pass is over
    adaptive=True,
    scan_delay_ns=0,
    scan_period_min_ns=TICK,
    scan_period_max_ns=3200 * MS,
    only_lower_tier=False,
)


def test_failed_migrations_lengthen_the_pause_where_they_are_fed_back() -> None:
    # The first pass follows no fault, and doubles the pause. Half of the pages are local, all faults
    # private: then 3 slots of a tenth, rounded up, for each pass.
    half: dict[str, Any] = {"placement": ((0, 0.5), (1, 0.5)), "accesses_per_s": 1e4}
    alone, fed_back = pauses_ms(ADAPTIVE, FLAT, **half)
    assert alone[:5] == [200, 260, 338, 440, 572]
    assert fed_back == 0
    fed, fed_back = pauses_ms(replace(ADAPTIVE, failure_feedback=True), FLAT, **half)
    assert fed == [200, 400, 800, 1600, 3200]
    assert fed_back > 0


def test_first_faults_below_the_top_tier_do_not_move_the_pause_in_normal_mode() -> None:
    # All pages of node 2 are unmapped at 0. Their first faults are not counted; the second ones, after
    # 100 ms, follow a pass without faults, which doubles the pause.
    assert pauses_ms(ADAPTIVE, tiered(), accesses_per_s=1e4)[0][:2] == [100, 200]
    # Where they count, the first faults do.
    flat = replace(tiered(), nodes=tuple(replace(one, tier=0) for one in tiered().nodes))
    assert pauses_ms(ADAPTIVE, flat, accesses_per_s=1e4)[0][0] == 200


def test_what_a_design_cannot_isolate_is_fed_back_too() -> None:
    spec = MachineSpec(
        (), replace(ADAPTIVE, failure_feedback=True), MigrationCostSpec(isolation_failure_share=1.0)
    )
    sim = machine(None, FLAT, spec=spec, placement=((0, 0.5), (1, 0.5)), accesses_per_s=1e4)
    report = design_engine("rfc-fixed", sim, Policy(interval_ns=TICK)).run(30)
    assert sum(tick.metrics["migrations_failed"] for tick in report.ticks) > 0
    assert report.ledger.migrated == 0


def test_a_process_that_does_not_fault_is_scanned_at_the_same_pace() -> None:
    assert pauses_ms(ADAPTIVE, FLAT, placement=((1, 1.0),), accesses_per_s=0.1) == ([100], 0)


def test_failed_promotions_are_not_counted_in_memory_tiering_mode() -> None:
    tiering = replace(ADAPTIVE, only_lower_tier=True)
    plain = pauses_ms(tiering, tiered(), accesses_per_s=1e4)
    assert pauses_ms(replace(tiering, failure_feedback=True), tiered(), accesses_per_s=1e4) == plain
    # Promotions are remote and private, so the pause doubles whatever became of them.
    assert plain == ([200, 400, 800, 1600, 3200], 0)


# --- every producer under every kind of engine

SPECS: dict[str, ProducerSpec | None] = {
    "hint-faults": None,
    "sampler": SamplerSpec(period=3),
    "a-bit": ABitSpec(walk_period_ns=TICK),
    "hotness-unit": at_once(epoch_ns=TICK, threshold=1, list_entries=500),
}
BUSY: dict[str, Any] = {"n_pages": 2000, "accesses_per_s": 20_000.0, "placement": ((0, 0.25), (2, 0.75))}
FAULTS = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=2 * TICK)


@pytest.mark.parametrize("mark", ["request", "record"])
@pytest.mark.parametrize("kind", SPECS)
def test_the_engine_takes_every_producer(kind: str, mark: Any) -> None:
    spec = MachineSpec((), replace(FAULTS, mark=mark), MigrationCostSpec(isolation_failure_share=0.1))
    sim = machine(SPECS[kind], spec=spec, **BUSY)
    store = Store(sim.topology, device="reference")
    for event in sim.folios():
        store.admit(event.allocated, event.order)
    policy = Policy(interval_ns=TICK)
    engine = Engine(store, producer_of(sim), SimulatedMigrator(sim), policy, verify_every_tick=True)
    report = engine.run(8)
    assert report.ledger.migrated > 500
    assert report.ticks[-1].metrics["accesses_fast"] > report.ticks[0].metrics["accesses_fast"]
    assert sum(tick.metrics["producer_cost_ns"] for tick in report.ticks) > 0


@pytest.mark.parametrize(
    "design", ["rfc-v1", "section-flag", "section-flag-next", "hot-list", "percpu-list", "per-folio"]
)
@pytest.mark.parametrize("kind", SPECS)
def test_designs_take_every_producer(kind: str, design: str) -> None:
    sim = machine(SPECS[kind], spec=MachineSpec((), FAULTS), **BUSY)
    report = design_engine(design, sim, Policy(interval_ns=TICK)).run(25)  # proves its ledger at the end
    assert report.ledger.migrated > 500
    if kind != "hint-faults" and design == "rfc-v1":  # nobody marks a page with its own node there
        assert report.ledger.dropped["already there"] < report.ledger.migrated


@pytest.mark.parametrize("other", ["sampler", "hint-faults"])
def test_a_producer_that_makes_anothers_spec_is_refused(other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name = f"not-{other}"
    monkeypatch.setitem(PRODUCERS._entry_points, name, EntryPoint(name, "mine:MINE", PRODUCERS.group))
    monkeypatch.setitem(PRODUCERS._loaded, name, PRODUCERS.get(other))
    workload = load_workload("cxl-promote", [f"producer.kind={name}"])
    with pytest.raises(InputError, match=f"the producer {name} makes a spec of the kind '{other}'; let both"):
        workload.machine_spec(tiered())
