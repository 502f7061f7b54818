"""Each refusal of the simulated migrator, their order, the rounds, and what it all costs."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conservation import assert_conserved
from gpuscan.engine.stages import MigrateResult, MigrateStatus
from gpuscan.migrate.simulated import SimulatedMigrator, rounds
from gpuscan.sim.loops import DIRTY, EXEC_SHARED, FILE, PROT_NONE, REFERENCED
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, MigrationCostSpec, ProcessSpec
from gpuscan.topology.model import Topology
from machines import MARKS, node, tiered

TICK = 100_000_000
S = MigrateStatus


def machine(
    n_pages: int = 4096, order: int = 0, topology: Topology | None = None, **changes: Any
) -> SimulatedMachine:
    """Return a machine with one process, all of it on node 2 (CXL), and an idle CPU on node 0."""
    process = ProcessSpec("app", n_pages, (0,), 1.0, ((2, 1.0),), order=order)
    spec = replace(MachineSpec((process,), HintFaultSpec(scan_period_ns=0)), **changes)
    return SimulatedMachine(topology or tiered(), spec)


def small_target(free_pages: int) -> Topology:
    """Return the test machine with ``free_pages`` on node 0."""
    topology = tiered()
    return replace(topology, nodes=(node(0, (32_768, 32_768 + free_pages), cpus=(0,)), *topology.nodes[1:]))


def move(sim: SimulatedMachine, folios: list[int] | slice, target: int = 0, **options: bool) -> MigrateResult:
    frames = sim.space.frame_of[folios].astype(np.int64)
    sizes = np.full(len(frames), 1 << sim.space.mappings[0].order, dtype=np.int64)
    return SimulatedMigrator(sim, **options).migrate(target, sim.page_map.pfn_of_flat(frames), sizes)


def test_moves_a_batch_onto_new_frames() -> None:
    sim = machine()
    before = sim.space.frame_of.astype(np.int64)
    sim.space.flags[before[:512]] = FILE | REFERENCED | PROT_NONE
    result = move(sim, slice(0, 512))
    after = sim.space.frame_of.astype(np.int64)
    assert not result.status.any()
    assert result.reasons == {}
    assert (sim.page_map.nid_of_flat(after[:512]) == 0).all()
    assert np.array_equal(after[512:], before[512:])
    assert (sim.space.flags[after[:512]] == FILE | REFERENCED).all()  # the new PTE is accessible
    (event,) = result.events
    assert np.array_equal(event.freed, before[:512])
    assert np.array_equal(event.allocated, after[:512])
    assert event.order == 0
    assert_conserved(sim)


def test_accesses_are_served_from_the_new_frames() -> None:
    sim = machine(512)
    sim = SimulatedMachine(
        sim.topology, replace(sim.spec, processes=(replace(sim.spec.processes[0], accesses_per_s=1e5),))
    )
    assert sim.run(0, TICK).metrics["accesses_fast"] == 0
    move(sim, slice(0, 512))
    assert sim.run(TICK, TICK).metrics["accesses_fast"] == 10_000


def test_512_pages_take_0_56_ms() -> None:
    assert move(machine(), slice(0, 512)).busy_ns == 3200 + 512 * 1090 == 561_280


@pytest.mark.parametrize(
    ("sizes", "ends"),
    [
        ([1] * 512, [512]),
        ([1] * 513, [512, 513]),
        ([512, 512], [1, 2]),
        ([1, 512, 1], [2, 3]),
        ([256, 128, 512, 1], [3, 4]),
        ([], []),
    ],
)
def test_a_round_closes_with_the_folio_that_reaches_512_pages(sizes: list[int], ends: list[int]) -> None:
    members = np.arange(len(sizes))
    cut = rounds(members, np.array(sizes, dtype=np.int64))
    assert [int(part[-1]) + 1 for part in cut] == ends
    assert np.array_equal(np.concatenate([members[:0], *cut]), members)


def test_each_round_costs_its_fixed_part() -> None:
    assert move(machine(), slice(0, 513)).busy_ns == 2 * 3200 + 513 * 1090
    assert move(machine(1024, order=9), slice(0, 2)).busy_ns == 2 * 3200 + 1024 * 1090


def test_shared_executables_are_refused_only_where_the_vma_is_known() -> None:
    sim = machine()
    sim.space.flags[sim.space.frame_of[:3]] = [FILE | EXEC_SHARED, EXEC_SHARED, FILE]
    result = move(sim, [0, 1, 2])
    assert result.status.tolist() == [S.EACCES, S.MOVED, S.MOVED]
    assert result.reasons == {"EACCES: shared executable": 1}
    assert move(sim, [0], has_vma=False).status.tolist() == [S.MOVED]


def test_dirty_file_pages_are_refused_and_dirty_swapbacked_ones_pass() -> None:
    sim = machine()
    sim.space.flags[sim.space.frame_of[:3]] = [FILE | DIRTY, DIRTY, FILE]
    result = move(sim, [0, 1, 2])
    assert result.status.tolist() == [S.EAGAIN, S.MOVED, S.MOVED]
    assert result.reasons == {"EAGAIN: dirty file page": 1}
    assert result.n_no_room == 0


def test_target_must_be_balanced_and_kswapd_is_woken() -> None:
    # Free must exceed high (96) + 1 page. 97 are free: no; 98: yes.
    sim = machine(topology=small_target(97))
    result = move(sim, [0, 1])
    assert result.status.tolist() == [S.EAGAIN, S.EAGAIN]
    assert result.reasons == {"EAGAIN: target not balanced": 2}
    assert result.n_no_room == 2
    assert result.busy_ns == 0.0
    assert move(machine(topology=small_target(98)), [0, 1]).status.tolist() == [S.MOVED, S.MOVED]


@pytest.mark.parametrize("tiering_mode", [True, False])
def test_kswapd_is_woken_only_in_memory_tiering_mode(tiering_mode: bool) -> None:
    process = ProcessSpec("app", 32_768 - 80, (0,), 1.0, ((0, 1.0),))
    faults = HintFaultSpec(scan_period_ns=0, only_lower_tier=tiering_mode)
    other = replace(process, n_pages=10, placement=((2, 1.0),))
    sim = SimulatedMachine(tiered(), MachineSpec((process, other), faults))
    frames = sim.space.frame_of[-10:].astype(np.int64)
    SimulatedMigrator(sim).migrate(0, sim.page_map.pfn_of_flat(frames), np.ones(10, dtype=np.int64))
    assert sim.run(0, TICK).metrics["demoted_pages"] == (33 if tiering_mode else 0)


def test_a_batch_sees_the_free_memory_before_it_and_the_next_one_what_is_left() -> None:
    # 108 free: the first batch of 40 passes (108 > 97) although it leaves 68, the next is refused.
    sim = machine(topology=small_target(108))
    assert not move(sim, slice(0, 40)).status.any()
    assert sim.frames.free_pages(0) == 68
    assert set(move(sim, slice(40, 80)).status.tolist()) == {S.EAGAIN}


def test_huge_folios_need_more_room_than_small_ones() -> None:
    sim = machine(1024, order=9, topology=small_target(512 + 96))
    assert move(sim, [0]).reasons == {"EAGAIN: target not balanced": 1}
    assert not move(machine(1024, order=9, topology=small_target(512 + 97)), [0]).status.any()


def test_no_free_page_ends_the_call_after_moving_what_was_unmapped() -> None:
    # Prepared with 108 free; 108 - 64 (min) = 44 can be allocated.
    sim = machine(topology=small_target(108))
    result = move(sim, slice(0, 600))
    assert result.status.tolist() == [S.MOVED] * 44 + [S.ENOMEM] * 556
    assert result.reasons == {
        "ENOMEM: no free page on the target": 1,
        "ENOMEM: not reached, the call ended": 555,
    }
    assert result.n_no_room == 556
    assert result.busy_ns == 3200 + 44 * 1090  # the second round never began
    assert sim.frames.free_pages(0) == MARKS.min
    assert_conserved(sim)


def test_a_round_that_gets_no_page_at_once_costs_nothing() -> None:
    # 44 can be allocated; the folio that follows gets none, and nothing of its round is unmapped or flushed.
    sim = machine(topology=small_target(108))
    migrator = SimulatedMigrator(sim)
    frames = sim.space.frame_of[:100].astype(np.int64)
    for frame in frames.tolist():
        assert migrator.prepare(frame, 0) == 0
    assert migrator.migrate_isolated(0, frames[:44]).busy_ns == 3200 + 44 * 1090
    result = migrator.migrate_isolated(0, frames[44:])
    assert result.reasons == {
        "ENOMEM: no free page on the target": 1,
        "ENOMEM: not reached, the call ended": 55,
    }
    assert (result.busy_ns, result.n_rounds, result.n_passes) == (0.0, 1, 0)
    assert_conserved(sim)


def test_isolation_and_copy_failures() -> None:
    sim = machine(cost=MigrationCostSpec(isolation_failure_share=0.25, copy_failure_share=0.5))
    result = move(sim, slice(0, 4096))
    refused = result.reasons
    assert set(refused) == {"EAGAIN: isolation failed", "EAGAIN: copy failed"}
    assert refused["EAGAIN: isolation failed"] == pytest.approx(1024, rel=0.15)
    assert refused["EAGAIN: copy failed"] == pytest.approx(1536, rel=0.15)
    moved = int((result.status == S.MOVED).sum())
    assert moved == 4096 - sum(refused.values())
    n_rounds = -(-(4096 - refused["EAGAIN: isolation failed"]) // 512)
    # What fails in the copy has been unmapped, too.
    assert result.busy_ns == n_rounds * 3200 + (moved + refused["EAGAIN: copy failed"]) * 1090
    assert (result.n_rounds, result.n_passes) == (n_rounds, 10 * n_rounds)


@pytest.mark.parametrize(("lasts", "n_passes"), [(0.0, 2), (0.5, 10), (1.0, 10)])
def test_an_extra_reference_may_be_gone_in_a_later_pass(lasts: float, n_passes: int) -> None:
    cost = MigrationCostSpec(copy_failure_share=1.0, copy_failure_lasts_share=lasts)
    sim = machine(cost=cost)
    free = sim.frames.free_pages(0)
    result = move(sim, slice(0, 512))
    moved = int((result.status == S.MOVED).sum())
    assert result.n_passes == pytest.approx(n_passes, abs=1 if lasts == 0.5 else 0)
    # Of 512, a half has it still in each pass after the first: one after nine of them.
    assert moved == {0.0: 512, 0.5: pytest.approx(511, abs=3), 1.0: 0}[lasts]
    assert sim.frames.free_pages(0) == free - moved
    assert result.busy_ns == 3200 + 512 * 1090
    assert sum(len(event.allocated) for event in result.events) == moved
    assert_conserved(sim)


def test_one_folio_twice_in_a_batch_is_isolated_once() -> None:
    sim = machine()
    result = move(sim, [5, 5, 6])
    assert result.status.tolist() == [S.MOVED, S.EAGAIN, S.MOVED]
    assert result.reasons == {"EAGAIN: isolation failed": 1}
    assert_conserved(sim)


def test_gone_folios_and_pages_at_home() -> None:
    sim = machine()
    head = int(sim.page_map.pfn_of_flat(int(sim.space.frame_of[0])))
    free = int(sim.page_map.pfn_of_flat(int(sim.frames.free_frames(2)[0])))
    pfns = np.array([0, free, head, head], dtype=np.int64)  # a hole, a free frame, a wrong size, right
    result = SimulatedMigrator(sim).migrate(2, pfns, np.array([1, 1, 512, 1]))
    assert result.status.tolist() == [S.ENOENT] * 4
    assert result.reasons == {"ENOENT: folio is gone": 3, "ENOENT: already on the target": 1}


def test_checks_come_in_the_kernels_order() -> None:
    """One folio that fails everything is refused for the first reason; lifting it shows the next."""
    sim = machine(
        topology=small_target(97),
        cost=MigrationCostSpec(isolation_failure_share=1.0, copy_failure_share=1.0),
    )
    frame = int(sim.space.frame_of[0])
    sim.space.flags[frame] = FILE | DIRTY | EXEC_SHARED
    seen = [move(sim, [0]).reasons]
    sim.space.flags[frame] = FILE | DIRTY
    seen.append(move(sim, [0]).reasons)
    sim.space.flags[frame] = FILE
    seen.append(move(sim, [0]).reasons)
    roomy = machine(cost=sim.spec.cost)
    seen.append(move(roomy, [0]).reasons)
    copies = machine(cost=MigrationCostSpec(copy_failure_share=1.0))
    seen.append(move(copies, [0]).reasons)
    assert [next(iter(reasons)) for reasons in seen] == [
        "EACCES: shared executable",
        "EAGAIN: dirty file page",
        "EAGAIN: target not balanced",
        "EAGAIN: isolation failed",
        "EAGAIN: copy failed",
    ]


def test_an_empty_batch_does_nothing() -> None:
    none = np.empty(0, dtype=np.int64)
    result = SimulatedMigrator(machine()).migrate(0, none, none)
    assert len(result.status) == 0
    assert (result.busy_ns, result.events, result.reasons) == (0.0, (), {})
