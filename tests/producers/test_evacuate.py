"""Draining a node: everything on it is asked to go, the nearest first, and what stays is accounted for."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.engine.tick import RunReport
from gpuscan.producers.built_in.evacuate import EvacuateOptions
from gpuscan.run.scenario import Scenario, build_scenario
from gpuscan.run.summary import RunSummary, summarize
from gpuscan.topology.evacuation import NO_ROOM, nearest_first, share_out
from gpuscan.topology.presets import preset
from gpuscan.workload.files import load_workload

SMALL = ("topology.memory=1GiB", "processes.0.accesses_per_gib_s=200")
CLEAN = ("processes.0.dirty=0%",)


def ran(*settings: str, ticks: int = 20) -> tuple[Scenario, RunReport, RunSummary]:
    workload = load_workload("evacuate", [*SMALL, f"ticks={ticks}", *settings])
    scenario = build_scenario(workload, device="cpu", n_threads=1)
    report = scenario.run()
    return scenario, report, summarize(report)


def pages_by_node(scenario: Scenario) -> Any:
    machine = scenario.machine
    frames = machine.space.frame_of.astype(np.int64)
    return np.bincount(machine.page_map.nid_of_flat(frames), minlength=4)


@pytest.mark.parametrize("node", [2, 3])
def test_a_node_is_empty_afterwards(node: int) -> None:
    scenario, report, summary = ran(*CLEAN, f"node={node}")
    metrics = summary.metrics
    assert pages_by_node(scenario)[node] == 0
    assert metrics["drained_pages"] == metrics["drain_pages"] == report.ledger.migrated > 0
    assert metrics["left_no_room_pages"] == metrics["left_asked_pages"] == 0
    assert metrics["marks"] == metrics["drain_pages"], "each was asked for once"
    first = report.ticks[0]
    assert first.candidates == metrics["drain_pages"], "all are READY in the first round"
    # Both CXL nodes of this machine are nearer to a socket than to each other.
    nearest = nearest_first(scenario.topology, node)[0]
    assert nearest == node - 2


def test_what_is_refused_stays_and_is_asked_again() -> None:
    scenario, report, summary = ran("producer.evacuate.pass_every=2s", ticks=45)
    metrics, left = summary.metrics, int(pages_by_node(scenario)[3])
    assert 0 < left < metrics["drain_pages"]
    assert metrics["left_asked_pages"] == left
    assert metrics["left_no_room_pages"] == 0
    assert metrics["drain_pages"] == metrics["drained_pages"] + left
    assert metrics["marks"] > metrics["drain_pages"]
    assert any("dirty file page" in why for why in report.refusals)


def test_what_finds_no_room_is_told_apart() -> None:
    full = "processes.0.placement={ 0 = '29%', 1 = '29%', 2 = '21%', 3 = '21%' }"
    scenario, _, summary = ran(*CLEAN, full, "processes.0.memory=95%", "processes.0.file=0%", ticks=30)
    metrics, left = summary.metrics, int(pages_by_node(scenario)[3])
    assert left > 0
    assert metrics["left_no_room_pages"] > 0
    assert metrics["left_no_room_pages"] + metrics["left_asked_pages"] == left
    assert metrics["drain_pages"] == metrics["drained_pages"] + left


def test_folios_fill_the_nearest_node_first() -> None:
    n_pages = np.array([4, 4, 4, 1, 512, 1])
    assert share_out(n_pages, {7: 9, 5: 6, 6: 600}).tolist() == [7, 7, 5, 5, 6, 6]
    assert share_out(n_pages, {7: 8, 5: 6}).tolist() == [7, 7, 5, 5, NO_ROOM, NO_ROOM]
    assert share_out(n_pages, {7: 0}).tolist() == [NO_ROOM] * 6


@pytest.mark.parametrize(("setting", "says"), [("node=9", "no node 9 with memory"), ("node=-2", "node")])
def test_a_node_that_is_not_there(setting: str, says: str) -> None:
    with pytest.raises(InputError, match=says):
        ran(setting, ticks=1)


def test_a_machine_of_one_node_has_nowhere_to_go() -> None:
    machine = preset("single")
    with pytest.raises(InputError, match="no other memory is in reach"):
        EvacuateOptions().spec(machine)
