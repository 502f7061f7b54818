"""Tables by node in a workload: one node a key, or a list of nodes."""

from __future__ import annotations

import pytest

from gpuscan.base.errors import InputError
from gpuscan.topology.resolve import resolve_topology
from gpuscan.workload.files import Workload, load_workload


def placed(share_by_nodes: str) -> Workload:
    return load_workload("pool-promote", [f"processes.0.placement={{{share_by_nodes}}}"])


def test_a_list_of_nodes_shares_in_equal_parts_in_order() -> None:
    workload = placed('"16-18,20"="80%", 0="20%"')
    assert workload.processes[0].placement == ((16, 0.2), (17, 0.2), (18, 0.2), (20, 0.2), (0, 0.2))


def test_an_interval_holds_for_each_node_of_a_list() -> None:
    workload = load_workload("pool-promote", ['policy.node_intervals={"0-1,4"="1s", 9="2s"}'])
    second = 1_000_000_000
    by_node = ((0, second), (1, second), (4, second), (9, 2 * second))
    assert workload.policy.node_intervals == by_node


@pytest.mark.parametrize(
    ("nodes", "says"),
    [
        ('"3-1"="100%"', "3-1 goes down; write 1-3"),
        ('"0-3"="50%", 2="50%"', "node 2 is named twice"),
        ('"0-"="100%"', "0- = '100%' is not a value for a node"),
        ('"0,,1"="100%"', "is not a value for a node"),
        ('"16-1200"="100%"', "processes.0.placement: .* has no node 1024"),
    ],
)
def test_refuses_lists_that_make_no_sense(nodes: str, says: str) -> None:
    topology = resolve_topology("cxl-pool", 144 << 30)
    with pytest.raises(InputError, match=says):
        placed(nodes).machine_spec(topology)


def test_the_pool_has_a_store_in_each_pod_that_fits_and_reaches_its_hosts() -> None:
    workload = load_workload("pool-promote")
    topology = resolve_topology(workload.topology.machine, workload.topology.memory)
    spec = workload.machine_spec(topology)
    for process in spec.processes:
        on_devices = [nid for nid, _ in process.placement if nid >= 16]
        assert len(on_devices) == 252
        for cpu_nid in process.cpu_nids:
            assert max(topology.distance_between(nid, cpu_nid) for nid in on_devices) <= 44, "its own pod"
    assert len({nid for process in spec.processes for nid, _ in process.placement}) == 1024
