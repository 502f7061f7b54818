"""A machine by its /proc and /sys: this one, or a tree of files of another.

Zones, counts and watermarks come from /proc/zoneinfo. It gives a zone's span only;
which PFNs of the span are present comes from the memory blocks of the node
(nodeN/memoryM, kernels with CONFIG_MEMORY_HOTPLUG) and from the "System RAM"
ranges of /proc/iomem, whose addresses only root sees. Where the sum differs from
the zone's own "present", :attr:`Host.notes` says by how much.

A tree without /proc/zoneinfo, as hwloc-gather-topology makes them, says how much memory each node has
(nodeN/meminfo), and sometimes in which blocks.
"""

from __future__ import annotations

import mmap
from pathlib import Path

from gpuscan.base.errors import TopologyError
from gpuscan.topology.contract import Host
from gpuscan.topology.file_tree import NODES, ZONEINFO, Directory, FileTree
from gpuscan.topology.model import HOST, ZONE_NAMES, Node, Topology, Watermarks, Zone
from gpuscan.topology.node_files import (
    cpus_of_nodes,
    distances,
    gpu_nodes,
    kinds,
    links,
    listed_nodes,
    once,
    tiers,
)
from gpuscan.topology.page_size import in_our_pages, memory_of_node, page_bytes_of, said_of
from gpuscan.topology.present import memory_blocks, present_ranges
from gpuscan.topology.ranges import PfnRanges
from gpuscan.topology.sized import SizedNode, by_zone, sized_machine
from gpuscan.topology.zoneinfo import ZoneInfo, parse_zoneinfo

__all__ = ["Host", "ZoneInfo", "from_host", "parse_zoneinfo", "read_host", "read_tree"]


def from_host(root: Path = Path("/")) -> Topology:
    """Return the topology of the machine whose /proc and /sys lie under ``root``; see :func:`read_host`."""
    return read_host(root).topology


def read_host(root: Path = Path("/")) -> Host:
    """Read the machine whose /proc and /sys lie under ``root``; see :func:`read_tree`."""
    return read_tree(Directory(root), HOST, mmap.PAGESIZE if root == Path("/") else None)


def read_tree(files: FileTree, name: str, page_bytes: int | None = None) -> Host:
    """Read a machine from the files of its /proc and /sys.

    Distances are nodeN/distance, links the HMAT attributes of nodeN/access0 and access1, tiers
    the kernel's memory tiers, numbered from 0. Without memory tiers (before v6.1) nodes without
    CPUs are tier 1, unless no node has both CPUs and memory. A node without CPUs in a tier below
    all CPUs' memory counts as CXL. A CPU that several nodes list is of the first, as for the
    kernel's emulated nodes (numa_emu_update_cpu_to_node(), mm/numa_emulation.c, v6.12).

    Args:
        files: of the machine.
        name: of the machine.
        page_bytes: of its kernel's pages; None: as the files say.

    Raises:
        TopologyError: a file is missing or malformed; says which, and the line.
    """
    text = files.read(ZONEINFO)
    if text is None:
        return _without_zones(files, name, page_bytes)
    place = files.place(ZONEINFO)
    zoneinfo = parse_zoneinfo(text, place)
    if page_bytes is None:
        page_bytes = page_bytes_of(files, zoneinfo)
    zoneinfo = in_our_pages(zoneinfo, page_bytes)
    nids = _online_nodes(files, zoneinfo)
    cpus, unknown = cpus_of_nodes(files, nids)
    present, notes = present_ranges(files, [zone for zone in zoneinfo if zone.present])
    tier_of = tiers(files, nids, {zone.nid for zone in present}, cpus)
    notes += _unknown_cpus(unknown, nids) + said_of(page_bytes)
    kind_of = kinds(nids, cpus, tier_of, gpu_nodes(files), cpus_are_known=not unknown)
    own_cpus = once(cpus)
    nodes = []
    for nid in nids:
        zones = []
        for info in sorted((zone for zone in present if zone.nid == nid), key=_zone_order):
            reserve = _reserve(info, zoneinfo)
            if reserve is None:
                notes.append(
                    f"zone {info.name} of node {nid} has {len(info.protection)} protection entries for zones "
                    "that cannot be told apart, taken as 0"
                )
            zones.append(_zone(info, present[info], reserve or (0,) * len(ZONE_NAMES)))
        nodes.append(Node(nid, kind_of[nid], tier_of[nid], own_cpus[nid], tuple(zones)))
    distance, _ = distances(files, nids, may_lack=False)
    topology = Topology(name, tuple(nodes), distance, links(files, nids))
    return Host(topology, tuple(notes), page_bytes)


