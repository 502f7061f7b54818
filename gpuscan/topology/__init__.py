"""What machine it is: nodes, zones, PFN ranges, distances, tiers and links."""

from gpuscan.topology.model import Link, MemoryKind, Node, Topology, Watermarks, Zone

__all__ = ["Link", "MemoryKind", "Node", "Topology", "Watermarks", "Zone"]
