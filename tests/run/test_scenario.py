"""Workloads on captured machines: what applies, what is left out, what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.run.scenario import build_scenario
from gpuscan.sim.spec import PatternSpec
from gpuscan.snapshot.snapshot import Snapshot
from gpuscan.workload.files import load_workload
from hosts import small_host


@pytest.fixture(scope="module")
def split() -> Snapshot:
    return small_host().split_cxl(0.5)


def test_a_captured_machine_is_accessed_as_often_as_its_folios_are_large(split: Snapshot) -> None:
    workload = load_workload("cxl-promote")
    scenario = build_scenario(workload, snapshot=split, device="cpu")
    (process,) = scenario.machine.processes
    assert process.spec.n_pages > 10_000
    expected = workload.processes[0].accesses_per_gib_s * process.spec.n_pages * PAGE_BYTES / (1 << 30)
    assert process.spec.accesses_per_s == pytest.approx(expected)
    assert "only the first of 2 processes runs" in scenario.notes[1]


def test_what_does_not_apply_is_said(split: Snapshot) -> None:
    scenario = build_scenario(load_workload("phase-shift"), snapshot=split, device="cpu")
    assert "pattern.shift_every does not apply" in scenario.notes[1]


def test_uniform_has_no_hot_folios(split: Snapshot) -> None:
    scenario = build_scenario(load_workload("uniform"), snapshot=split, device="cpu")
    (process,) = scenario.machine.processes
    drawn = np.empty(20_000, dtype=np.int64)
    process.pattern.draw(drawn, 0, 0)
    frames = split.frames()
    pages = (1 << frames.order.astype(np.int64)) * frames.eligible
    on_hot = frames.hot[scenario.machine.space.frame_of[drawn]].mean()
    assert on_hot == pytest.approx((pages * frames.hot).sum() / pages.sum(), abs=0.02)
    assert process.spec.pattern == replace(PatternSpec(), kind="uniform")


@pytest.mark.parametrize("name", ["numa-rebalance", "ping-pong"])
def test_tasks_cannot_move_on_a_machine_with_one_cpu_node(split: Snapshot, name: str) -> None:
    with pytest.raises(InputError, match=f"workload {name} moves its tasks between nodes, and .* one node"):
        build_scenario(load_workload(name), snapshot=split, device="cpu")


def test_one_node_has_nowhere_to_move_pages() -> None:
    with pytest.raises(InputError, match=r"one tier.*--split-cxl 50%"):
        build_scenario(load_workload("cxl-promote"), snapshot=small_host(), device="cpu")
    local = load_workload("cxl-promote", ["producer.only_lower_tier=false"])
    with pytest.raises(InputError, match=r"is on node 0, so workload cxl-promote has nowhere to move pages"):
        build_scenario(local, snapshot=small_host(), device="cpu")


def test_a_snapshot_has_no_order_to_scan_in(split: Snapshot) -> None:
    scan = load_workload("uniform", ["processes.0.pattern.kind=scan"])
    with pytest.raises(InputError, match="use zipf"):
        build_scenario(scan, snapshot=split, device="cpu")


@pytest.mark.parametrize("mark", ["request", "record"])
def test_no_loop_is_compiled_during_a_run(mark: str) -> None:
    from gpuscan.sim import loops

    def compiled() -> dict[str, int]:
        names = ("draw_zipf", "touch", "unmap", "second_chance", "set_file_flags")
        return {name: len(getattr(loops, name).signatures) for name in names}

    settings = ["topology.memory=1GiB", "ticks=2", "processes.0.file=20%", f"producer.mark={mark}"]
    scenario = build_scenario(load_workload("phase-shift", settings), device="cpu")
    before = compiled()
    assert min(before.values()) > 0
    scenario.run()
    assert compiled() == before