def _without_zones(files: FileTree, name: str, page_bytes: int | None) -> Host:
    """Read a machine whose files have no /proc/zoneinfo."""
    place = files.place(ZONEINFO)
    nids = listed_nodes(files)
    if not nids:
        raise TopologyError(f"{place} is not there; mount /proc or name a preset or a TOML file")
    sizes = {nid: memory_of_node(files, nid) for nid in nids}
    if None in sizes.values():
        lacking = next(nid for nid, size in sizes.items() if size is None)
        raise TopologyError(
            f"{place} is not there, nor {files.place(f'{NODES}/node{lacking}/meminfo')}; mount /proc, "
            "give a tree with one of them, or name a preset or a TOML file"
        )
    cpus, unknown = cpus_of_nodes(files, nids)
    tier_of = tiers(files, nids, {nid for nid in nids if sizes[nid]}, cpus)
    kind_of = kinds(nids, cpus, tier_of, gpu_nodes(files), cpus_are_known=not unknown)
    own_cpus = once(cpus)
    distance, notes = distances(files, nids, may_lack=True)
    nodes = [
        SizedNode(
            nid,
            kind_of[nid],
            tier_of[nid],
            own_cpus[nid],
            sizes[nid] or 0,
            by_zone(memory_blocks(files, nid) or (), kind_of[nid], cpus[nid]),
        )
        for nid in nids
    ]
    topology, laid_out = sized_machine(name, nodes, distance, links(files, nids), files.place(NODES))
    if page_bytes is None:
        page_bytes = page_bytes_of(files, [])
    notes = [*laid_out, *notes, *_unknown_cpus(unknown, nids), *said_of(page_bytes)]
    return Host(topology, tuple(notes), page_bytes)


def _unknown_cpus(missing: str, nids: list[int]) -> list[str]:
    if not missing or len(nids) == 1:
        return []
    return [f"{missing} is not there: no node's CPUs are known, and no memory is taken for CXL's"]


def _zone_order(info: ZoneInfo) -> int:
    if info.name not in ZONE_NAMES:
        raise TopologyError(
            f"node {info.nid} has memory in the unknown zone {info.name}; "
            f"gpuscan knows {', '.join(ZONE_NAMES)}"
        )
    return ZONE_NAMES.index(info.name)


def _zone(info: ZoneInfo, ranges: PfnRanges, reserve: tuple[int, ...]) -> Zone:
    # Kernels that print no promo mark have it all the same, one more step above high (since v5.18,
    # __setup_per_zone_wmarks()).
    promo = 2 * info.high - info.low if info.promo is None else info.promo
    marks = Watermarks(info.min, info.low, info.high, promo)
    return Zone(info.name, tuple(ranges), info.managed, marks, reserve)


def _reserve(info: ZoneInfo, zoneinfo: list[ZoneInfo]) -> tuple[int, ...] | None:
    """Return lowmem_reserve indexed as ZONE_NAMES, or None where its entries cannot be named."""
    # All nodes print the same zones, those that the kernel was built with (since v4.13, empty ones too).
    built = [name for name in ZONE_NAMES if any(zone.name == name for zone in zoneinfo)]
    if len(built) != len(info.protection):
        return None
    by_name = dict(zip(built, info.protection, strict=True))
    return tuple(by_name.get(name, 0) for name in ZONE_NAMES)


def _online_nodes(files: FileTree, zoneinfo: list[ZoneInfo]) -> list[int]:
    nids = listed_nodes(files) if files.read(f"{NODES}/online") is not None else None
    if nids is None:  # without CONFIG_NUMA there is no node directory, and one node
        nids = sorted({zone.nid for zone in zoneinfo})
    strangers = sorted({zone.nid for zone in zoneinfo if zone.present} - set(nids))
    if strangers:
        raise TopologyError(
            f"{files.place(f'{NODES}/online')} does not list node {strangers[0]}, which has zones in "
            "/proc/zoneinfo; read again"
        )
    return nids
