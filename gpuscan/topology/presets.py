"""Machines by name, in any size: the shapes that tiering work argues about.

Latencies and bandwidths are round figures inside published ranges: local and
remote DDR5 about 110 and 190 ns; CXL expanders 140 to 410 ns across four devices,
five CPUs and both sockets ("Systematic CXL Memory Characterization and Performance
Analysis at Scale", ASPLOS 2025, doi:10.1145/3676641.3715987); a pooled device adds
70 to 90 ns to a directly attached one ("Pond", ASPLOS 2023). 30 GB/s is a PCIe 5.0
x8 link. Paths over several switches are extrapolated, 90 ns a switch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import InputError, TopologyError
from gpuscan.base.nearby import meant_file
from gpuscan.base.units import PAGE_BYTES, PAGE_SHIFT, format_bytes
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.topology.layout import PFN_LIMIT, PlannedNode, complete, is_hotplugged, place
from gpuscan.topology.model import DISTANCE_LOCAL, DISTANCE_UNREACHABLE, Link, MemoryKind, Topology

_GIB = 1 << 30
_TIB = 1 << 40

_DRAM_LOCAL = Link(110.0, 200e9)
_DRAM_REMOTE = Link(190.0, 100e9)
_DRAM_TWO_HOPS = Link(270.0, 50e9)
_CXL_LOCAL = Link(250.0, 30e9)
_CXL_REMOTE = Link(380.0, 20e9)
_CXL_POOLED = Link(430.0, 20e9)
_CXL_FAR_POD = Link(610.0, 10e9)


@dataclass(frozen=True, slots=True)
class _Shape:
    """What a preset is made of: per node its kind, how many CPUs, its share of the memory."""

    members: tuple[tuple[MemoryKind, int, int], ...]
    distance: NDArray[np.uint8]
    links: dict[tuple[int, int], Link]


@dataclass(frozen=True, slots=True)
class Preset:
    """A machine by name.

    Attributes:
        name: what to ask for.
        description: one line.
        n_nodes: how many nodes.
        memory_bytes: its size unless asked for another.
    """

    name: str
    description: str
    n_nodes: int
    memory_bytes: int
    shape: Callable[[], _Shape]


_DRAM, _CXL = MemoryKind.DRAM, MemoryKind.CXL


def _single() -> _Shape:
    return _Shape(((_DRAM, 16, 1),), np.array([[DISTANCE_LOCAL]], dtype=np.uint8), {(0, 0): _DRAM_LOCAL})


def _two_socket() -> _Shape:
    links = {(a, b): _DRAM_LOCAL if a == b else _DRAM_REMOTE for a in range(2) for b in range(2)}
    return _Shape(((_DRAM, 32, 1),) * 2, np.array([[10, 21], [21, 10]], dtype=np.uint8), links)


def _two_socket_cxl() -> _Shape:
    # Half DRAM, half CXL: between the two ratios that TPP (ASPLOS 2023) measures, 2:1 and 1:4.
    # The SLIT is one seen on two-socket Xeons with a CPU-less node behind each socket.
    distance = [[10, 21, 14, 24], [21, 10, 24, 14], [14, 24, 10, 26], [24, 14, 26, 10]]
    link = {10: _DRAM_LOCAL, 21: _DRAM_REMOTE, 14: _CXL_LOCAL, 24: _CXL_REMOTE}
    links = {(cpu, memory): link[distance[cpu][memory]] for cpu in range(2) for memory in range(4)}
    members = ((_DRAM, 32, 1), (_DRAM, 32, 1), (_CXL, 0, 1), (_CXL, 0, 1))
    return _Shape(members, np.array(distance, dtype=np.uint8), links)


def _eight_socket() -> _Shape:
    # Posted to linux-kernel from 8-socket, 80-core Xeon servers: pairs, two pairs to a half, two halves.
    node = np.arange(8)
    apart = node[:, None] ^ node[None, :]
    distance = np.select([apart == 0, apart == 1, apart < 4], [DISTANCE_LOCAL, 12, 17], 19).astype(np.uint8)
    link = {DISTANCE_LOCAL: _DRAM_LOCAL, 12: _DRAM_REMOTE, 17: _DRAM_REMOTE, 19: _DRAM_TWO_HOPS}
    links = {(a, b): link[int(distance[a, b])] for a in range(8) for b in range(8)}
    return _Shape(((_DRAM, 32, 1),) * 8, distance, links)


_POOL_HOSTS = 16
_POOL_DEVICES_PER_HOST = 63
_POOL_PODS = 4


def _cxl_pool() -> _Shape:
    # Four pods of four hosts; a host has 63 devices behind its own switch. The pods stand in a ring:
    # opposite pods have no path between hosts and devices. The way from a device is one arbitration
    # longer than the way to it, so distances are asymmetric. An eighth of the memory is DRAM.
    n_nodes = _POOL_HOSTS * (1 + _POOL_DEVICES_PER_HOST)
    nid = np.arange(n_nodes)
    is_host = nid < _POOL_HOSTS
    home = np.where(is_host, nid, (nid - _POOL_HOSTS) // _POOL_DEVICES_PER_HOST)
    pod = home // (_POOL_HOSTS // _POOL_PODS)
    same_home = home[:, None] == home[None, :]
    pods_apart = (pod[:, None] - pod[None, :]) % _POOL_PODS
    hop = np.select([same_home, pods_apart == 0, pods_apart % 2 == 1], [0, 1, 2], 3)
    from_host, to_host = is_host[:, None], is_host[None, :]
    by_hop = {  # from host, to host: own switch, own pod, neighbour pod, opposite pod
        (True, True): (DISTANCE_LOCAL, 21, 31, 31),
        (True, False): (24, 40, 56, DISTANCE_UNREACHABLE),
        (False, True): (28, 44, 60, DISTANCE_UNREACHABLE),
        (False, False): (36, 52, 68, DISTANCE_UNREACHABLE),
    }
    distance = np.empty((n_nodes, n_nodes), dtype=np.uint8)
    for (from_is_host, to_is_host), distances in by_hop.items():
        here = (from_host == from_is_host) & (to_host == to_is_host)
        distance[here] = np.array(distances, dtype=np.uint8)[hop[here]]
    np.fill_diagonal(distance, DISTANCE_LOCAL)
    to_hosts = (_DRAM_LOCAL, _DRAM_REMOTE, _DRAM_TWO_HOPS, _DRAM_TWO_HOPS)
    to_devices = (_CXL_LOCAL, _CXL_POOLED, _CXL_FAR_POD)
    links = {
        (host, memory): to_hosts[hops] if memory < _POOL_HOSTS else to_devices[hops]
        for host in range(_POOL_HOSTS)
        for memory, hops in enumerate(hop[host].tolist())
        if memory < _POOL_HOSTS or hops < len(to_devices)
    }
    members = ((_DRAM, 32, 9),) * _POOL_HOSTS + ((_CXL, 0, 1),) * (n_nodes - _POOL_HOSTS)
    return _Shape(members, distance, links)


PRESETS: Mapping[str, Preset] = MappingProxyType(
    {
        preset.name: preset
        for preset in (
            Preset(
                "two-socket-cxl",
                "two sockets, each with a CXL expander as a node without CPUs; half DRAM, half CXL",
                4,
                256 * _GIB,
                _two_socket_cxl,
            ),
            Preset("two-socket", "two sockets, DRAM only: plain NUMA", 2, 256 * _GIB, _two_socket),
            Preset("eight-socket", "eight sockets in two halves, DRAM only", 8, 1 * _TIB, _eight_socket),
            Preset(
                "cxl-pool",
                "16 hosts and 1,008 CXL nodes in four pods; asymmetric distances, some unreachable",
                1024,
                4 * _TIB,
                _cxl_pool,
            ),
            Preset("single", "one node, nothing to migrate to", 1, 64 * _GIB, _single),
        )
    }
)
"""All presets by name; the first is what workloads use."""


def preset(name: str, memory_bytes: int | None = None) -> Topology:
    """Return the machine called ``name``.

    Args:
        name: a key of :data:`PRESETS`.
        memory_bytes: its size in bytes, cut to whole pages; None = the preset's own. Divided in
            whole sections (128 MiB), what is left over is on node 0. The first 1 MiB of node 0
            has the legacy hole, so 98 pages fewer are present.

    Raises:
        InputError: there is no such preset.
        TopologyError: too small or too large a size; says the limit.
    """
    chosen = PRESETS.get(name)
    if chosen is None:
        from gpuscan.topology.catalogue import remedy

        raise InputError(
            f"unknown topology {name!r}{meant_file(name, '.toml')}; choose one of {', '.join(PRESETS)}, "
            f"host, or {remedy()}"
        )
    shape = chosen.shape()
    n_pages = (chosen.memory_bytes if memory_bytes is None else memory_bytes) >> PAGE_SHIFT
    sizes = _sizes(name, [share for _, _, share in shape.members], n_pages)
    plans: list[PlannedNode] = []
    next_cpu = 0
    cpus: list[tuple[int, ...]] = []
    for _, n_cpus, _ in shape.members:
        cpus.append(tuple(range(next_cpu, next_cpu + n_cpus)))
        next_cpu += n_cpus
    kinds = [kind for kind, _, _ in shape.members]
    placed = place(
        (size, is_hotplugged(kind, cpu)) for size, kind, cpu in zip(sizes, kinds, cpus, strict=True)
    )
    for nid, (kind, cpu, zones) in enumerate(zip(kinds, cpus, placed, strict=True)):
        plans.append(PlannedNode(nid, kind, int(kind is _CXL), cpu, zones))
    return Topology(name, complete(plans), shape.distance, shape.links)


def _sizes(name: str, shares: list[int], n_pages: int) -> list[int]:
    """Return pages per node: whole sections by share, at least one each, what is left over on node 0."""
    total_share = sum(shares)
    least_sections = -(-total_share // min(shares))
    n_sections = n_pages // SECTION_PAGES
    section_bytes = SECTION_PAGES * PAGE_BYTES
    if n_sections < least_sections:
        raise TopologyError(
            f"{format_bytes(n_pages * PAGE_BYTES)} is too small for topology {name!r}; "
            f"give at least {format_bytes(least_sections * section_bytes)}"
        )
    # Gaps between nodes stay below 8 GiB each.
    most_pages = PFN_LIMIT - len(shares) * (8 * _GIB // PAGE_BYTES)
    if n_pages > most_pages:
        raise TopologyError(
            f"{format_bytes(n_pages * PAGE_BYTES)} is too large for topology {name!r}; "
            f"52-bit addresses reach at most {format_bytes(most_pages * PAGE_BYTES)}"
        )
    sections = [n_sections * share // total_share for share in shares]
    sections[0] += n_sections - sum(sections)
    sizes = [count * SECTION_PAGES for count in sections]
    sizes[0] += n_pages - n_sections * SECTION_PAGES
    return sizes
