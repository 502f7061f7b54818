"""Declares the tiers of nodes, where a machine has its slow memory in the tier of its DRAM."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

from gpuscan.base.errors import TopologyError
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.topology.model import MemoryKind, Topology


def with_tiers(topology: Topology, tiers: Mapping[int, int]) -> Topology:
    """Return ``topology`` with some nodes in other tiers.

    A GPU's memory that is put into a tier is taken for memory like any other: its kind is DRAM from then on.

    Args:
        topology: any machine.
        tiers: by nid; 0 is the fastest.

    Raises:
        TopologyError: there is no such node, or no such tier.
    """
    for nid, tier in tiers.items():
        topology.node(nid)
        if not 0 <= tier < N_NODES_MAX:
            raise TopologyError(f"tier {tier} of node {nid} is none; give one from 0 to {N_NODES_MAX - 1}")
    nodes = tuple(
        dataclasses.replace(
            node,
            tier=tiers[node.nid],
            kind=MemoryKind.DRAM if node.kind is MemoryKind.GPU else node.kind,
        )
        if node.nid in tiers
        else node
        for node in topology.nodes
    )
    return dataclasses.replace(topology, nodes=nodes) if tiers else topology


def has_lower_tier(topology: Topology) -> bool:
    """Whether any memory is below the top tier, so that there is something to promote."""
    return any(node.present_pages and not topology.is_top_tier(node.nid) for node in topology.nodes)


def tier_options(topology: Topology) -> str:
    """Return the ``--tier`` options that give a machine of one tier a lower one; empty where none can.

    These are the nodes without CPUs. A tier that has memory with CPUs next to it is a top tier, whatever its
    number (:attr:`Topology.top_tier`); where no node has both, all but the first node can be lower.
    """
    with_memory = [node for node in topology.nodes if node.present_pages]
    near = [node for node in with_memory if node.cpus] or with_memory[:1]
    lower = max((node.tier for node in near), default=0) + 1
    return " ".join(f"--tier {node.nid}={lower}" for node in with_memory if node not in near)


def lower_tier_remedy(topology: Topology, *, is_captured: bool) -> str:
    """Say how a machine whose memory is one tier gets a lower one, as the end of a sentence.

    Args:
        topology: the machine.
        is_captured: whether it is a snapshot, which ``--split-cxl`` can divide.
    """
    n_nodes = sum(1 for node in topology.nodes if node.present_pages)
    options = tier_options(topology)
    if options:
        return f"give {options} to declare the memory without CPUs a lower tier"
    if n_nodes == 1 and len(topology.nodes) == 1 and is_captured:
        return "give --split-cxl 50% to declare the upper half of its PFNs CXL memory"
    return "all of it has CPUs next to it; give a machine that has slower memory, such as two-socket-cxl"
