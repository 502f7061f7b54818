"""From sizes to zones: where a node's memory lies, and the marks the kernel computes for it.

The physical map is that of an x86-64 machine. The first node with kernel memory
has the legacy holes; the others follow at ascending PFNs. Memory of CPU-less CXL
nodes is one Movable zone each: dax/kmem hotplugs it and distributions online it
as movable.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import isqrt

from gpuscan.base.units import PAGE_SHIFT
from gpuscan.topology.model import ZONE_MOVABLE, ZONE_NAMES, MemoryKind, Node, Watermarks, Zone

PFN_LIMIT = 1 << 40
"""PFNs end here: x86-64 has at most 52 physical address bits."""

_GIB_PAGES = 1 << (30 - PAGE_SHIFT)
_DMA_END = 4096
"""ZONE_DMA ends at 16 MiB (MAX_DMA_PFN)."""
_DMA_RANGES = ((1, 0x9F), (0x100, _DMA_END))
"""Page 0 is reserved; e820 maps end at 639 KiB, the rest up to 1 MiB is the BIOS's."""
_DMA_MANAGED_PAGES = _DMA_END - 0x100
"""x86 keeps the first MiB from the allocator (trim_low_memory_range(), v5.13)."""
_LOW_END = 3 * _GIB_PAGES
"""Low RAM ends at 3 GiB: the PCI hole and the APICs take the rest of the 32-bit range."""
_HIGH_START = 4 * _GIB_PAGES
_MEMMAP_SHARE = 64
"""Boot memory pays for its own memmap: 64 bytes of struct page per 4 KiB page, 1/64."""
_CXL_ALIGN_PAGES = 4 * _GIB_PAGES
"""CXL windows are aligned to 256 MiB times their interleave ways (CXL 3.1, CFMWS), at most 16 ways."""

# lowmem_reserve_ratio by default: sysctl_lowmem_reserve_ratio, mm/page_alloc.c, v6.18.
_RESERVE_RATIO = {"DMA": 256, "DMA32": 256, "Normal": 32}
_WATERMARK_SCALE_FACTOR = 10
_MOVABLE_MIN_PAGES = (32, 128)


@dataclass(frozen=True, slots=True)
class PlannedZone:
    """A zone to be completed; what is None gets the kernel's figure (see :func:`complete`)."""

    name: str
    present: tuple[tuple[int, int], ...]
    managed_pages: int | None = None
    watermarks: Watermarks | None = None
    lowmem_reserve: tuple[int, ...] | None = None

    @property
    def managed(self) -> int:
        """Managed pages: as given, or what booting leaves of the present ones."""
        if self.managed_pages is not None:
            return self.managed_pages
        present_pages = sum(end - start for start, end in self.present)
        if self.name == "DMA":
            return min(present_pages, _DMA_MANAGED_PAGES)
        if self.name == ZONE_NAMES[ZONE_MOVABLE]:
            return present_pages  # hotplugged: its memmap is in kernel memory elsewhere
        return present_pages - present_pages // _MEMMAP_SHARE


@dataclass(frozen=True, slots=True)
class PlannedNode:
    """A node to be completed."""

    nid: int
    kind: MemoryKind
    tier: int
    cpus: tuple[int, ...]
    zones: tuple[PlannedZone, ...]


def is_hotplugged(kind: MemoryKind, cpus: Sequence[int]) -> bool:
    """Return whether a node's memory comes by hotplug and is thus one Movable zone."""
    return kind is not MemoryKind.DRAM and not cpus


def place(
    sizes: Iterable[tuple[int, bool]], taken: Sequence[tuple[int, int]] = ()
) -> list[tuple[PlannedZone, ...]]:
    """Lay nodes out one after the other.

    The first node that is not hotplugged gets the x86 low memory with its holes (98 of its
    pages are not RAM), DMA and DMA32, if nothing is taken below 4 GiB.

    Args:
        sizes: per node its pages and whether they are hotplugged (one Movable zone).
        taken: PFN ranges that are in use; memory above 4 GiB goes above the highest.

    Returns:
        Zones per node; none where the size is 0.
    """
    placed: list[tuple[PlannedZone, ...]] = []
    low_is_free = all(start >= _HIGH_START for start, _ in taken)
    next_pfn = max([_HIGH_START, *(end for _, end in taken)])
    for n_pages, hotplugged in sizes:
        zones: list[PlannedZone] = []
        if low_is_free and not hotplugged and n_pages > _DMA_END:
            low_is_free = False
            zones.append(PlannedZone("DMA", _DMA_RANGES))
            zones.append(PlannedZone("DMA32", ((_DMA_END, min(n_pages, _LOW_END)),)))
            n_pages -= min(n_pages, _LOW_END)
        if n_pages:
            # A CXL window never starts right behind other memory here, so there is always a hole.
            start = (
                _align_up(next_pfn + 1, _CXL_ALIGN_PAGES) if hotplugged else _align_up(next_pfn, _GIB_PAGES)
            )
            next_pfn = start + n_pages
            zones.append(PlannedZone("Movable" if hotplugged else "Normal", ((start, next_pfn),)))
        placed.append(tuple(zones))
    return placed


