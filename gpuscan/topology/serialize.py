"""A topology as plain JSON values, without loss: what a snapshot keeps of the machine."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np

from gpuscan.errors import TopologyError
from gpuscan.topology.model import Link, MemoryKind, Node, Topology, Watermarks, Zone


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
            {"initiator": initiator, "memory": memory, **asdict(link)}
            for (initiator, memory), link in topology.links.items()
        ],
    }


def topology_from_dict(document: Any) -> Topology:
    """Return the topology that :func:`topology_to_dict` wrote.

    Raises:
        TopologyError: a key is missing or of the wrong type, or the machine contradicts itself.
    """
    try:
        topology = Topology(
            name=str(document["name"]),
            nodes=tuple(_node(node) for node in document["nodes"]),
            distance=np.array(document["distance"], dtype=np.uint8),
            links={
                (int(link["initiator"]), int(link["memory"])): Link(
                    float(link["latency_ns"]), float(link["bandwidth_bytes_per_s"])
                )
                for link in document["links"]
            },
        )
    except KeyError as error:
        raise TopologyError(f"the stored topology lacks the key {error}; capture the machine again") from None
    except (TypeError, ValueError, OverflowError) as error:
        raise TopologyError(f"the stored topology is damaged ({error}); capture the machine again") from None
    _ = topology.page_map  # refuses ranges that overlap
    return topology


def _node(document: Any) -> Node:
    return Node(
        nid=int(document["nid"]),
        kind=MemoryKind(document["kind"]),
        tier=int(document["tier"]),
        cpus=tuple(int(cpu) for cpu in document["cpus"]),
        zones=tuple(_zone(zone) for zone in document["zones"]),
    )


def _zone(document: Any) -> Zone:
    marks = document["watermarks"]
    return Zone(
        name=str(document["name"]),
        present=tuple((int(start), int(end)) for start, end in document["present"]),
        managed_pages=int(document["managed_pages"]),
        watermarks=Watermarks(*(int(marks[mark]) for mark in ("min", "low", "high", "promo"))),
        lowmem_reserve=tuple(int(pages) for pages in document["lowmem_reserve"]),
    )
