"""The machine model: contradictions, tiers and targets."""

from __future__ import annotations

import numpy as np
import pytest

from gpuscan.base.errors import TopologyError
from gpuscan.topology.model import Link, MemoryKind, Node, Topology, Watermarks, Zone

MARKS = Watermarks(1, 2, 3, 4)


def node(nid, tier=0, cpus=(0,), pages=100, zone="Normal"):
    zones = (Zone(zone, ((nid * 1000, nid * 1000 + pages),), pages, MARKS),) if pages else ()
    return Node(nid, MemoryKind.DRAM, tier, cpus, zones)


def machine(nodes, distance, links=None):
    return Topology("m", tuple(nodes), np.array(distance, dtype=np.uint8), links or {})


def test_nearest_takes_the_lowest_nid_on_ties_and_nothing_unreachable():
    topology = machine(
        [node(0), node(1), node(2), node(3)],
        [[10, 30, 20, 20], [255, 10, 255, 255], [20, 20, 10, 20], [20, 20, 20, 10]],
    )
    assert topology.nearest(0, [1, 3, 2]) == 2
    assert topology.nearest(0, [1]) == 1
    assert topology.nearest(1, [0, 2, 3]) is None
    assert topology.nearest(0, []) is None
    with pytest.raises(TopologyError, match="has no node 9; it has nodes 0, 1, 2, 3"):
        topology.nearest(0, [9])
    with pytest.raises(TopologyError, match="has no node 9"):
        topology.nearest(9, [0])


def test_targets_over_three_tiers():
    # HBM without CPUs (tier 0), DRAM with CPUs (1), CXL (2), another CXL no way leads to (2).
    topology = machine(
        [node(0, 1), node(1, 0, ()), node(2, 2, ()), node(3, 2, ())],
        [[10, 20, 30, 255], [20, 10, 40, 255], [30, 40, 10, 255], [255, 255, 255, 10]],
    )
    # establish_demotion_targets(): promotion stops at the slowest tier with CPUs.
    assert topology.top_tier == 1
    assert [topology.is_top_tier(nid) for nid in range(4)] == [True, True, False, False]
    assert [topology.demotion_target(nid) for nid in range(4)] == [2, 0, None, None]
    # CPUs come before distance, distance before nothing.
    assert [topology.promotion_target(nid) for nid in range(4)] == [0, 0, 0, None]


def test_nodes_without_memory_are_no_targets_and_make_no_tier():
    topology = machine(
        [node(0, 0, (0,), pages=0), node(1, 1), node(2, 2, ())],
        [[10, 20, 15], [20, 10, 30], [15, 30, 10]],
    )
    assert topology.top_tier == 1
    assert topology.promotion_target(2) == 1
    assert topology.demotion_target(0) == 1
    assert topology.memory_bytes == 200 * 4096


def test_top_tier_without_cpus_is_the_fastest():
    topology = machine([node(0, 3, ()), node(1, 2, ())], [[10, 20], [20, 10]])
    assert topology.top_tier == 2
    assert topology.promotion_target(0) == 1


def test_all_tiers_with_cpus_are_top_tiers():
    topology = machine([node(0, 0), node(1, 1), node(2, 2, ())], [[10, 20, 30], [20, 10, 30], [30, 30, 10]])
    assert topology.top_tier == 1
    assert topology.is_top_tier(1)


def test_distances_go_from_row_to_column():
    topology = machine([node(4), node(7)], [[10, 11], [12, 10]])
    assert (topology.distance_between(4, 7), topology.distance_between(7, 4)) == (11, 12)


@pytest.mark.parametrize(
    ("nodes", "distance", "links", "said"),
    [
        ([], np.zeros((0, 0)), {}, "has no nodes"),
        ([node(1), node(0)], [[10, 20], [20, 10]], {}, "distinct, ascending, 0 to 1023"),
        ([node(0), node(0)], [[10, 20], [20, 10]], {}, "distinct, ascending"),
        ([node(1024)], [[10]], {}, "distinct, ascending"),
        ([node(0), node(1)], [[10]], {}, r"distances are \(1, 1\), give one row"),
        ([node(0), node(1)], [[10, 20], [20, 11]], {}, "to itself must be 10"),
        ([node(0), node(1)], [[10, 9], [20, 10]], {}, "below 10 are reserved"),
        ([node(0, zone="HighMem")], [[10]], {}, "node 0 has the unknown zone 'HighMem'"),
        ([node(0)], [[10]], {(0, 1): Link(1.0, 1.0)}, "link 0 -> 1 names a node that is not there"),
    ],
)
def test_contradictions(nodes, distance, links, said):
    with pytest.raises(TopologyError, match=said):
        machine(nodes, distance, links)


def test_one_pfn_in_two_zones():
    overlapping = Node(1, MemoryKind.DRAM, 0, (), (Zone("Normal", ((50, 60),), 10, MARKS),))
    topology = machine([node(0), overlapping], [[10, 20], [20, 10]])
    with pytest.raises(TopologyError, match=r"^PFN 50 is in two zones"):
        _ = topology.page_map
