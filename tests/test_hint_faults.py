"""From hint faults to marks: targets, the hot threshold, the two-stage filter."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, PatternSpec, ProcessSpec
from gpuscan.sources.hint_faults import HintFaultSource
from gpuscan.topology.model import Topology
from machines import node, tiered

TICK = 100_000_000
ALL = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=TICK, only_lower_tier=False)


def source(
    faults: HintFaultSpec, topology: Topology | None = None, n_pages: int = 100, **process: object
) -> HintFaultSource:
    """Return a source whose process touches 100 pages in turn, each once a tick."""
    spec = ProcessSpec("app", n_pages, (0,), 1000.0, ((2, 1.0),), pattern=PatternSpec(kind="scan"))
    spec = replace(spec, **process)
    return HintFaultSource(SimulatedMachine(topology or tiered(), MachineSpec((spec,), faults)))


def test_every_touched_page_is_marked_for_the_cpus_node() -> None:
    sampled = source(ALL).sample(0, TICK)
    (produced,) = sampled.produced
    assert produced.kind == "request"
    assert produced.nids.tolist() == [0] * 100
    assert produced.nids.dtype == np.int32
    first = 5 * 32_768  # of node 2
    assert produced.pfns.tolist() == list(range(first, first + 100))
    assert sampled.metrics["marks"] == sampled.metrics["hint_faults"] == 100


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
    topology = tiered()
    no_memory = replace(topology, nodes=(node(0, cpus=(0,)), *topology.nodes[1:]))
    (produced,) = source(ALL, topology=no_memory).sample(0, TICK).produced
    assert set(produced.nids.tolist()) == {1}


def test_no_reachable_target_no_marks() -> None:
    topology = tiered()
    distance = topology.distance.copy()
    distance[0, 1] = 255
    no_memory = replace(topology, nodes=(node(0, cpus=(0,)), *topology.nodes[1:]), distance=distance)
    sampled = source(ALL, topology=no_memory).sample(0, TICK)
    assert sampled.produced == ()
    assert sampled.metrics["faults_at_home"] == 0
    assert sampled.metrics["faults_no_target"] == 100


def test_late_faults_are_cold() -> None:
    # Access k comes k + 1 ms after the unmapping; below 40 ms is hot.
    sampled = source(replace(ALL, hot_latency_ns=40_000_000)).sample(0, TICK)
    assert len(sampled.produced[0].pfns) == 39
    assert sampled.metrics["faults_cold"] == 61
    assert len(source(replace(ALL, hot_latency_ns=0)).sample(0, TICK).produced[0].pfns) == 100


def test_two_stage_marks_at_the_second_fault_from_one_node() -> None:
    filtered = source(replace(ALL, two_stage=True))
    first, second = filtered.sample(0, TICK), filtered.sample(TICK, TICK)
    assert first.produced == ()
    assert first.metrics["faults_one_stage"] == 100
    assert len(second.produced[0].pfns) == 100


def test_two_stage_holds_back_a_ping_pong() -> None:
    tennis = {"cpu_nids": (0, 1), "rotate_every_ns": TICK}
    filtered = source(replace(ALL, two_stage=True), **tennis)
    assert all(filtered.sample(k * TICK, TICK).produced == () for k in range(6))
    assert source(replace(ALL, two_stage=True), **tennis).sample(0, 6 * TICK).produced == ()  # in one tick
    plain = source(ALL, **tennis)
    nids = [plain.sample(k * TICK, TICK).produced[0].nids[0] for k in range(4)]
    assert nids == [0, 1, 0, 1]


@pytest.mark.parametrize("n_ticks", [1, 4])
def test_two_stage_takes_several_faults_of_one_tick_one_after_the_other(n_ticks: int) -> None:
    filtered = source(replace(ALL, two_stage=True))
    step = 4 * TICK // n_ticks
    marks = sum(filtered.sample(k * step, step).metrics["marks"] for k in range(n_ticks))
    assert marks == 300


def test_never_finishes() -> None:
    assert not source(ALL).finished()
