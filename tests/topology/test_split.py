"""One node into two: nothing is lost, the cut lies between sections, and the flat index stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.base.errors import TopologyError
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.topology import MemoryKind, Node, Topology, Watermarks, Zone
from gpuscan.topology.serialize import topology_from_dict, topology_to_dict
from gpuscan.topology.split import split_cxl
from machines import node, tiered

SELF = np.array([[10]], dtype=np.uint8)


def host(dma_pages=4000, n_dma32=6, n_normal=10):
    """Return a one-node machine shaped like a PC: a DMA zone that shares section 0, a hole below 4 GiB."""
    dma32_end = n_dma32 * SECTION_PAGES
    normal_start = 2 * dma32_end
    zones = (
        Zone(
            "DMA", ((1, 159), (256, dma_pages)), dma_pages - 300, Watermarks(5, 7, 9, 11), (0, 30, 80, 80, 80)
        ),
        Zone("DMA32", ((dma_pages, dma32_end),), 190_001, Watermarks(101, 203, 305, 407), (0, 0, 50, 50, 50)),
        Zone(
            "Normal",
            ((normal_start, normal_start + n_normal * SECTION_PAGES),),
            320_000,
            Watermarks(300, 400, 500, 600),
        ),
    )
    return Topology("pc", (Node(0, MemoryKind.DRAM, 0, (0, 1), zones),), SELF)


def test_the_upper_half_of_a_pc():
    split = split_cxl(host(), 0.5)
    lower, upper = split.nodes
    assert (lower.cpus, lower.tier, lower.kind) == ((0, 1), 0, MemoryKind.DRAM)
    assert (upper.nid, upper.cpus, upper.tier, upper.kind) == (1, (), 1, MemoryKind.CXL)
    assert split.distance.tolist() == [[10, 20], [20, 10]]
    # 16 sections less the hole of 97 pages and PFN 0: the upper 8 are all in Normal.
    assert [zone.name for zone in lower.zones] == ["DMA", "DMA32", "Normal"]
    assert [zone.present for zone in upper.zones] == [((14 * SECTION_PAGES, 22 * SECTION_PAGES),)]
    assert upper.zones[0].managed_pages == 256_000
    assert upper.zones[0].watermarks == Watermarks(240, 320, 400, 480)
    assert split.promotion_target(1) == 0
    assert split.demotion_target(0) == 1


def test_lowmem_reserve_shrinks_with_the_memory_it_protects():
    split = split_cxl(host(), 0.5)
    dma, dma32, normal = split.nodes[0].zones
    assert dma32.lowmem_reserve == (0, 0, 10, 10, 10)  # Normal went from 320,000 to 64,000 pages
    assert dma.lowmem_reserve == (0, 30, 80 * 254_001 // 510_001, 39, 39)
    assert normal.lowmem_reserve == (0, 0, 0, 0, 0)


def test_the_share_can_be_of_the_pages_in_use():
    machine = host()
    in_use = np.zeros(machine.page_map.n_sections, dtype=np.int64)
    in_use[1:5] = 1000  # all in DMA32; the upper machine is not in use
    split = split_cxl(machine, 0.5, in_use)
    assert split.nodes[1].zones[0].present[0][0] == 2 * SECTION_PAGES
    assert split.nodes[0].zones[1].managed_pages == round(190_001 / 2)
    assert split.nodes[1].zones[1] == machine.nodes[0].zones[2]


@settings(max_examples=60, deadline=None)
@given(
    st.floats(0.001, 0.999),
    st.integers(2, 5000),
    st.integers(1, 8),
    st.integers(1, 12),
    st.data(),
)
def test_nothing_is_lost_in_a_split(share, dma_pages, n_dma32, n_normal, data):
    machine = host(max(dma_pages, 400), n_dma32, n_normal)
    weights = data.draw(
        st.lists(
            st.integers(1, SECTION_PAGES),
            min_size=machine.page_map.n_sections,
            max_size=machine.page_map.n_sections,
        )
    )
    split = split_cxl(machine, share, np.array(weights))
    before, after = machine.page_map, split.page_map
    assert (before.section_pfn == after.section_pfn).all()
    assert (before.present_bits() == after.present_bits()).all()
    for whole in machine.nodes[0].zones:
        parts = [zone for _, zone in split.zones if zone.name == whole.name]
        assert sum(zone.managed_pages for zone in parts) == whole.managed_pages
        for mark in ("min", "low", "high", "promo"):
            assert sum(getattr(zone.watermarks, mark) for zone in parts) == getattr(whole.watermarks, mark)
        for zone in parts:
            marks = zone.watermarks
            assert 0 <= marks.min <= marks.low <= marks.high <= marks.promo
    boundary = min(zone.present[0][0] for zone in split.nodes[1].zones)
    assert boundary % SECTION_PAGES == 0
    assert max(zone.present[-1][1] for zone in split.nodes[0].zones) <= boundary
    got = sum(weights[i] for i in np.flatnonzero(after.section_nid == 1)) / sum(weights)
    # Section 0 stands twice, so a step is at most two sections' weights.
    assert abs(got - share) <= 2 * SECTION_PAGES / sum(weights)


@pytest.mark.parametrize("share", [0.0, 1.0, -0.5, 2.0, float("nan")])
def test_a_share_that_leaves_a_side_empty_is_refused(share):
    with pytest.raises(TopologyError, match="give a share between 0% and 100%"):
        split_cxl(host(), share)


def test_a_machine_of_one_section_cannot_be_split():
    machine = Topology("tiny", (node(0, (0, SECTION_PAGES), cpus=(0,)),), SELF)
    with pytest.raises(TopologyError, match="capture a larger machine"):
        split_cxl(machine, 0.5)


def test_a_machine_with_several_nodes_is_refused():
    with pytest.raises(TopologyError, match="has 4; leave the split out"):
        split_cxl(tiered(), 0.5)


def test_a_topology_survives_being_written_down():
    for machine in (tiered(), host(), split_cxl(host(), 0.3)):
        again = topology_from_dict(topology_to_dict(machine))
        assert (again.name, again.nodes, again.links) == (machine.name, machine.nodes, machine.links)
        assert (again.distance == machine.distance).all()


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda d: d.pop("distance"), "lacks the key 'distance'"),
        (lambda d: d["nodes"][0].pop("tier"), "lacks the key 'tier'"),
        (lambda d: d["nodes"][0].update(kind="tape"), "'tape' is not a valid MemoryKind"),
        (lambda d: d.update(nodes=7), "is damaged"),
        (lambda d: d.update(distance=[[300]]), "is damaged"),
        (
            lambda d: d["nodes"][0]["zones"][2].update(present=[[0, 900]]),
            "managed_pages is 320000, not",
        ),
        (lambda d: d["nodes"][0]["zones"][0].update(present=[[0, 900000]]), "is in two zones"),
    ],
)
def test_a_damaged_stored_topology_is_named(damage, says):
    document = topology_to_dict(host())
    damage(document)
    with pytest.raises(TopologyError, match=says):
        topology_from_dict(document)
