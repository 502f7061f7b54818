"""A machine of large folios keeps one entry a slot of frames, and runs as one that keeps one a frame."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from conservation import assert_conserved
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.producers.built_in.hint_faults import HintFaultSource
from gpuscan.sim.loops import REFERENCED, second_chance
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, PatternSpec, ProcessSpec
from machines import tiered

TICK = 100_000_000
HUGE = ProcessSpec(
    "huge",
    90 * 512,
    (0,),
    400.0,
    ((0, 0.6), (2, 0.4)),
    order=9,
    file_share=0.3,
    dirty_share=0.2,
    exec_share=0.1,
)
SINGLE = ProcessSpec("one page", 1, (1,), 1e-6, ((1, 1.0),), pattern=PatternSpec(kind="scan"))
"""Needs single frames, on a node whose pages the scanner leaves alone, and does nothing."""


def run(*processes: ProcessSpec) -> tuple[SimulatedMachine, list[object]]:
    """Promote whatever faults for some ticks, and let kswapd make room."""
    faults = HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=TICK)
    sim = SimulatedMachine(tiered(), MachineSpec(processes, hint_faults=faults, seed=4))
    source, migrator = HintFaultSource(sim), SimulatedMigrator(sim)
    said: list[object] = []
    for tick in range(8):
        sampled = source.sample(tick * TICK, TICK)
        said.append(sampled.metrics)
        for produced in sampled.produced:
            pfns = np.unique(produced.pfns)
            if len(pfns):
                result = migrator.migrate(0, pfns, np.full(len(pfns), 512))
                said.append((result.status.tolist(), result.reasons))
    return sim, said


def test_slots_of_huge_pages_say_what_single_frames_say() -> None:
    slots, said = run(HUGE)
    frames, said_by_frames = run(HUGE, SINGLE)
    assert (slots.space.slot_shift, frames.space.slot_shift) == (9, 0)
    assert len(slots.space.flags) == len(frames.space.flags) >> 9
    n_folios = slots.space.n_folios
    where = slots.space.frame_of.astype(np.int64)
    assert np.array_equal(where, frames.space.frame_of[:n_folios])
    assert np.array_equal(slots.space.flags[where >> 9], frames.space.flags[where])
    for one, other in zip(said, said_by_frames, strict=True):
        if isinstance(one, dict):
            assert isinstance(other, dict)
            same = ("hint_faults", "demoted_pages", "unmapped_folios")
            assert {name: one[name] for name in same} == {name: other[name] for name in same}
        else:
            assert one == other
    moved = [result for result in said if isinstance(result, tuple)]
    assert any(0 in statuses for statuses, _ in moved)
    assert any(reasons for _, reasons in moved), "some were refused"
    assert_conserved(slots)


def test_only_the_first_frame_of_a_slot_has_a_folio() -> None:
    space = SimulatedMachine(tiered(), MachineSpec((HUGE,))).space
    heads = space.frame_of.astype(np.int64)
    assert np.array_equal(space.folios_at(heads), np.arange(space.n_folios))
    assert (space.folios_at(heads + 1) == -1).all()
    assert [space.folio_at(int(heads[3])), space.folio_at(int(heads[3]) + 511)] == [3, -1]


@pytest.mark.parametrize(("start", "sees"), [(0, [0, 512]), (1, [512]), (512, [512]), (513, [])])
def test_the_clock_hand_steps_by_slots_from_anywhere(start: int, sees: list[int]) -> None:
    folio_of, flags = np.array([1, 2, 0], np.uint32), np.array([0, 0, 0], np.uint8)
    victims = np.empty(4, np.int64)
    found, hand = second_chance(start, 1100, 9, folio_of, folio_of.dtype.type(0), flags, victims)
    assert victims[:found].tolist() == sees
    assert hand == 1100
    flags[:] = REFERENCED
    assert second_chance(start, 1100, 9, folio_of, folio_of.dtype.type(0), flags, victims) == (0, 1100)
    assert flags.tolist()[:2] == [REFERENCED * (0 not in sees), REFERENCED * (512 not in sees)]


def test_a_mixed_machine_keeps_single_frames() -> None:
    mixed = SimulatedMachine(tiered(), MachineSpec((replace(HUGE, order=4), HUGE)))
    assert mixed.space.slot_shift == 4
    assert_conserved(mixed)