def _align_up(pfn: int, n_pages: int) -> int:
    return -(-pfn // n_pages) * n_pages


def complete(nodes: Sequence[PlannedNode]) -> tuple[Node, ...]:
    """Return the nodes with managed pages, watermarks and lowmem_reserve where they were not given."""
    managed = [(zone.name, zone.managed) for node in nodes for zone in node.zones]
    marks = iter(watermarks(managed, min_free_kbytes(managed)))
    return tuple(
        Node(
            node.nid,
            node.kind,
            node.tier,
            node.cpus,
            tuple(
                Zone(
                    zone.name,
                    zone.present,
                    zone.managed,
                    computed if zone.watermarks is None else zone.watermarks,
                    _reserve(zone.name, node.zones) if zone.lowmem_reserve is None else zone.lowmem_reserve,
                )
                for zone, computed in zip(node.zones, marks, strict=False)
            ),
        )
        for node in nodes
    )


def min_free_kbytes(managed: Iterable[tuple[str, int]]) -> int:
    """Return vm.min_free_kbytes for a machine's zones, given as (name, managed pages).

    calculate_min_free_kbytes() (mm/page_alloc.c, v6.18): four times the root of the KiB in zones
    up to Normal, between 128 KiB and 256 MiB. Where transparent huge pages are on, khugepaged
    raises it (set_recommended_min_free_kbytes()); that is left out.
    """
    lowmem_kbytes = sum(n_pages for name, n_pages in managed if name in _RESERVE_RATIO) << (PAGE_SHIFT - 10)
    return min(max(isqrt(lowmem_kbytes * 16), 128), 262_144)


def watermarks(managed: Sequence[tuple[str, int]], min_free: int) -> list[Watermarks]:
    """Return the watermarks of a machine's zones.

    __setup_per_zone_wmarks() (mm/page_alloc.c, v6.18): zones share vm.min_free_kbytes by size;
    Movable takes no part in the sum, and its own share is cut to [32, 128] pages, but not the step
    between its marks. A step is a quarter of the share or watermark_scale_factor/10000 of the zone.

    Args:
        managed: (name, managed pages) of every zone.
        min_free: vm.min_free_kbytes.
    """
    pages_min = min_free >> (PAGE_SHIFT - 10)
    movable = ZONE_NAMES[ZONE_MOVABLE]
    lowmem_pages = max(1, sum(n_pages for name, n_pages in managed if name != movable))
    marks = []
    for name, n_pages in managed:
        share = pages_min * n_pages // lowmem_pages
        step = max(share >> 2, n_pages * _WATERMARK_SCALE_FACTOR // 10_000)
        lowest, highest = _MOVABLE_MIN_PAGES
        mark = min(max(n_pages // 1024, lowest), highest) if name == movable else share
        marks.append(Watermarks(mark, mark + step, mark + 2 * step, mark + 3 * step))
    return marks


def _reserve(name: str, zones: Sequence[PlannedZone]) -> tuple[int, ...]:
    """Return lowmem_reserve: setup_per_zone_lowmem_reserve(), mm/page_alloc.c, v6.18."""
    managed = {zone.name: zone.managed for zone in zones}
    ratio = _RESERVE_RATIO.get(name)
    if ratio is None or not managed[name]:
        return (0,) * len(ZONE_NAMES)
    own = ZONE_NAMES.index(name)
    above = 0
    reserve = [0] * len(ZONE_NAMES)
    for index in range(own + 1, len(ZONE_NAMES)):
        above += managed.get(ZONE_NAMES[index], 0)
        reserve[index] = above // ratio
    return tuple(reserve)
