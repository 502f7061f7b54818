"""The machine gpuscan runs on, from /proc/zoneinfo, /proc/iomem and sysfs.

Zones, counts and watermarks come from /proc/zoneinfo. It gives a zone's span only;
which PFNs of the span are present comes from the memory blocks of the node
(nodeN/memoryM, kernels with CONFIG_MEMORY_HOTPLUG) and from the "System RAM"
ranges of /proc/iomem, whose addresses only root sees. Where the sum differs from
the zone's own "present", :attr:`Host.notes` says by how much.
"""

from __future__ import annotations

import mmap
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.errors import TopologyError
from gpuscan.base.units import PAGE_BYTES, PAGE_SHIFT
from gpuscan.topology.model import (
    DISTANCE_LOCAL,
    ZONE_NAMES,
    Link,
    MemoryKind,
    Node,
    Topology,
    Watermarks,
    Zone,
)
from gpuscan.topology.zoneinfo import ZoneInfo, parse_count, parse_zoneinfo

__all__ = ["Host", "ZoneInfo", "from_host", "parse_zoneinfo", "read_host"]

PfnRanges = list[tuple[int, int]]
"""PFN ranges ``[start, end)``, ascending and disjoint."""

_IOMEM_LINE = re.compile(r"\s*([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)")


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that was read, with what could not be told for certain, one sentence each."""

    topology: Topology
    notes: tuple[str, ...]


def from_host(root: Path = Path("/")) -> Topology:
    """Return the topology of the machine whose /proc and /sys lie under ``root``; see :func:`read_host`."""
    return read_host(root).topology


def read_host(root: Path = Path("/")) -> Host:
    """Read the machine whose /proc and /sys lie under ``root``.

    Distances are nodeN/distance, links the HMAT attributes of nodeN/access0 and access1, tiers
    the kernel's memory tiers, numbered from 0. Without memory tiers (before v6.1) nodes without
    CPUs are tier 1, unless no node has both CPUs and memory. A node without CPUs in a tier below
    all CPUs' memory counts as CXL. A CPU that several nodes list is of the first, as for the
    kernel's emulated nodes (numa_emu_update_cpu_to_node(), mm/numa_emulation.c, v6.12).

    Raises:
        TopologyError: a file is missing or malformed; says which, and the line.
    """
    if root == Path("/") and mmap.PAGESIZE != PAGE_BYTES:
        raise TopologyError(
            f"this machine has pages of {mmap.PAGESIZE} bytes and gpuscan counts in {PAGE_BYTES}; "
            "describe it in a TOML file or boot a 4 KiB kernel"
        )
    zoneinfo_path = root / "proc/zoneinfo"
    text = _read(zoneinfo_path)
    if text is None:
        raise TopologyError(f"{zoneinfo_path} is not there; mount /proc or name a preset or a TOML file")
    zoneinfo = parse_zoneinfo(text, str(zoneinfo_path))
    node_dir = root / "sys/devices/system/node"
    nids = _online_nodes(node_dir, zoneinfo)
    cpus, unknown = _cpus(root, node_dir, nids)
    present, notes = _present_ranges(root, node_dir, [zone for zone in zoneinfo if zone.present])
    if unknown and len(nids) > 1:
        notes.append(f"{unknown} is not there: no node's CPUs are known, and no memory is taken for CXL's")
    tiers = _tiers(root, nids, {zone.nid for zone in present}, cpus)
    own_cpus = _once(cpus)
    cpu_tiers = [tiers[nid] for nid in nids if cpus[nid]]
    nodes = []
    for nid in nids:
        slower_than_cpus = not unknown and not cpus[nid] and tiers[nid] > max(cpu_tiers, default=0)
        zones = []
        for info in sorted((zone for zone in present if zone.nid == nid), key=_zone_order):
            reserve = _reserve(info, zoneinfo)
            if reserve is None:
                notes.append(
                    f"zone {info.name} of node {nid} has {len(info.protection)} protection entries for zones "
                    "that cannot be told apart, taken as 0"
                )
            zones.append(_zone(info, present[info], reserve or (0,) * len(ZONE_NAMES)))
        kind = MemoryKind.CXL if slower_than_cpus else MemoryKind.DRAM
        nodes.append(Node(nid, kind, tiers[nid], own_cpus[nid], tuple(zones)))
    topology = Topology("host", tuple(nodes), _distances(node_dir, nids), _links(node_dir, nids))
    return Host(topology, tuple(notes))


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


def _online_nodes(node_dir: Path, zoneinfo: list[ZoneInfo]) -> list[int]:
    online = node_dir / "online"
    text = _read(online)
    # Without CONFIG_NUMA there is no node directory, and one node.
    nids = _parse_list(text, online) if text is not None else sorted({zone.nid for zone in zoneinfo})
    strangers = sorted({zone.nid for zone in zoneinfo if zone.present} - set(nids))
    if strangers:
        raise TopologyError(
            f"{online} does not list node {strangers[0]}, which has zones in /proc/zoneinfo; read again"
        )
    return list(nids)


def _cpus(root: Path, node_dir: Path, nids: list[int]) -> tuple[dict[int, tuple[int, ...]], Path | None]:
    """Return the CPUs that each node lists, and the file whose absence leaves those of all unknown."""
    cpus = {}
    for nid in nids:
        path = node_dir / f"node{nid}/cpulist"
        text = _read(path)
        if text is None and len(nids) == 1:
            path = root / "sys/devices/system/cpu/online"
            text = _read(path)
        if text is None:
            return dict.fromkeys(nids, ()), path
        cpus[nid] = _parse_list(text, path)
    return cpus, None


def _once(cpus: dict[int, tuple[int, ...]]) -> dict[int, tuple[int, ...]]:
    """Return the CPUs of each node, those that several list with the first."""
    own: dict[int, tuple[int, ...]] = {}
    taken: set[int] = set()
    for nid, listed in sorted(cpus.items()):
        own[nid] = tuple(cpu for cpu in listed if cpu not in taken)
        taken.update(listed)
    return own


def _distances(node_dir: Path, nids: list[int]) -> NDArray[np.uint8]:
    distance = np.full((len(nids), len(nids)), DISTANCE_LOCAL, dtype=np.uint8)
    for row, nid in enumerate(nids):
        path = node_dir / f"node{nid}/distance"
        text = _read(path)
        if text is None and len(nids) == 1:
            break
        if text is None:
            raise TopologyError(
                f"{path} is not there; mount all of /sys, or describe the machine in a TOML file"
            )
        values = [parse_count(word, "a distance", f"{path}, line 1") for word in text.split()]
        if len(values) != len(nids) or max(values) > 255:
            raise TopologyError(
                f"{path}, line 1: {text.strip()!r} is not one distance up to 255 "
                f"for each of {len(nids)} online nodes; read again"
            )
        distance[row] = values
    return distance


def _links(node_dir: Path, nids: list[int]) -> dict[tuple[int, int], Link]:
    links: dict[tuple[int, int], Link] = {}
    # access1 is the best CPU initiator, access0 the best initiator of any kind (Documentation/
    # admin-guide/mm/numaperf.rst): where both name a node, the CPU figure counts.
    for access in ("access0", "access1"):
        for nid in nids:
            directory = node_dir / f"node{nid}/{access}/initiators"
            figures = []
            for key in ("read_latency", "read_bandwidth"):
                path = directory / key
                text = _read(path)
                figures.append(parse_count(text.strip(), "a number", f"{path}, line 1") if text else 0)
            latency_ns, bandwidth_mb_per_s = figures
            if latency_ns == 0 or bandwidth_mb_per_s == 0:
                continue
            for entry in directory.glob("node[0-9]*"):
                initiator = parse_count(entry.name[4:], "a node", str(entry))
                if initiator in nids:
                    links[initiator, nid] = Link(float(latency_ns), bandwidth_mb_per_s * 1e6)
    return links


def _tiers(
    root: Path, nids: list[int], with_memory: set[int], cpus: dict[int, tuple[int, ...]]
) -> dict[int, int]:
    listed: dict[int, tuple[int, ...]] = {}
    for directory in (root / "sys/devices/virtual/memory_tiering").glob("memory_tier[0-9]*"):
        path = directory / "nodelist"
        number = parse_count(directory.name[len("memory_tier") :], "a tier", str(directory))
        listed[number] = tuple(nid for nid in _parse_list(_read(path) or "", path) if nid in with_memory)
    ordered = [listed[number] for number in sorted(listed) if listed[number]]
    if not ordered:
        near = {nid for nid in with_memory if cpus[nid]} or with_memory
        return {nid: 1 if nid in with_memory - near else 0 for nid in nids}
    # A node without memory is in no tier, and node_is_toptier() holds for it.
    return {nid: next((tier for tier, members in enumerate(ordered) if nid in members), 0) for nid in nids}


def _present_ranges(
    root: Path, node_dir: Path, zones: list[ZoneInfo]
) -> tuple[dict[ZoneInfo, PfnRanges], list[str]]:
    """Return the present PFNs of every populated zone, and what does not add up."""
    ram = _system_ram(root / "proc/iomem")
    block_dir = root / "sys/devices/system/memory"
    present: dict[ZoneInfo, PfnRanges] = {}
    notes = []
    if ram is None:
        notes.append(
            "/proc/iomem shows no addresses (root sees them): holes inside memory blocks are unknown"
        )
    for zone in sorted(zones, key=lambda zone: (zone.start_pfn, zone.nid)):
        end = zone.start_pfn + zone.spanned
        ranges: PfnRanges = [(zone.start_pfn, end)]
        shared = any(
            other is not zone
            and other.nid == zone.nid
            and other.start_pfn < end
            and zone.start_pfn < other.start_pfn + other.spanned
            for other in zones
        )
        blocks = _memory_blocks(block_dir, node_dir / f"node{zone.nid}", zone.name if shared else None)
        for known in (blocks, ram):
            if known is not None:
                ranges = _intersect(ranges, known)
        # Spans overlap where nodes or zones alternate; a PFN still belongs to one zone.
        for earlier, taken in present.items():
            if earlier.start_pfn + earlier.spanned > zone.start_pfn:
                ranges = _subtract(ranges, taken)
        found = sum(end - start for start, end in ranges)
        if found == 0:
            raise TopologyError(
                f"zone {zone.name} of node {zone.nid} has {zone.present} present pages in /proc/zoneinfo, "
                "but no memory block or System RAM range lies in its span; read again as root"
            )
        if found != zone.present:
            notes.append(
                f"zone {zone.name} of node {zone.nid}: {found} pages found present, "
                f"/proc/zoneinfo says {zone.present} ({found - zone.present:+d})"
            )
        present[zone] = ranges
    return present, notes


def _memory_blocks(block_dir: Path, node: Path, zone_name: str | None) -> PfnRanges | None:
    """Return a node's online memory blocks, with ``zone_name`` only that zone's; None without blocks."""
    size_path = block_dir / "block_size_bytes"
    text = _read(size_path)
    if text is None or not node.is_dir():
        return None
    try:
        block_pages = int(text, 16) >> PAGE_SHIFT
    except ValueError:
        block_pages = 0
    if block_pages <= 0:
        raise TopologyError(
            f"{size_path}, line 1: {text.strip()!r} is not a hexadecimal block size; read again"
        )
    numbers = sorted(parse_count(e.name[6:], "a memory block", str(e)) for e in node.glob("memory[0-9]*"))
    blocks: PfnRanges = []
    for number in numbers:
        block = block_dir / f"memory{number}"
        if (_read(block / "state") or "online").strip() != "online":
            continue
        # "none" stands for a block of several zones.
        valid_zones = (_read(block / "valid_zones") or "none").split() if zone_name else []
        if valid_zones and valid_zones[0] not in ("none", zone_name):
            continue
        blocks.append((number * block_pages, (number + 1) * block_pages))
    return _merge(blocks)


def _system_ram(path: Path) -> PfnRanges | None:
    """Return the System RAM of /proc/iomem in whole pages; None where its addresses are hidden."""
    ranges: PfnRanges = []
    for number, line in enumerate((_read(path) or "").splitlines(), start=1):
        match = _IOMEM_LINE.fullmatch(line)
        if match is None:
            raise TopologyError(
                f"{path}, line {number}: {line.strip()!r} is not 'start-end : name'; read again"
            )
        # dax and virtio-mem add theirs as children: "System RAM (kmem)", "System RAM (virtio_mem)".
        if match[3] == "System RAM" or match[3].startswith("System RAM ("):
            start = -(-int(match[1], 16) // PAGE_BYTES)
            end = (int(match[2], 16) + 1) // PAGE_BYTES
            if start < end:
                ranges.append((start, end))
    return _merge(ranges) or None


def _merge(ranges: PfnRanges) -> PfnRanges:
    merged: PfnRanges = []
    for start, end in sorted(ranges):
        if merged and start <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(end, merged[-1][1]))
        else:
            merged.append((start, end))
    return merged


def _intersect(left: PfnRanges, right: PfnRanges) -> PfnRanges:
    return [(max(a, c), min(b, d)) for a, b in left for c, d in right if max(a, c) < min(b, d)]


def _subtract(ranges: PfnRanges, taken: PfnRanges) -> PfnRanges:
    for start, end in taken:
        ranges = [
            piece
            for a, b in ranges
            for piece in ((a, min(b, start)), (max(a, end), b))
            if piece[0] < piece[1]
        ]
    return ranges


def _parse_list(text: str, path: Path) -> tuple[int, ...]:
    """Return the numbers of a kernel list such as ``0-3,8``."""
    numbers: list[int] = []
    for part in filter(None, text.strip().split(",")):
        first, _, last = part.partition("-")
        low = parse_count(first, "a list of numbers such as 0-3,8", f"{path}, line 1")
        high = parse_count(last, "a list of numbers such as 0-3,8", f"{path}, line 1") if last else low
        if not low <= high < 1 << 20:
            raise TopologyError(f"{path}, line 1: {part!r} is not an ascending range of numbers; read again")
        numbers.extend(range(low, high + 1))
    return tuple(numbers)


def _read(path: Path) -> str | None:
    """Return a file's text, None where there is no such file."""
    try:
        return path.read_text(errors="replace")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise TopologyError(
            f"{path} cannot be read ({error.strerror}); run as a user who may read it"
        ) from error
