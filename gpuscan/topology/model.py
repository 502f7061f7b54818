"""The machine as the kernel sees it: nodes, zones, present PFN ranges, distances, tiers, links."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import INT64_MAX, ArraySpec, all_of, check_arrays, items, settle, text, whole
from gpuscan.base.errors import TopologyError
from gpuscan.base.units import PAGE_BYTES
from gpuscan.records.formats import N_NODES_MAX
from gpuscan.records.page_map import Extent, PageMap

DISTANCE_LOCAL = 10
DISTANCE_UNREACHABLE = 255
"""ACPI SLIT: 10 is local, 255 means no path."""

DISTANCE_REMOTE_DEFAULT = 20
"""What the kernel assumes between nodes without a SLIT (REMOTE_DISTANCE, include/linux/topology.h)."""

HOST = "host"
"""What the machine that gpuscan runs on is called, wherever that is."""
ZONE_NAMES = ("DMA", "DMA32", "Normal", "Movable", "Device")
"""In the kernel's order (include/linux/mmzone.h, enum zone_type); HighMem is 32-bit only."""
CPU_LIMIT = 1 << 16
"""CPU numbers end here: eight times what the kernel can be built for (NR_CPUS)."""
ZONE_MOVABLE = ZONE_NAMES.index("Movable")


class MemoryKind(Enum):
    """What a node's memory is."""

    DRAM = "dram"
    CXL = "cxl"
    GPU = "gpu"
    """Memory of a GPU that its driver lends to the kernel as a node. No page goes there by itself: programs
    on the GPU count on it."""


@dataclass(frozen=True, slots=True)
class Watermarks:
    """Free-page marks of a zone, in pages, as /proc/zoneinfo prints them."""

    min: int
    low: int
    high: int
    promo: int


@dataclass(frozen=True, slots=True)
class Zone:
    """A zone of a node.

    Attributes:
        name: one of ``ZONE_NAMES``.
        present: PFN ranges ``[start, end)`` that exist, ascending, disjoint.
        managed_pages: pages the buddy allocator owns.
        watermarks: free-page marks.
        lowmem_reserve: pages kept back per allocation class, indexed as ``ZONE_NAMES``
            ("protection:" in /proc/zoneinfo).
    """

    name: str
    present: tuple[tuple[int, int], ...]
    managed_pages: int
    watermarks: Watermarks
    lowmem_reserve: tuple[int, ...] = (0, 0, 0, 0, 0)

    @property
    def present_pages(self) -> int:
        """Present pages."""
        return sum(end - start for start, end in self.present)


@dataclass(frozen=True, slots=True)
class Node:
    """A NUMA node. ``cpus`` empty = CPU-less; ``tier`` 0 is the fastest."""

    nid: int
    kind: MemoryKind
    tier: int
    cpus: tuple[int, ...] = ()
    zones: tuple[Zone, ...] = ()

    @property
    def present_pages(self) -> int:
        """Present pages of all zones."""
        return sum(zone.present_pages for zone in self.zones)

    @property
    def kept_pages(self) -> int:
        """Free pages that are left on it by what may be moved to it, of all zones: their high watermarks, and
        what they keep back for allocations that are not movable (migrate_balanced_pgdat(), mm/migrate.c)."""
        zones = (zone for zone in self.zones if zone.name != "Device")
        return sum(zone.watermarks.high + zone.lowmem_reserve[ZONE_MOVABLE] for zone in zones)


@dataclass(frozen=True, slots=True)
class LoadedLatency:
    """How long an access waits behind others on a link, by the bandwidth asked of it.

    The wait of a queue that is served in turn: ``queue_ns * u / (1 - u)`` at the utilisation ``u``, what
    is asked over the capacity. Above the capacity nothing is served: who asks waits for answers, so that
    what is asked stays below it.

    Attributes:
        queue_ns: the wait at half the capacity.
        capacity_bytes_per_s: bandwidth, reads and writes together, at which the wait has no end; more
            than is ever measured.
    """

    queue_ns: float
    capacity_bytes_per_s: float

    def wait_ns(self, asked_bytes_per_s: float) -> float:
        """Return the wait at a bandwidth below the capacity."""
        return self.queue_ns * asked_bytes_per_s / (self.capacity_bytes_per_s - asked_bytes_per_s)


