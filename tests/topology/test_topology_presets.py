"""Presets: shapes, sizes, and the kernel's own figures for zones."""

from __future__ import annotations

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscan.base.errors import InputError, TopologyError
from gpuscan.topology.layout import PlannedNode, PlannedZone, complete, min_free_kbytes, watermarks
from gpuscan.topology.model import DISTANCE_UNREACHABLE, MemoryKind, Watermarks
from gpuscan.topology.presets import PRESETS, preset
from gpuscan.topology.resolve import resolve_topology

GIB = 1 << 30
MIB = 1 << 20


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_machine_of_its_size(name):
    topology = preset(name)
    assert topology.name == name
    assert len(topology.nodes) == PRESETS[name].n_nodes
    # 98 pages below 1 MiB are not RAM.
    assert topology.memory_bytes == PRESETS[name].memory_bytes - 98 * 4096
    assert topology.page_map.n_present_pages * 4096 == topology.memory_bytes


@given(
    name=st.sampled_from([name for name in PRESETS if name != "cxl-pool"]),
    n_pages=st.integers(8 * 32768, 1 << 34),
)
def test_any_size_is_used_to_the_page(name, n_pages):
    topology = preset(name, n_pages * 4096 + 4095)
    assert sum(node.present_pages for node in topology.nodes) == n_pages - 98
    # Whole sections everywhere but on node 0.
    assert all(node.present_pages % 32768 == 0 for node in topology.nodes[1:])
    assert all(node.present_pages for node in topology.nodes)


@pytest.mark.parametrize(
    ("name", "least"),
    [
        ("single", 128 * MIB),
        ("two-socket", 256 * MIB),
        ("two-socket-cxl", 512 * MIB),
        ("eight-socket", GIB),
        ("cxl-pool", 144 * GIB),
    ],
)
def test_too_small_names_the_minimum_and_the_minimum_works(name, least):
    assert all(node.present_pages for node in preset(name, least).nodes)
    said = f"{least // GIB} GiB" if least >= GIB else f"{least // MIB} MiB"
    with pytest.raises(TopologyError, match=f"is too small for topology '{name}'; give at least {said}$"):
        preset(name, least - 4096)


def test_too_large_for_52_bit_addresses():
    with pytest.raises(TopologyError, match="52-bit"):
        preset("two-socket", 1 << 52)
    topology = preset("two-socket", (1 << 52) - (1 << 40))
    assert topology.nodes[-1].zones[-1].present[-1][1] <= 1 << 40


def test_x86_memory_map_of_node_0():
    zones = {zone.name: zone for zone in preset("single", 8 * GIB).nodes[0].zones}
    assert zones["DMA"].present == ((1, 0x9F), (0x100, 0x1000))
    assert zones["DMA"].managed_pages == 3840
    assert zones["DMA32"].present == ((0x1000, 0xC0000),)
    assert zones["Normal"].present == ((0x100000, 0x100000 + (5 * GIB >> 12)),)


def test_nodes_ascend_with_holes_between_and_expanders_are_movable():
    topology = preset("two-socket-cxl", 16 * GIB)
    assert [node.kind for node in topology.nodes] == [MemoryKind.DRAM] * 2 + [MemoryKind.CXL] * 2
    assert [node.tier for node in topology.nodes] == [0, 0, 1, 1]
    assert [bool(node.cpus) for node in topology.nodes] == [True, True, False, False]
    assert [[zone.name for zone in node.zones] for node in topology.nodes] == [
        ["DMA", "DMA32", "Normal"],
        ["Normal"],
        ["Movable"],
        ["Movable"],
    ]
    page_map = topology.page_map
    assert (np.diff(page_map.section_nid) >= 0).all()
    cxl_start, dram_end = page_map.extent_pfn_start[-2], page_map.extent_pfn_end[-3]
    assert cxl_start > dram_end
    assert [topology.demotion_target(nid) for nid in range(4)] == [2, 3, None, None]
    assert [topology.promotion_target(nid) for nid in range(4)] == [0, 1, 0, 1]
    assert topology.links[0, 0].latency_ns < topology.links[0, 1].latency_ns < topology.links[0, 2].latency_ns
    assert (0, 3) in topology.links
    assert (2, 0) not in topology.links


def test_eight_sockets_have_the_posted_distances():
    distance = preset("eight-socket").distance
    assert distance[0].tolist() == [10, 12, 17, 17, 19, 19, 19, 19]
    assert distance[6].tolist() == [19, 19, 19, 19, 17, 17, 10, 12]


