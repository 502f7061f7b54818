"""Where the pages of a node go that is emptied: to the nearest node that has room for them."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from gpuscan.topology.model import DISTANCE_UNREACHABLE, Topology

NO_ROOM = -1
"""In place of a node: none has room."""


def nearest_first(topology: Topology, nid: int) -> list[int]:
    """Return the other nodes with memory that are in reach of one, the nearest first."""
    away = sorted(
        (topology.distance_between(nid, node.nid), node.nid)
        for node in topology.nodes
        if node.present_pages and node.nid != nid
    )
    return [other for distance, other in away if distance != DISTANCE_UNREACHABLE]


def share_out(n_pages: NDArray[np.int64], rooms: Mapping[int, int]) -> NDArray[np.int32]:
    """Return int32[n], a node for each folio, in order: the first node until it is full, then the next.

    Args:
        n_pages: int64[n], sizes of the folios.
        rooms: base pages by node, in the order in which they are filled.

    Returns:
        :data:`NO_ROOM` for those that do not fit.
    """
    targets = np.full(len(n_pages), NO_ROOM, dtype=np.int32)
    begin = 0
    for nid, room in rooms.items():
        end = begin + int(np.searchsorted(np.cumsum(n_pages[begin:]), room, side="right"))
        targets[begin:end] = nid
        begin = end
    return targets
