"""The captured machine of the tests."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np

from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.snapshot.snapshot import Snapshot

HOST = Path(__file__).parent / "data/host.zarr"
"""Page flags of a virtual machine: 24 GiB present, 4.4 GiB managed, small programs running."""


def small_host(n_sections: int = 36) -> Snapshot:
    """Return the first ``n_sections`` of :data:`HOST`; 36 are all that was in use."""
    host = Snapshot.read(HOST)
    last = host.topology.page_map.section_pfn[n_sections - 1] + SECTION_PAGES
    (node,) = host.topology.nodes
    zones = []
    for zone in node.zones:
        present = tuple((start, min(end, int(last))) for start, end in zone.present if start < last)
        managed_pages = min(zone.managed_pages, sum(end - start for start, end in present))
        zones += [dataclasses.replace(zone, present=present, managed_pages=managed_pages)] if present else []
    topology = dataclasses.replace(host.topology, nodes=(dataclasses.replace(node, zones=tuple(zones)),))
    pages = np.s_[: n_sections * SECTION_PAGES]
    return dataclasses.replace(
        host, topology=topology, flags=host.flags[pages], mapcounts=host.mapcounts[pages]
    )