def test_cxl_pool_is_asymmetric_and_partly_unreachable_and_quick():
    preset("cxl-pool")
    started = time.perf_counter()
    topology = preset("cxl-pool", 64 << 40)
    built_s = time.perf_counter() - started
    assert built_s < 1.0  # 0.07 s on an idle core
    assert (topology.distance != topology.distance.T).any()
    assert (topology.distance == DISTANCE_UNREACHABLE).any()
    assert len(topology.nodes) == 1024
    assert sum(bool(node.cpus) for node in topology.nodes) == 16
    # The first host's own devices are 16 to 78; a device's own host is the nearest.
    assert topology.demotion_target(0) == 16
    assert topology.demotion_target(15) == 1024 - 63
    assert {topology.promotion_target(nid) for nid in range(16, 79)} == {0}
    # Opposite pods: hosts 0 to 3 and the devices of hosts 8 to 11.
    assert topology.distance_between(0, 16 + 63 * 8) == DISTANCE_UNREACHABLE
    assert (0, 16 + 63 * 8) not in topology.links
    for initiator, memory in topology.links:
        assert topology.distance_between(initiator, memory) != DISTANCE_UNREACHABLE


def test_targets_of_a_thousand_nodes_are_quick():
    topology = preset("cxl-pool")
    started = time.perf_counter()
    for node in topology.nodes:
        topology.promotion_target(node.nid)
        topology.demotion_target(node.nid)
    assert time.perf_counter() - started < 2.0  # 0.02 s; a loop over all pairs took minutes


def test_watermarks_are_those_of_a_real_kernel():
    # /proc/zoneinfo and vm.min_free_kbytes of a 24 GiB guest on v6.18, whose Normal zone had
    # 360,448 pages initialised (deferred); khugepaged had raised min_free_kbytes to 67,584.
    managed = [("DMA", 3840), ("DMA32", 772808), ("Normal", 360448), ("Movable", 0), ("Device", 0)]
    assert watermarks(managed, 67584) == [
        Watermarks(57, 71, 85, 99),
        Watermarks(11483, 14353, 17223, 20093),
        Watermarks(5355, 6693, 8031, 9369),
        Watermarks(32, 32, 32, 32),
        Watermarks(0, 0, 0, 0),
    ]


def test_lowmem_reserve_is_that_of_a_real_kernel():
    # "protection:" of the same guest; it prints 1408 = 360448 / 256.
    zones = tuple(
        PlannedZone(name, ((start, start + 1000),), managed_pages=managed)
        for name, start, managed in (("DMA", 0, 3840), ("DMA32", 4096, 772808), ("Normal", 1 << 20, 360448))
    )
    (node,) = complete([PlannedNode(0, MemoryKind.DRAM, 0, (0,), zones)])
    assert [zone.lowmem_reserve for zone in node.zones] == [
        (0, 3018, 4426, 4426, 4426),
        (0, 0, 1408, 1408, 1408),
        (0, 0, 0, 0, 0),
    ]


def test_min_free_kbytes_is_clamped_and_ignores_movable():
    assert min_free_kbytes([("Normal", 1)]) == 128
    # 4 GiB: sqrt(4194304 * 16) = 8192; the table in the kernel's comment says the same.
    assert min_free_kbytes([("Normal", 1 << 20), ("Movable", 1 << 30)]) == 8192
    assert min_free_kbytes([("Normal", 1 << 34)]) == 262144


def test_movable_keeps_a_small_min_but_its_full_steps():
    normal, movable = watermarks([("Normal", 1 << 20), ("Movable", 1 << 20)], 8192)
    assert normal.min == 2048
    assert movable.min == 128
    # 2048 / 4 = 512 against 1048576 * 10 / 10000 = 1048
    assert normal.low - normal.min == movable.low - movable.min == 1048


def test_unknown_names_are_one_sentence():
    with pytest.raises(InputError, match="unknown topology 'nope'; choose one of two-socket-cxl, "):
        preset("nope")


def test_resolve():
    assert resolve_topology("two-socket", GIB).memory_bytes == GIB - 98 * 4096
    assert resolve_topology("host").name == "host"
    for source in ("host", "machine.toml"):
        with pytest.raises(InputError, match="presets only"):
            resolve_topology(source, GIB)
    with pytest.raises(InputError, match="unknown topology"):
        resolve_topology("machine")
    with pytest.raises(InputError, match="a whole number of bytes, not '16GiB'"):
        resolve_topology("two-socket", "16GiB")  # type: ignore[arg-type]
