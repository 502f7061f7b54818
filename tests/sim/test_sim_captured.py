"""A machine made of captured frames."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gpuscan.base.errors import InputError
from gpuscan.migrate.simulated import SimulatedMigrator
from gpuscan.producers.catalogue import producer_of
from gpuscan.sim.accessed_bits import ABitSpec
from gpuscan.sim.captured import CapturedFrames, FrameBit, machine_from_frames
from gpuscan.sim.hotness_units import HotnessUnitSpec
from gpuscan.sim.loops import DIRTY, FILE, REFERENCED
from gpuscan.sim.sampler import SamplerSpec
from gpuscan.sim.spec import HintFaultSpec, MachineSpec, PatternSpec, ProcessSpec, ProducerSpec
from machines import tiered

TICK = 100_000_000
PAGES = 32_768
SPEC = MachineSpec(
    (ProcessSpec("any", 1, (0,), 1e6, (), pattern=PatternSpec(hot_access_share=0.9)),),
    HintFaultSpec(scan_bytes=1 << 30, scan_period_ns=TICK),
)


def captured() -> CapturedFrames:
    """Node 0 free but for 1,000 pages of the kernel; node 2: 100 small folios, 4 huge ones, the rest free."""
    flags = np.full(4 * PAGES, FrameBit.FREE, dtype=np.uint8)
    order = np.zeros(4 * PAGES, dtype=np.uint8)
    flags[:1000] = 0
    small = np.arange(2 * PAGES, 2 * PAGES + 200, 2)
    flags[small] = FrameBit.LRU | FrameBit.SWAPBACKED | FrameBit.DIRTY
    flags[small[:10]] = FrameBit.LRU | FrameBit.DIRTY | FrameBit.REFERENCED
    huge = 2 * PAGES + 512 * np.arange(1, 5)
    for head in huge.tolist():
        flags[head : head + 512] = FrameBit.LRU | FrameBit.SWAPBACKED | FrameBit.TAIL
        flags[head] = FrameBit.LRU | FrameBit.SWAPBACKED
        order[head : head + 512] = 9
    hot = np.zeros(4 * PAGES, dtype=np.bool_)
    hot[small[50:60]] = True
    return CapturedFrames(flags, order, hot)


def test_every_lru_folio_becomes_a_virtual_one() -> None:
    frames = captured()
    sim = machine_from_frames(tiered(), frames, SPEC)
    assert [(m.n_folios, m.order) for m in sim.space.mappings] == [(100, 0), (4, 9)]
    heads = np.flatnonzero((frames.flags & FrameBit.LRU != 0) & (frames.flags & FrameBit.TAIL == 0))
    assert sorted(sim.space.frame_of.tolist()) == heads.tolist()
    assert sim.frames.free_pages(0) == PAGES - 1000
    assert sim.frames.free_pages(2) == PAGES - 100 - 4 * 512
    flags = sim.space.flags[sim.space.frame_of]
    assert (flags[:10] == FILE | DIRTY | REFERENCED).all()
    assert not flags[10:].any()  # dirty anonymous memory is like any other
    assert sim.has_large_folios


def test_hot_folios_take_their_share() -> None:
    sim = machine_from_frames(
        tiered(), captured(), replace(SPEC, hint_faults=HintFaultSpec(scan_period_ns=0))
    )
    hot = sim.space.frame_of[50:60]
    out = np.empty(50_000, dtype=np.int64)
    sim.processes[0].pattern.draw(out, 0, 0)
    assert np.isin(sim.space.frame_of[out], hot).mean() == pytest.approx(0.9, abs=0.01)
    assert sim.run(0, TICK).metrics["accesses"] == 100_000


@pytest.mark.parametrize(
    "producer",
    [SamplerSpec(period=1), ABitSpec(walk_period_ns=TICK), HotnessUnitSpec(list_entries=4096)],
)
def test_every_producer_sees_folios_of_several_orders(producer: ProducerSpec) -> None:
    sim = machine_from_frames(tiered(), captured(), replace(SPEC, producer=producer))
    source = producer_of(sim)
    marked = [source.observe(k * TICK, TICK) for k in range(11)]
    pfns = np.concatenate([seen.pfns[seen.wanted] for seen in marked])
    heads = sim.page_map.pfn_of_flat(sim.space.frame_of.astype(np.int64))
    assert set(pfns.tolist()) == set(heads.tolist())  # each takes accesses, and none but the heads is named


def test_its_folios_fault_migrate_and_are_conserved() -> None:
    sim = machine_from_frames(tiered(), captured(), SPEC)
    faults = sim.run(0, TICK).faults
    folios = np.unique(faults.folios)
    assert set(range(50, 60)) <= set(folios.tolist())
    frames = np.sort(sim.space.frame_of[np.r_[50:60, 100:104]].astype(np.int64))
    sizes = 1 << sim.space.orders_of(sim.space.folios_at(frames))
    result = SimulatedMigrator(sim).migrate(0, sim.page_map.pfn_of_flat(frames), sizes)
    assert not result.status.any()
    assert [(len(e.freed), e.order) for e in result.events] == [(10, 0), (1, 9), (1, 9), (1, 9), (1, 9)]
    mine = np.zeros(4 * PAGES, dtype=np.bool_)
    mine[:1000] = True  # the kernel's
    for nid in range(4):
        mine[sim.frames.free_frames(nid)] = True
    for head, order in zip(
        sim.space.frame_of.tolist(), sim.space.orders_of(np.arange(104)).tolist(), strict=True
    ):
        assert not mine[head : head + (1 << order)].any()
        mine[head : head + (1 << order)] = True
    assert mine.all()


def misaligned() -> CapturedFrames:
    order = captured().order.copy()
    order[2 * PAGES + 2] = 9
    return replace(captured(), order=order)


@pytest.mark.parametrize(
    ("frames", "spec", "says"),
    [
        (
            replace(captured(), flags=captured().flags[:-1]),
            SPEC,
            "do not fit the 131072 of topology 'tiered-test'",
        ),
        (replace(captured(), flags=np.zeros(4 * PAGES, np.uint8)), SPEC, "no page on an LRU list"),
        (misaligned(), SPEC, "folio at PFN 163842 is not aligned to its order 9"),
        (captured(), replace(SPEC, processes=()), "give one process"),
    ],
)
def test_refuses_frames_that_make_no_machine(frames: CapturedFrames, spec: MachineSpec, says: str) -> None:
    with pytest.raises(InputError, match=says):
        machine_from_frames(tiered(), frames, spec)
