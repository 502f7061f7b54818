"""From page flags to the frames a simulated machine starts from."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gpuscan.records.page_flags import NO_PAGE, Kpf, bits
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.captured import FrameBit
from gpuscan.snapshot.folios import captured_frames, hot_on_lower_tiers
from gpuscan.snapshot.snapshot import Snapshot
from gpuscan.topology import Topology
from hosts import HOST
from machines import node, tiered

LRU = bits(Kpf.LRU)


@pytest.mark.parametrize(
    ("word", "bit"),
    [
        (LRU, FrameBit.LRU),
        (LRU | bits(Kpf.ANON), FrameBit.LRU | FrameBit.SWAPBACKED),  # after MADV_FREE
        (LRU | bits(Kpf.SWAPBACKED), FrameBit.LRU | FrameBit.SWAPBACKED),
        (LRU | bits(Kpf.DIRTY, Kpf.REFERENCED), FrameBit.LRU | FrameBit.DIRTY | FrameBit.REFERENCED),
        (LRU | bits(Kpf.SLAB, Kpf.DIRTY), FrameBit(0)),
        (bits(Kpf.BUDDY), FrameBit.FREE),
        (bits(Kpf.RESERVED), FrameBit(0)),
        (np.uint64(0), FrameBit(0)),
        (NO_PAGE, FrameBit(0)),
    ],
)
def test_one_page(word, bit):
    flags = np.full(SECTION_PAGES, NO_PAGE)
    flags[7] = word
    assert captured_frames(snapshot(flags)).flags[7] == bit


def snapshot(flags):
    topology = Topology("one", (node(0, (0, SECTION_PAGES), cpus=(0,)),), np.array([[10]], dtype=np.uint8))
    counts = np.zeros(SECTION_PAGES, dtype=np.uint32)
    return Snapshot(topology, flags, counts, "6.18", 250, False, "2026-01-01T00:00:00+00:00")


def test_a_large_folio_is_a_head_and_tails():
    flags = np.full(SECTION_PAGES, bits(Kpf.BUDDY))
    # Since v6.10 tails show the folio's flags.
    flags[64:80] = LRU | bits(Kpf.ANON, Kpf.ACTIVE, Kpf.COMPOUND_TAIL)
    flags[64] = LRU | bits(Kpf.ANON, Kpf.ACTIVE, Kpf.COMPOUND_HEAD)
    frames = captured_frames(snapshot(flags))
    assert frames.flags[64] == FrameBit.LRU | FrameBit.SWAPBACKED
    assert (frames.flags[65:80] == FrameBit.TAIL).all()
    assert frames.order[64] == 4
    assert np.flatnonzero(frames.hot).tolist() == [64]
    assert (np.delete(frames.flags, np.s_[64:80]) == FrameBit.FREE).all()


def test_the_captured_host():
    host = Snapshot.read(HOST)
    found = host.frames()
    frames = captured_frames(host, found)
    free = sum(zone.pages["free"] for zone in host.zone_pages(found))
    assert ((frames.flags & FrameBit.FREE) != 0).sum() == free
    assert ((frames.flags & FrameBit.LRU) != 0).sum() == found.eligible.sum()
    n_tails = int(found.n_pages_of.sum()) - int(found.eligible.sum())
    assert (frames.flags == FrameBit.TAIL).sum() == n_tails > 0


def test_hot_folios_are_recorded_from_the_lower_tier_only():
    topology = tiered()  # nodes 0 and 1 on top, 2 is nearest to 0, 3 to 1
    flags = np.full(topology.page_map.n_pages, LRU)
    heads = np.array([start + 5 for start in range(0, len(flags), SECTION_PAGES)])
    flags[heads] |= bits(Kpf.REFERENCED)
    machine = Snapshot(
        topology,
        flags,
        np.zeros(len(flags), dtype=np.uint32),
        "6.18",
        250,
        False,
        "2026-01-01T00:00:00+00:00",
    )
    frames = machine.frames()
    starts = [zone.present[0][0] for _, zone in topology.zones]
    produced = hot_on_lower_tiers(machine, frames)
    assert produced.pfns.tolist() == [starts[2] + 5, starts[3] + 5]
    assert produced.nids.tolist() == [0, 1]
    assert hot_on_lower_tiers(machine, frames, target_nid=1).nids.tolist() == [1, 1]

    away = topology.distance.copy()
    away[2, :2] = 255
    cut_off = dataclasses.replace(machine, topology=dataclasses.replace(topology, distance=away))
    assert hot_on_lower_tiers(cut_off, frames).nids.tolist() == [1]
