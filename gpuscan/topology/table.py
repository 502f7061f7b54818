"""What there is to say about a machine, as plain data: rows for a table, one JSON document."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpuscan.base.units import PAGE_BYTES
from gpuscan.topology.model import DISTANCE_UNREACHABLE, Link, Topology
from gpuscan.topology.serialize import topology_to_dict

DISTANCE_MATRIX_MAX_NODES = 16
"""Above this a distance matrix tells a reader nothing; :func:`distance_counts` does."""


@dataclass(frozen=True, slots=True)
class NodeRow:
    """One line about a node, or about successive nodes that differ in nothing but their ids.

    Attributes:
        first_nid, last_nid: the nodes, both included.
        kind: ``dram``, ``cxl`` or ``gpu``.
        tier: 0 is the fastest.
        n_cpus: CPUs of each node.
        memory_bytes: present memory of each node.
        zones: zone names, in the kernel's order.
        promotion_target, demotion_target: where pages go from here; None = nowhere.
        latency_ns, bandwidth_bytes_per_s: from the CPUs that reach the node fastest; None = not known.
    """

    first_nid: int
    last_nid: int
    kind: str
    tier: int
    n_cpus: int
    memory_bytes: int
    zones: tuple[str, ...]
    promotion_target: int | None
    demotion_target: int | None
    latency_ns: float | None
    bandwidth_bytes_per_s: float | None


def node_rows(topology: Topology) -> list[NodeRow]:
    """Return one row per node, by nid. A top-tier node has no promotion target."""
    fastest: dict[int, Link] = {}
    for (_, nid), link in topology.links.items():
        if nid not in fastest or link.latency_ns < fastest[nid].latency_ns:
            fastest[nid] = link
    rows = []
    for node in topology.nodes:
        best = fastest.get(node.nid)
        rows.append(
            NodeRow(
                first_nid=node.nid,
                last_nid=node.nid,
                kind=node.kind.value,
                tier=node.tier,
                n_cpus=len(node.cpus),
                memory_bytes=node.present_pages * PAGE_BYTES,
                zones=tuple(zone.name for zone in node.zones),
                promotion_target=None
                if topology.is_top_tier(node.nid)
                else topology.promotion_target(node.nid),
                demotion_target=topology.demotion_target(node.nid),
                latency_ns=None if best is None else best.latency_ns,
                bandwidth_bytes_per_s=None if best is None else best.bandwidth_bytes_per_s,
            )
        )
    return rows


def folded(rows: Sequence[NodeRow]) -> list[NodeRow]:
    """Return the rows with successive nodes that are alike in one: 1,024 nodes fit a screen."""
    merged: list[NodeRow] = []
    for row in rows:
        before = merged[-1] if merged else None
        if before is not None and row == replace(before, first_nid=row.first_nid, last_nid=row.last_nid):
            merged[-1] = replace(before, last_nid=row.last_nid)
        else:
            merged.append(row)
    return merged


def distance_counts(topology: Topology) -> list[tuple[int, int]]:
    """Return every distance between different nodes with how many ordered pairs have it, ascending."""
    between = topology.distance[~np.eye(len(topology.nodes), dtype=np.bool_)]
    values, counts = np.unique(between, return_counts=True)
    return list(zip(values.tolist(), counts.tolist(), strict=True))


def topology_json(topology: Topology) -> dict[str, Any]:
    """Return the machine as JSON values: all of it, and what follows from it.

    Beside what :func:`gpuscan.topology.serialize.topology_to_dict` gives: ``memory_bytes``,
    ``top_tier``, ``n_unreachable_pairs``, and per node ``present_pages``, ``promotion_target``,
    ``demotion_target``.
    """
    document = topology_to_dict(topology)
    for described, row, node in zip(document["nodes"], node_rows(topology), topology.nodes, strict=True):
        described["present_pages"] = node.present_pages
        described["promotion_target"] = row.promotion_target
        described["demotion_target"] = row.demotion_target
    return {
        "memory_bytes": topology.memory_bytes,
        "top_tier": topology.top_tier,
        "n_unreachable_pairs": dict(distance_counts(topology)).get(DISTANCE_UNREACHABLE, 0),
        **document,
    }
