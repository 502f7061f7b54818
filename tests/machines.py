"""Small machines for tests, laid out by hand."""

from __future__ import annotations

import numpy as np

from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.topology import MemoryKind, Node, Topology, Watermarks, Zone

MARKS = Watermarks(min=64, low=80, high=96, promo=112)


def node(
    nid: int,
    *present: tuple[int, int],
    kind: MemoryKind = MemoryKind.DRAM,
    tier: int = 0,
    cpus: tuple[int, ...] = (),
) -> Node:
    """Return a node with one Normal zone of the given PFN ranges."""
    zone = Zone("Normal", present, sum(end - start for start, end in present), MARKS)
    return Node(nid, kind, tier, cpus, (zone,) if present else ())


def tiered(n_sections: int = 1) -> Topology:
    """Return two DRAM nodes with a CPU each and two CXL nodes of ``n_sections`` each, holes between."""
    size = n_sections * SECTION_PAGES
    starts = [(2 * nid + 1) * size for nid in range(4)]
    nodes = (
        node(0, (starts[0], starts[0] + size), cpus=(0,)),
        node(1, (starts[1], starts[1] + size), cpus=(1,)),
        node(2, (starts[2], starts[2] + size), kind=MemoryKind.CXL, tier=1),
        node(3, (starts[3], starts[3] + size), kind=MemoryKind.CXL, tier=1),
    )
    distance = np.array(
        [[10, 20, 30, 40], [20, 10, 40, 30], [30, 40, 10, 50], [40, 30, 50, 10]], dtype=np.uint8
    )
    return Topology("tiered-test", nodes, distance)
