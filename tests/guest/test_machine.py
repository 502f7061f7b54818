"""What gpuscan reads of the guest: nodes, tiers, targets, every page's flags."""

from __future__ import annotations

import pytest

from gpuscan.snapshot.procfs import capture
from gpuscan.topology.model import MemoryKind
from gpuscan.topology.sysfs import read_host

pytestmark = pytest.mark.guest


def test_nodes_tiers_and_targets() -> None:
    machine = read_host().topology
    nodes = [(node.nid, node.tier, node.cpus, node.kind) for node in machine.nodes]
    dram, cxl = MemoryKind.DRAM, MemoryKind.CXL
    assert nodes == [(0, 0, (0,), dram), (1, 0, (1,), dram), (2, 1, (), cxl), (3, 1, (), cxl)]
    assert [machine.promotion_target(nid) for nid in range(4)] == [0, 1, 0, 1]
    assert [machine.demotion_target(nid) for nid in range(4)] == [2, 3, None, None]


def test_links_are_those_of_the_firmware_tables() -> None:
    links = read_host().topology.links
    assert [links[pair].latency_ns for pair in ((0, 0), (1, 1), (0, 2), (1, 3))] == [100, 100, 400, 400]


def test_a_capture_has_the_flags_of_every_present_page() -> None:
    snapshot = capture()
    assert snapshot.flags.size == snapshot.topology.page_map.n_pages
    assert {node.nid for node in snapshot.topology.nodes} == {0, 1, 2, 3}
