"""From hint faults to marks: targets, the hot threshold, the two-stage filter."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gpuscan.producers.built_in.hint_faults import HintFaultSource
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, PatternSpec, ProcessSpec
from gpuscan.topology.model import Topology
from machines import node, tiered

TICK = 100_000_000
ALL = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=TICK, only_lower_tier=False)
TIERING = replace(ALL, only_lower_tier=True)


def level() -> Topology:
    """Return :func:`tiered` with all nodes on the top tier."""
    topology = tiered()
    return replace(topology, nodes=tuple(replace(one, tier=0) for one in topology.nodes))


def source(
    faults: HintFaultSpec, topology: Topology | None = None, n_pages: int = 100, **process: Any
) -> HintFaultSource:
    """Return a source whose process touches 100 pages of node 2 in turn, each once a tick. With ``ALL`` that
    is a node of the top tier, since below it the first fault would not count."""
    spec = ProcessSpec("app", n_pages, (0,), 1000.0, ((2, 1.0),), pattern=PatternSpec(kind="scan"))
    spec = replace(spec, **process)
    topology = topology or (tiered() if faults.only_lower_tier else level())
    return HintFaultSource(SimulatedMachine(topology, MachineSpec((spec,), faults)))


def test_every_touched_page_is_marked_for_the_cpus_node() -> None:
    sampled = source(ALL).sample(0, TICK)
    (produced,) = sampled.produced
    assert produced.kind == "request"
    assert produced.nids.tolist() == [0] * 100
    assert produced.nids.dtype == np.int32
    first = 5 * 32_768  # of node 2
    assert produced.pfns.tolist() == list(range(first, first + 100))
    assert sampled.metrics["marks"] == sampled.metrics["hint_faults"] == 100
    at_ns = source(ALL).observe(0, TICK).at_ns
    assert at_ns is not None
    assert at_ns.tolist() == [1_000_000 * (k + 1) for k in range(100)]


def test_marks_may_be_records() -> None:
    (produced,) = source(replace(ALL, mark="record")).sample(0, TICK).produced
    assert produced.kind == "record"


def test_pages_at_home_are_not_marked() -> None:
    sampled = source(ALL, placement=((0, 0.25), (2, 0.75))).sample(0, TICK)
    assert len(sampled.produced[0].pfns) == 75
    assert sampled.metrics["faults_at_home"] == 25
    at_home = source(ALL, placement=((0, 1.0),)).sample(0, TICK)
    assert at_home.produced == ()


def test_only_lower_tier_pages_fault_in_memory_tiering_mode() -> None:
    sampled = source(replace(ALL, only_lower_tier=True), placement=((0, 0.25), (2, 0.75))).sample(0, TICK)
    assert sampled.metrics["hint_faults"] == 75


def test_target_of_a_node_without_top_tier_memory_is_the_nearest_with() -> None:
    topology = level()
    no_memory = replace(topology, nodes=(node(0, cpus=(0,)), *topology.nodes[1:]))
    (produced,) = source(ALL, topology=no_memory).sample(0, TICK).produced
    assert set(produced.nids.tolist()) == {1}


def test_no_reachable_target_no_marks() -> None:
    topology = level()
    distance = topology.distance.copy()
    distance[0, 1:] = 255
    no_memory = replace(topology, nodes=(node(0, cpus=(0,)), *topology.nodes[1:]), distance=distance)
    sampled = source(ALL, topology=no_memory).sample(0, TICK)
    assert sampled.produced == ()
    assert sampled.metrics["faults_at_home"] == 0
    assert sampled.metrics["faults_no_target"] == 100


def test_late_faults_are_cold_in_memory_tiering_mode() -> None:
    # Access k comes k + 1 ms after the unmapping; below 40 ms is hot.
    late = replace(ALL, hot_latency_ns=40_000_000)
    sampled = source(replace(late, only_lower_tier=True)).sample(0, TICK)
    assert len(sampled.produced[0].pfns) == 39
    assert sampled.metrics["faults_cold"] == 61
    assert len(source(replace(TIERING, hot_latency_ns=0)).sample(0, TICK).produced[0].pfns) == 100
    normal = source(late).sample(0, TICK)
    assert len(normal.produced[0].pfns) == 100
    assert normal.metrics["faults_cold"] == 0


def test_two_stage_lets_the_first_fault_pass_and_then_wants_two_from_one_node() -> None:
    filtered = source(replace(ALL, two_stage=True), cpu_nids=(0, 1), move_at_ns=TICK)
    marks = [filtered.sample(k * TICK, TICK).metrics for k in range(4)]
    assert [metrics["marks"] for metrics in marks] == [100, 0, 100, 100]
    assert [metrics["faults_one_stage"] for metrics in marks] == [0, 100, 0, 0]


def test_two_stage_is_not_for_pages_below_the_top_tier_in_memory_tiering_mode() -> None:
    tennis: dict[str, Any] = {"cpu_nids": (0, 1), "rotate_every_ns": TICK}
    filtered = source(replace(TIERING, two_stage=True), **tennis)
    assert [filtered.sample(k * TICK, TICK).metrics["marks"] for k in range(3)] == [100, 100, 100]


def test_two_stage_holds_back_a_ping_pong() -> None:
    tennis: dict[str, Any] = {"cpu_nids": (0, 1), "rotate_every_ns": TICK}
    filtered = source(replace(ALL, two_stage=True), **tennis)
    assert [filtered.sample(k * TICK, TICK).metrics["marks"] for k in range(6)] == [100, 0, 0, 0, 0, 0]
    in_one_tick = source(replace(ALL, two_stage=True), **tennis)
    assert in_one_tick.sample(0, 6 * TICK).metrics["marks"] == 100
    plain = source(ALL, **tennis)
    nids = [plain.sample(k * TICK, TICK).produced[0].nids[0] for k in range(4)]
    assert nids == [0, 1, 0, 1]


@pytest.mark.parametrize("n_ticks", [1, 4])
def test_two_stage_takes_several_faults_of_one_tick_one_after_the_other(n_ticks: int) -> None:
    filtered = source(replace(ALL, two_stage=True), cpu_nids=(0, 1), move_at_ns=TICK)
    step = 4 * TICK // n_ticks
    marks = sum(filtered.sample(k * step, step).metrics["marks"] for k in range(n_ticks))
    assert marks == 300


def test_below_the_top_tier_normal_mode_does_not_want_the_first_fault() -> None:
    # 25 pages on node 1, whose first fault counts, and 75 on node 2, where only the second does.
    split: dict[str, Any] = {"placement": ((1, 0.25), (2, 0.75))}
    plain = source(ALL, tiered(), **split)
    seen = [plain.sample(k * TICK, TICK).metrics for k in range(3)]
    assert [metrics["hint_faults"] for metrics in seen] == [100, 100, 100]
    assert [metrics["faults_first"] for metrics in seen] == [75, 0, 0]
    assert [metrics["marks"] for metrics in seen] == [25, 100, 100]
    # Both in one tick; and the second fault has to come from the node of the first where the filter is on.
    assert source(ALL, tiered()).sample(0, 2 * TICK).metrics["marks"] == 100
    filtered = source(replace(ALL, two_stage=True), tiered(), cpu_nids=(0, 1), move_at_ns=TICK)
    seen = [filtered.sample(k * TICK, TICK).metrics for k in range(3)]
    assert [(one["faults_first"], one["faults_one_stage"], one["marks"]) for one in seen] == [
        (100, 0, 0),
        (0, 100, 0),
        (0, 0, 100),
    ]
    tiering = source(TIERING).sample(0, TICK).metrics
    assert (tiering["faults_first"], tiering["marks"]) == (0, 100)


def test_never_finishes() -> None:
    assert not source(ALL).finished()


def test_candidates_beyond_the_rate_are_not_marked() -> None:
    ten_a_second = replace(TIERING, promote_bytes_per_s=10 * 4096)
    limited = source(ten_a_second)
    first = limited.sample(0, TICK)
    assert first.metrics["marks"] == 9  # of the window that began at 0
    assert first.metrics["faults_over_rate"] == 91
    assert first.metrics["pgpromote_candidate"] == 100
    rest = [limited.sample(k * TICK, TICK).metrics["marks"] for k in range(1, 12)]
    assert rest == [0] * 9 + [10, 0]  # the next window's first candidate, after 1000 ms, does not count
    assert source(replace(TIERING, promote_bytes_per_s=0)).sample(0, TICK).metrics["marks"] == 100


def test_targets_have_limits_of_their_own() -> None:
    both: dict[str, Any] = {"cpu_nids": (0, 1), "n_pages": 9000, "accesses_per_s": 90_000.0}
    sampled = source(replace(TIERING, promote_bytes_per_s=10 * 4096), **both).sample(0, TICK)
    assert np.bincount(sampled.produced[0].nids).tolist() == [9, 9]


def test_plenty_of_free_memory_passes_every_fault_and_starts_the_threshold_over() -> None:
    # 2 GiB a node, of which a GiB above the promo watermark is plenty; 50 faults a tick are late.
    slow = replace(TIERING, scan_period_ns=2 * TICK, scan_period_max_ns=2 * TICK, hot_latency_ns=TICK)
    late: dict[str, Any] = {"accesses_per_s": 500.0}
    sim_topology = tiered(n_sections=16)
    free = source(slow, sim_topology, **late)
    metrics = [free.sample(k * TICK, TICK).metrics for k in range(2)]
    assert [one["faults_cold"] for one in metrics] == [0, 0]
    assert [one["pgpromote_candidate_nrl"] for one in metrics] == [50, 50]
    assert [one["pgpromote_candidate"] for one in metrics] == [0, 0]
    off = source(replace(slow, free_memory_bypass=False), sim_topology, **late)
    assert [off.sample(k * TICK, TICK).metrics["faults_cold"] for k in range(2)] == [1, 50]

    taken = free._machine.frames.alloc(300_000, 0, 0)
    metrics = [free.sample(k * TICK, TICK).metrics for k in range(2, 6)]
    assert [one["pgpromote_candidate_nrl"] for one in metrics] == [0] * 4
    # Nobody promotes near 64 GiB a second: every two ticks it rises by an eighth of 100 ms.
    assert [one["mean_hot_threshold_ms"] for one in metrics] == [112, 112, 124, 124]
    free._machine.frames.free(taken)
    assert free.sample(6 * TICK, TICK).metrics["mean_hot_threshold_ms"] == 100


def test_costs_are_counted() -> None:
    metrics = source(replace(ALL, fault_ns=10.0, pte_ns=2.0)).sample(0, TICK).metrics
    assert metrics["ptes_walked"] == metrics["hint_faults"] == 100
    assert metrics["producer_cost_ns"] == 1200.0


def test_the_adaptive_pause_begins_with_the_delay_and_the_kernels_shortest() -> None:
    adaptive = HintFaultSpec(
        scan_bytes=512 * 4096, adaptive=True, scan_delay_ns=TICK, scan_period_min_ns=2 * TICK, pte_ns=0.0
    )
    slow = source(adaptive, n_pages=2048, accesses_per_s=40_960.0)
    # 4 windows of 200 ms: 50 ms, of which each visit unmaps a quarter and walks no more. The fifth finds the
    # end of a pass, whose faults double the pause after the tick.
    walked = [slow.sample(k * TICK, TICK).metrics["ptes_walked"] for k in range(5)]
    assert walked == [0, 1024, 1024, 1024, 512]
