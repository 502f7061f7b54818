"""A topology as plain JSON values, without loss: what a snapshot keeps of the machine."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.documents import items, number, table, text, whole, wholes
from gpuscan.base.errors import TopologyError
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.topology.layout import PFN_LIMIT
from gpuscan.topology.model import (
    CPU_LIMIT,
    DISTANCE_UNREACHABLE,
    ZONE_NAMES,
    Link,
    LoadedLatency,
    MemoryKind,
    Node,
    Topology,
    Watermarks,
    Zone,
)

_MARKS = ("min", "low", "high", "promo")
_LINK_MIN, _LINK_MAX = 1e-9, 1e18
"""Of nanoseconds, and of bytes per second: beyond these, sums would not be numbers any more."""


def topology_to_dict(topology: Topology) -> dict[str, Any]:
    """Return a topology as dicts, lists, strings and numbers."""
    return {
        "name": topology.name,
        "nodes": [
            {
                "nid": node.nid,
                "kind": node.kind.value,
                "tier": node.tier,
                "cpus": list(node.cpus),
                "zones": [
                    {
                        "name": zone.name,
                        "present": [list(pfns) for pfns in zone.present],
                        "managed_pages": zone.managed_pages,
                        "watermarks": asdict(zone.watermarks),
                        "lowmem_reserve": list(zone.lowmem_reserve),
                    }
                    for zone in node.zones
                ],
            }
            for node in topology.nodes
        ],
        "distance": topology.distance.tolist(),
        "links": [
            {"initiator": initiator, "memory": memory, **_link_to_dict(link)}
            for (initiator, memory), link in topology.links.items()
        ],
    }


def topology_from_dict(document: Any) -> Topology:
    """Return the topology that :func:`topology_to_dict` wrote, or might have: the document may be anybody's.

    Raises:
        TopologyError: a key is missing or of the wrong type, or the machine contradicts itself.
    """
    try:
        found = table(document, "the topology", ("name", "nodes", "distance", "links"))
        nodes = tuple(_node(node) for node in items(found["nodes"], "nodes", N_NODES_MAX))
        _check_cpus(nodes)
        topology = Topology(
            name=text(found["name"], "name"),
            nodes=nodes,
            distance=_distance(found["distance"], len(nodes)),
            links=_links(found["links"]),
        )
    except ValueError as error:
        raise TopologyError(f"the stored topology is damaged ({error}); capture the machine again") from None
    _ = topology.page_map  # refuses ranges that overlap
    return topology


def _node(document: Any) -> Node:
    node = table(document, "a node", ("nid", "kind", "tier", "cpus", "zones"))
    zones = tuple(_zone(zone) for zone in items(node["zones"], "zones", len(ZONE_NAMES)))
    if len({zone.name for zone in zones}) != len(zones):
        raise ValueError("a node has a zone twice")
    return Node(
        nid=whole(node["nid"], 0, N_NODES_MAX - 1, "nid"),
        kind=MemoryKind(text(node["kind"], "kind")),
        tier=whole(node["tier"], 0, N_NODES_MAX - 1, "tier"),
        cpus=tuple(wholes(node["cpus"], 0, CPU_LIMIT - 1, "cpus")),
        zones=zones,
    )


def _zone(document: Any) -> Zone:
    zone = table(document, "a zone", ("name", "present", "managed_pages", "watermarks", "lowmem_reserve"))
    present = tuple(_range(pfns) for pfns in items(zone["present"], "present"))
    if any(start < end for (_, end), (start, _) in pairwise(present)):
        raise ValueError("present ranges do not ascend")
    n_present = sum(end - start for start, end in present)
    marks = table(zone["watermarks"], "watermarks", _MARKS)
    reserve = wholes(zone["lowmem_reserve"], 0, PFN_LIMIT, "lowmem_reserve", len(ZONE_NAMES))
    return Zone(
        name=text(zone["name"], "the name of a zone"),
        present=present,
        managed_pages=whole(zone["managed_pages"], 0, n_present, "managed_pages"),
        watermarks=Watermarks(*(whole(marks[mark], 0, PFN_LIMIT, mark) for mark in _MARKS)),
        lowmem_reserve=tuple(reserve),
    )


def _range(pfns: Any) -> tuple[int, int]:
    start, end = wholes(pfns, 0, PFN_LIMIT, "present", 2)
    if start >= end:
        raise ValueError(f"the present range [{start}, {end}] is empty")
    return start, end


def _check_cpus(nodes: Sequence[Node]) -> None:
    cpus = [cpu for node in nodes for cpu in node.cpus]
    if len(set(cpus)) != len(cpus):
        raise ValueError("a CPU is named twice")


def _distance(rows: Any, n_nodes: int) -> NDArray[np.uint8]:
    """Return the distances; how many there should be, :class:`Topology` says."""
    found = [wholes(row, 0, DISTANCE_UNREACHABLE, "distance") for row in items(rows, "distance", N_NODES_MAX)]
    if any(len(row) != len(found) for row in found):
        raise ValueError(f"distance is not of {n_nodes} rows of {n_nodes}")
    return np.array(found, dtype=np.uint8).reshape(len(found), len(found))


def _link_to_dict(link: Link) -> dict[str, Any]:
    """Return a link; without the key ``loaded``, which earlier versions do not know, where it has none."""
    return {name: value for name, value in asdict(link).items() if value is not None}


def _links(documents: Any) -> dict[tuple[int, int], Link]:
    links = {}
    for document in items(documents, "links", N_NODES_MAX * N_NODES_MAX):
        known = ("initiator", "memory", "latency_ns", "bandwidth_bytes_per_s")
        is_loaded = "loaded" in table(document, "a link")
        link = table(document, "a link", (*known, "loaded") if is_loaded else known)
        pair = tuple(whole(link[end], 0, N_NODES_MAX - 1, end) for end in ("initiator", "memory"))
        links[pair[0], pair[1]] = Link(
            number(link["latency_ns"], _LINK_MIN, _LINK_MAX, "latency_ns"),
            number(link["bandwidth_bytes_per_s"], _LINK_MIN, _LINK_MAX, "bandwidth_bytes_per_s"),
            _loaded(link["loaded"]) if is_loaded else None,
        )
    return links


def _loaded(document: Any) -> LoadedLatency:
    loaded = table(document, "loaded", ("queue_ns", "capacity_bytes_per_s"))
    return LoadedLatency(
        number(loaded["queue_ns"], _LINK_MIN, _LINK_MAX, "queue_ns"),
        number(loaded["capacity_bytes_per_s"], _LINK_MIN, _LINK_MAX, "capacity_bytes_per_s"),
    )