@dataclass(frozen=True, slots=True)
class Link:
    """Access from one node's CPUs to another node's memory.

    Attributes:
        latency_ns: of an access that meets no other.
        bandwidth_bytes_per_s: as it is published for the link.
        loaded: what is added where others are under way; None: nothing, whatever is asked.
    """

    latency_ns: float
    bandwidth_bytes_per_s: float
    loaded: LoadedLatency | None = None


_DISTANCE = (ArraySpec("distance", "uint8", ("rows", "columns")),)


def _is_link(item: tuple[Any, Any]) -> bool:
    ends, link = item
    return isinstance(ends, tuple) and len(ends) == 2 and isinstance(link, Link)


@dataclass(frozen=True)
class Topology:
    """A machine.

    Attributes:
        name: what to call it.
        nodes: ascending by nid.
        distance: uint8[n_nodes, n_nodes] in the order of ``nodes``, from row to column;
            may be asymmetric; 255 = unreachable.
        links: access characteristics by (initiator nid, memory nid), where known.
    """

    name: str
    nodes: tuple[Node, ...]
    distance: NDArray[np.uint8]
    links: dict[tuple[int, int], Link] = field(default_factory=dict)

    def __post_init__(self) -> None:
        text("topology: name", self.name)
        nodes = items("topology: nodes", self.nodes, Node, "give gpuscan.topology.Node in a tuple")
        (distance,) = check_arrays("topology", _DISTANCE, (self.distance,), {})
        settle(self, nodes=nodes, distance=distance)
        if not isinstance(self.links, Mapping) or not all(map(_is_link, self.links.items())):
            raise TopologyError(
                f"topology {self.name!r}: links are by (initiator nid, memory nid); give Link for each"
            )
        nids = [node.nid for node in self.nodes]
        if not nids:
            raise TopologyError(f"topology {self.name!r} has no nodes; give at least one")
        if nids != sorted(set(nids)) or nids[0] < 0 or nids[-1] >= N_NODES_MAX:
            raise TopologyError(
                f"topology {self.name!r}: node ids must be distinct, ascending, 0 to {N_NODES_MAX - 1}"
            )
        if self.distance.shape != (len(nids), len(nids)):
            raise TopologyError(
                f"topology {self.name!r}: distances are {self.distance.shape}, "
                f"give one row and one column per node ({len(nids)})"
            )
        if (np.diagonal(self.distance) != DISTANCE_LOCAL).any():
            raise TopologyError(
                f"topology {self.name!r}: a node's distance to itself must be {DISTANCE_LOCAL}"
            )
        if (self.distance < DISTANCE_LOCAL).any():
            raise TopologyError(
                f"topology {self.name!r}: distances below {DISTANCE_LOCAL} are reserved (ACPI SLIT)"
            )
        for node in self.nodes:
            for zone in node.zones:
                if zone.name not in ZONE_NAMES:
                    raise TopologyError(
                        f"node {node.nid} has the unknown zone {zone.name!r}; "
                        f"use one of {', '.join(ZONE_NAMES)}"
                    )
        known = set(nids)
        for initiator, memory in self.links:
            if initiator not in known or memory not in known:
                raise TopologyError(
                    f"topology {self.name!r}: link {initiator} -> {memory} names a node that is not there"
                )

    @cached_property
    def page_map(self) -> PageMap:
        """The flat index over all present pages. Zone ids are positions in :attr:`zones`."""
        return PageMap.from_extents(
            Extent(start, end, node.nid, zone_id)
            for zone_id, (node, zone) in enumerate(self.zones)
            for start, end in zone.present
        )

    @cached_property
    def zones(self) -> tuple[tuple[Node, Zone], ...]:
        """Every zone with its node, by nid, then zone order."""
        return tuple((node, zone) for node in self.nodes for zone in node.zones)

    @cached_property
    def _positions(self) -> dict[int, int]:
        return {node.nid: position for position, node in enumerate(self.nodes)}

    def _position(self, nid: int) -> int:
        position = self._positions.get(whole("a nid", nid, -INT64_MAX))
        if position is None:
            raise TopologyError(
                f"topology {self.name!r} has no node {nid}; it has {_ranges(self._positions)}"
            )
        return position

    def node(self, nid: int) -> Node:
        """Return node ``nid``.

        Raises:
            TopologyError: there is no such node.
        """
        return self.nodes[self._position(nid)]

    def distance_between(self, from_nid: int, to_nid: int) -> int:
        """Return the distance from one node to another; 255 = unreachable."""
        return int(self.distance[self._position(from_nid), self._position(to_nid)])

    @property
    def memory_bytes(self) -> int:
        """Present memory."""
        return sum(node.present_pages for node in self.nodes) * PAGE_BYTES

    @cached_property
    def _targets(self) -> dict[int, list[int]]:
        """Nodes with memory that pages may go to by tier, tiers and nids ascending: all but GPUs' memory."""
        by_tier = (
            (tier, [nid for nid in nids if self.node(nid).kind is not MemoryKind.GPU])
            for tier, nids in self._with_memory.items()
        )
        return {tier: nids for tier, nids in by_tier if nids}

    @cached_property
    def _with_memory(self) -> dict[int, list[int]]:
        """Nodes with memory by tier, tiers and nids ascending."""
        by_tier: dict[int, list[int]] = {}
        for node in sorted(self.nodes, key=lambda node: (node.tier, node.nid)):
            if node.present_pages:
                by_tier.setdefault(node.tier, []).append(node.nid)
        return by_tier

    @cached_property
    def top_tier(self) -> int:
        """The slowest tier whose memory has CPUs next to it: all tiers up to it are top tiers.

        As the kernel derives it (mm/memory-tiers.c, establish_demotion_targets(), v6.18); HBM
        without CPUs is then as much top tier as the DRAM next to it. The fastest tier with
        memory where no node has both.
        """
        with_cpus = [
            tier for tier, nids in self._with_memory.items() if any(self.node(nid).cpus for nid in nids)
        ]
        return max(with_cpus, default=next(iter(self._with_memory), 0))

    def is_top_tier(self, nid: int) -> bool:
        """Whether nothing is promoted from a node (the kernel's ``node_is_toptier``)."""
        return self.node(nid).tier <= self.top_tier

    def nearest(self, from_nid: int, candidates: Sequence[int]) -> int | None:
        """Return the nearest reachable candidate, the lowest nid on ties; None without one."""
        self._position(from_nid)
        candidates = all_of("nearest: candidates", candidates, int, "give nids")
        if not candidates:
            return None
        ordered = sorted(candidates)
        distances = self.distance[self._position(from_nid), [self._position(nid) for nid in ordered]]
        best = int(distances.argmin())
        return None if distances[best] == DISTANCE_UNREACHABLE else ordered[best]

    def demotion_target(self, nid: int) -> int | None:
        """Return the nearest node with memory of the next lower tier that has any in reach, or None."""
        return next(iter(self.demotion_targets(nid)), None)

    def demotion_targets(self, nid: int) -> tuple[int, ...]:
        """Return all that are as near as :meth:`demotion_target`, ascending: ``demotion_nodes.preferred``."""
        own_tier = self.node(nid).tier
        for tier, candidates in self._targets.items():
            if tier > own_tier:
                found = self.nearest(nid, candidates)
                if found is not None:
                    distance = self.distance_between(nid, found)
                    near = (other for other in candidates if self.distance_between(nid, other) == distance)
                    return tuple(sorted(near))
        return ()

    @cached_property
    def _promotion_candidates(self) -> tuple[list[int], list[int]]:
        top = [nid for tier, nids in self._targets.items() if tier <= self.top_tier for nid in nids]
        return [nid for nid in top if self.node(nid).cpus], top

    def promotion_target(self, nid: int) -> int | None:
        """Return the nearest top-tier node with memory and CPUs (failing that, with memory), or None."""
        for candidates in self._promotion_candidates:
            found = self.nearest(nid, candidates)
            if found is not None:
                return found
        return None


def _ranges(nids: dict[int, int]) -> str:
    ordered = sorted(nids)
    return (
        f"nodes {ordered[0]} to {ordered[-1]}"
        if len(ordered) > 4
        else "nodes " + ", ".join(map(str, ordered))
    )
