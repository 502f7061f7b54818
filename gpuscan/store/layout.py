"""What a store of a machine's pages is made for: the layout that backends are given."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.arguments import INT64_MAX, flag, instance, text, whole
from gpuscan.base.errors import InputError, TopologyError
from gpuscan.kernels.api import NODE_HAS_MEMORY, NODE_TOP_TIER, StoreLayout, empty_node_flags
from gpuscan.records.formats import STORE_FORMATS, record_format
from gpuscan.records.page_map import PageMap
from gpuscan.topology import Topology

TOPOLOGY_REMEDY = "give what gpuscan.resolve_topology(name) returns"


def layout_of(
    topology: Topology,
    page_map: PageMap,
    record_format_name: str,
    fixed_target: int | None,
    large_folios: bool,
) -> StoreLayout:
    """Return what a store of some or all pages of a machine is made for.

    Raises:
        InputError: no store is made of the format.
        TopologyError: ``fixed_target`` is not a node with memory, or ``page_map`` is of another machine.
    """
    instance("a store's topology", topology, Topology, TOPOLOGY_REMEDY)
    instance("a store's page_map", page_map, PageMap, "give topology.page_map, or a part() of it")
    flag("a store's large_folios", large_folios)
    fmt = record_format(text("a store's record_format_name", record_format_name))
    for nid in np.unique(page_map.section_nid).tolist():
        topology.node(nid)
    if fmt.importable_only:
        raise InputError(
            f"records of format {fmt.name} are imported and exported only; "
            f"make the store of one of {', '.join(STORE_FORMATS)}"
        )
    node_flags = _node_flags(topology)
    target = -1
    if not fmt.has_nid:
        target = _default_target(topology) if fixed_target is None else fixed_target
        check_target(topology, node_flags, target)
    return StoreLayout(page_map, fmt, node_flags, target, large_folios)


def check_target(topology: Topology, node_flags: NDArray[np.uint8], nid: int) -> None:
    """Refuse a target that is not a node with memory, by the flags of a layout.

    Raises:
        ArgumentError: it is no whole number.
        TopologyError: it is not.
    """
    topology.node(whole("a target nid", nid, -INT64_MAX))
    if not node_flags[nid] & NODE_HAS_MEMORY:
        raise TopologyError(f"node {nid} of {topology.name!r} has no memory; choose a target that has")


def _node_flags(topology: Topology) -> NDArray[np.uint8]:
    flags = empty_node_flags()
    for node in topology.nodes:
        if node.present_pages:
            flags[node.nid] |= NODE_HAS_MEMORY
            if topology.is_top_tier(node.nid):
                flags[node.nid] |= NODE_TOP_TIER
    return flags


def _default_target(topology: Topology) -> int:
    top = [node for node in topology.nodes if node.present_pages and topology.is_top_tier(node.nid)]
    return next((node.nid for node in top if node.cpus), top[0].nid)
