"""Machines of which sizes are known and no zones: each node's memory is laid out, or where its blocks lie."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import TopologyError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.topology.layout import PFN_LIMIT, PlannedNode, PlannedZone, complete, is_hotplugged, place
from gpuscan.topology.model import ZONE_NAMES, Link, MemoryKind, Topology
from gpuscan.topology.ranges import PfnRanges, merge, n_pages

_NO_LOW_MEMORY = ((0, 1),)
"""What is taken below 4 GiB: sizes say nothing of zones and holes there, so all of it is laid out above."""
_NORMAL, _MOVABLE = "Normal", "Movable"

LAID_OUT = (
    "where its memory lies is not said: it is laid out as on a machine described by sizes, so addresses "
    "recorded on it are others"
)


@dataclass(frozen=True, slots=True)
class SizedNode:
    """What is known of a node.

    Attributes:
        nid, kind, tier, cpus: see :class:`gpuscan.topology.model.Node`.
        n_bytes: of its memory that the kernel's allocator has.
        blocks: PFN ranges of its memory by zone name; empty where they are not known.
    """

    nid: int
    kind: MemoryKind
    tier: int
    cpus: tuple[int, ...]
    n_bytes: int
    blocks: Mapping[str, PfnRanges]


def sized_machine(
    name: str,
    nodes: Sequence[SizedNode],
    distance: NDArray[np.uint8],
    links: dict[tuple[int, int], Link],
    place_of: str,
) -> tuple[Topology, list[str]]:
    """Return a machine of nodes of which sizes are known, and what is to be said of it.

    Args:
        name: of the machine.
        nodes: ascending by nid.
        distance, links: between them.
        place_of: what a complaint calls what they were read from.

    Raises:
        TopologyError: no node has memory, or they have more than there can be.
    """
    sizes = {node.nid: node.n_bytes // PAGE_BYTES for node in nodes}
    if not any(sizes.values()):
        raise TopologyError(f"{place_of}: no node has memory; give the machine as it runs")
    if sum(sizes.values()) > PFN_LIMIT // 2 or max(sizes.values()) > PFN_LIMIT // 4:
        raise TopologyError(f"{place_of}: more memory than 52-bit addresses reach; read again")
    where = _blocks(nodes, sizes)
    notes = []
    if where is None:
        notes.append(LAID_OUT)
        placed = place(
            ((sizes[node.nid], is_hotplugged(node.kind, node.cpus)) for node in nodes), _NO_LOW_MEMORY
        )
        zones = {
            node.nid: tuple(PlannedZone(zone.name, zone.present, n_pages(zone.present)) for zone in of_node)
            for node, of_node in zip(nodes, placed, strict=True)
        }
        if any(end > PFN_LIMIT for of_node in zones.values() for zone in of_node for _, end in zone.present):
            raise TopologyError(f"{place_of}: more memory than 52-bit addresses reach; read again")
    else:
        zones = where
    plans = [PlannedNode(node.nid, node.kind, node.tier, node.cpus, zones[node.nid]) for node in nodes]
    return Topology(name, complete(plans), distance, links), notes


def _blocks(
    nodes: Sequence[SizedNode], sizes: Mapping[int, int]
) -> dict[int, tuple[PlannedZone, ...]] | None:
    """Return the zones of each node by its blocks; None where they do not say where all memory is."""
    everything = merge(pfns for node in nodes for ranges in node.blocks.values() for pfns in ranges)
    n_blocks = sum(n_pages(ranges) for node in nodes for ranges in node.blocks.values())
    if n_pages(everything) != n_blocks or (everything and everything[-1][1] > PFN_LIMIT):
        return None  # two nodes have one block
    found = {}
    for node in nodes:
        left = sizes[node.nid]
        present = {name: tuple(ranges) for name, ranges in node.blocks.items() if ranges}
        if left > sum(map(n_pages, present.values())):
            return None
        zones = []
        # Booting takes its part of the lowest zones; the highest have all of theirs.
        for name in reversed([name for name in ZONE_NAMES if name in present]):
            managed = min(left, n_pages(present[name]))
            left -= managed
            zones.append(PlannedZone(name, present[name], managed))
        found[node.nid] = tuple(reversed(zones))
    return found


def by_zone(
    blocks: Sequence[tuple[tuple[int, int], str]], kind: MemoryKind, cpus: Sequence[int]
) -> dict[str, PfnRanges]:
    """Return memory blocks by the zone that the kernel says it is in, or else by the node's kind."""
    otherwise = _MOVABLE if is_hotplugged(kind, cpus) else _NORMAL
    found: dict[str, list[tuple[int, int]]] = {}
    for pfns, name in blocks:
        found.setdefault(name if name in ZONE_NAMES else otherwise, []).append(pfns)
    return {name: merge(ranges) for name, ranges in found.items()}
