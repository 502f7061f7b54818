"""Makes a two-tier machine of a one-node one: declares the upper share of its memory a CXL node."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import TopologyError
from gpuscan.records.page_map import SECTION_PAGES, PageMap
from gpuscan.topology.model import DISTANCE_LOCAL, ZONE_NAMES, MemoryKind, Node, Topology, Watermarks, Zone

DISTANCE_CXL = 20
"""Between the two nodes: what firmware commonly states for one hop (ACPI SLIT)."""


def split_cxl(topology: Topology, share: float, section_pages: NDArray[np.int64] | None = None) -> Topology:
    """Return ``topology`` with the upper ``share`` of its pages on a CXL node of tier 1 without CPUs.

    The cut lies between two sections, where the share is met most closely. A zone that
    it goes through becomes two; managed pages and watermarks are divided in proportion to
    the pages on each side, and lowmem_reserve shrinks with the memory it protects
    (``setup_per_zone_lowmem_reserve()`` takes a part of the managed pages of the node's higher zones).

    Args:
        topology: a machine of one node.
        share: from 0 to 1, both excluded.
        section_pages: int64[n_sections of ``topology.page_map``], pages that count in each
            section; the present ones by default. A machine of which most memory is
            present but unused is split better by the pages in use.

    Raises:
        TopologyError: the machine has several nodes, or a side would be empty.
    """
    if len(topology.nodes) != 1:
        raise TopologyError(
            f"only a machine of one node can be split, and {topology.name!r} has {len(topology.nodes)}; "
            "leave the split out"
        )
    (node,) = topology.nodes
    page_map = topology.page_map
    weights = _present_per_section(page_map) if section_pages is None else section_pages
    boundary = _boundary(topology.name, page_map, weights, share)
    is_lower = page_map.section_pfn < boundary
    lower, upper = [], []
    for zone_id, zone in enumerate(node.zones):
        mine = page_map.section_zone == zone_id
        # A zone in which nothing counts goes by what is present.
        counted = weights if weights[mine].any() else _present_per_section(page_map)
        part = float(counted[mine & is_lower].sum() / max(1, counted[mine].sum()))
        below, above = _split_zone(zone, boundary, part)
        lower += [below] if below.present else []
        upper += [above] if above.present else []
    whole = node.zones
    return dataclasses.replace(
        topology,
        name=f"{topology.name}, upper {share:.0%} as CXL",
        nodes=(
            dataclasses.replace(node, zones=_with_reserves(lower, whole)),
            Node(node.nid + 1, MemoryKind.CXL, node.tier + 1, (), _with_reserves(upper, whole)),
        ),
        distance=np.array([[DISTANCE_LOCAL, DISTANCE_CXL], [DISTANCE_CXL, DISTANCE_LOCAL]], dtype=np.uint8),
    )


def _present_per_section(page_map: PageMap) -> NDArray[np.int64]:
    words = page_map.present_bits().reshape(page_map.n_sections, -1)
    counts: NDArray[np.int64] = np.bitwise_count(words).sum(axis=1, dtype=np.int64)
    return counts


def _boundary(name: str, page_map: PageMap, weights: NDArray[np.int64], share: float) -> int:
    """Return the first PFN of the upper side."""
    # A section that two zones share stands in the flat index twice; it stays in one piece.
    starts, first = np.unique(page_map.section_pfn, return_index=True)
    total = int(weights.sum())
    above = total - np.concatenate(([0], np.cumsum(weights)))[first]
    inner = np.flatnonzero((above > 0) & (above < total))
    if not 0.0 < share < 1.0 or not len(inner):
        raise TopologyError(
            f"{share:.0%} of {name!r} cannot be split off: both sides need memory in use "
            f"in steps of {SECTION_PAGES} pages; give a share between 0% and 100% or capture a larger machine"
        )
    closest = inner[np.argmin(np.abs(above[inner] - share * total))]
    return int(starts[closest])


def _split_zone(zone: Zone, boundary: int, part: float) -> tuple[Zone, Zone]:
    """Return the zone below and above PFN ``boundary``; ``part`` of what counts lies below."""
    below = tuple((start, min(end, boundary)) for start, end in zone.present if start < boundary)
    above = tuple((max(start, boundary), end) for start, end in zone.present if end > boundary)
    managed_below = round(zone.managed_pages * part)
    marks = dataclasses.astuple(zone.watermarks)
    marks_below = [round(mark * part) for mark in marks]
    marks_above = [mark - lower for mark, lower in zip(marks, marks_below, strict=True)]
    return (
        dataclasses.replace(
            zone, present=below, managed_pages=managed_below, watermarks=Watermarks(*marks_below)
        ),
        dataclasses.replace(
            zone,
            present=above,
            managed_pages=zone.managed_pages - managed_below,
            watermarks=Watermarks(*marks_above),
        ),
    )


def _with_reserves(zones: list[Zone], whole: tuple[Zone, ...]) -> tuple[Zone, ...]:
    """Return the zones with lowmem_reserve cut down from that of the ``whole`` node."""
    scaled = []
    for zone in zones:
        reserve = []
        for index, pages in enumerate(zone.lowmem_reserve):
            before, after = (_managed_above(side, zone.name, index) for side in (whole, tuple(zones)))
            reserve.append(pages * after // max(1, before))
        scaled.append(dataclasses.replace(zone, lowmem_reserve=tuple(reserve)))
    return tuple(scaled)


def _managed_above(zones: tuple[Zone, ...], name: str, index: int) -> int:
    """Return the managed pages of the zones above ``name``, up to zone ``index`` of ``ZONE_NAMES``."""
    names = ZONE_NAMES[ZONE_NAMES.index(name) + 1 : index + 1]
    return sum(zone.managed_pages for zone in zones if zone.name in names)
