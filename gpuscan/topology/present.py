"""Which PFNs are there: memory blocks, and the "System RAM" ranges of /proc/iomem."""

from __future__ import annotations

import re

from gpuscan.base.errors import TopologyError
from gpuscan.base.units import PAGE_BYTES, PAGE_SHIFT
from gpuscan.topology.file_tree import BLOCKS, IOMEM, NODES, FileTree
from gpuscan.topology.layout import PFN_LIMIT
from gpuscan.topology.ranges import PfnRanges, intersect, merge, n_pages, subtract
from gpuscan.topology.zoneinfo import ZoneInfo, parse_count

_IOMEM_LINE = re.compile(r"\s*([0-9a-f]{1,16})-([0-9a-f]{1,16}) : (.*)")
_BLOCK = re.compile("memory[0-9]")


def present_ranges(files: FileTree, zones: list[ZoneInfo]) -> tuple[dict[ZoneInfo, PfnRanges], list[str]]:
    """Return the present PFNs of every populated zone, and what does not add up."""
    ram = system_ram(files)
    present: dict[ZoneInfo, PfnRanges] = {}
    notes = []
    if ram is None:
        notes.append(
            "/proc/iomem shows no addresses (root sees them): holes inside memory blocks are unknown"
        )
    for zone in sorted(zones, key=lambda zone: (zone.start_pfn, zone.nid)):
        end = zone.start_pfn + zone.spanned
        if end > PFN_LIMIT:
            raise TopologyError(
                f"zone {zone.name} of node {zone.nid} ends at PFN {end}, above 52-bit addresses; read again"
            )
        ranges: PfnRanges = [(zone.start_pfn, end)]
        shared = any(
            other is not zone
            and other.nid == zone.nid
            and other.start_pfn < end
            and zone.start_pfn < other.start_pfn + other.spanned
            for other in zones
        )
        blocks = memory_blocks(files, zone.nid)
        known = [] if ram is None else [ram]
        if blocks is not None:
            # "none" stands for a block of several zones.
            mine = (pfns for pfns, name in blocks if not shared or name in ("none", zone.name))
            known.insert(0, merge(mine))
        for one in known:
            ranges = intersect(ranges, one)
        # Spans overlap where nodes or zones alternate; a PFN still belongs to one zone.
        for earlier, taken in present.items():
            if earlier.start_pfn + earlier.spanned > zone.start_pfn:
                ranges = subtract(ranges, taken)
        found = n_pages(ranges)
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


def memory_blocks(files: FileTree, nid: int) -> list[tuple[tuple[int, int], str]] | None:
    """Return a node's online memory blocks, ascending, each with the zone that it is in; None without blocks.

    The zone is the first that the kernel says the block may be in; ``none`` where it says none.
    """
    size_name = f"{BLOCKS}/block_size_bytes"
    text = files.read(size_name)
    listed = files.names(f"{NODES}/node{nid}")
    if text is None or not listed:
        return None
    try:
        block_pages = int(text, 16) >> PAGE_SHIFT
    except ValueError:
        block_pages = 0
    if block_pages <= 0:
        raise TopologyError(
            f"{files.place(size_name)}, line 1: {text.strip()[:40]!r} is not a hexadecimal block size; "
            "read again"
        )
    numbers = sorted(
        parse_count(each[6:], "a memory block", files.place(f"{NODES}/node{nid}/{each}"))
        for each in listed
        if _BLOCK.match(each)
    )
    blocks = []
    for number in numbers:
        block = f"{BLOCKS}/memory{number}"
        # "going-offline" is there, with its pages in use, until it is "offline"; often it stays online.
        if (files.read(f"{block}/state") or "online").strip() == "offline":
            continue
        valid_zones = (files.read(f"{block}/valid_zones") or "none").split()
        name = valid_zones[0] if valid_zones else "none"
        blocks.append(((number * block_pages, (number + 1) * block_pages), name))
    return blocks


def system_ram(files: FileTree) -> PfnRanges | None:
    """Return the System RAM of /proc/iomem in whole pages; None where its addresses are hidden."""
    ranges: PfnRanges = []
    for number, line in enumerate((files.read(IOMEM) or "").splitlines(), start=1):
        match = _IOMEM_LINE.fullmatch(line)
        if match is None:
            raise TopologyError(
                f"{files.place(IOMEM)}, line {number}: {line.strip()[:200]!r} is not 'start-end : name'; "
                "read again"
            )
        # dax and virtio-mem add theirs as children: "System RAM (kmem)", "System RAM (virtio_mem)".
        if match[3] == "System RAM" or match[3].startswith("System RAM ("):
            start = -(-int(match[1], 16) // PAGE_BYTES)
            end = (int(match[2], 16) + 1) // PAGE_BYTES
            if start < end:
                ranges.append((start, end))
    return merge(ranges) or None
