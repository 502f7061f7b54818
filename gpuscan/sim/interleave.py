"""Memory of a node that is spread over several CXL devices, granule by granule, and back.

The arithmetic is that of cxl_calculate_position(), cxl_calculate_dpa_offset() and
cxl_calculate_hpa_offset() of drivers/cxl/core/region.c (github.com/davidlohr/linux, 0f1d1e1b3248): granule
g of a region is on device g modulo the ways, and there behind granule g - ways. Ways and granularities are
those that eiw_to_ways() and eig_to_granularity() of drivers/cxl/cxl.h know. There is no XOR
(cxl_do_xormap_calc()).

A node's memory is one region here, whatever holes lie between its sections, and all devices are alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.base.units import PAGE_BYTES, PAGE_SHIFT
from gpuscan.records.page_map import SECTION_PAGES, PageMap

WAYS = (1, 2, 3, 4, 6, 8, 12, 16)
GRANULARITIES = tuple(256 << shift for shift in range(7))
"""Bytes: 256 to 16384."""
_SECTION_SHIFT = SECTION_PAGES.bit_length() - 1


class Regions(NamedTuple):
    """Where the units of all devices are counted, by flat section; for compiled loops.

    Attributes:
        first_page: int64[n_sections], page of its node's region at which a section begins; -1: not tracked.
        first_unit: int64[n_sections], unit 0 of the first device of its node.
        n_units: int64[n_sections], units of each device of its node.
        ways: devices of a region.
        granularity_shift, unit_shift: log2 of the bytes.
    """

    first_page: NDArray[np.int64]
    first_unit: NDArray[np.int64]
    n_units: NDArray[np.int64]
    ways: int
    granularity_shift: int
    unit_shift: int


@dataclass(frozen=True, slots=True)
class Device:
    """One device of a region.

    Attributes:
        nid: node that its memory is a part of.
        way: its place among the devices of the region.
        first_unit, n_units: where its units are counted, and how many there are.
    """

    nid: int
    way: int
    first_unit: int
    n_units: int


class PageRuns(NamedTuple):
    """Pages that a driver finds in units, translating the first byte of each page of device memory.

    Attributes:
        frames: int64[n], flat pages.
        of_unit: int64[n], which of the units asked for each comes from.
        starts_run: bool[n], no page of the unit lies right in front of it in the host's memory.
        n_translated: pages of device memory that were looked at.
    """

    frames: NDArray[np.int64]
    of_unit: NDArray[np.int64]
    starts_run: NDArray[np.bool_]
    n_translated: int


class Interleaving:
    """The devices of a machine.

    Args:
        page_map: of the machine.
        nids: nodes whose memory is on devices.
        ways: devices of each, of :data:`WAYS`.
        granularity_bytes: of :data:`GRANULARITIES`.
        unit_bytes: memory of a device that shares a counter, a power of two, a page or more.

    Attributes:
        devices: by node, then by way.
        n_units: of all devices.
    """

    def __init__(
        self, page_map: PageMap, nids: Sequence[int], ways: int, granularity_bytes: int, unit_bytes: int
    ) -> None:
        self._ways, self._granularity_bytes = ways, granularity_bytes
        self._unit_pages = unit_bytes // PAGE_BYTES
        n_sections = len(page_map.section_nid)
        first_page = np.full(n_sections, -1, dtype=np.int64)
        first_unit, n_units = np.zeros(n_sections, dtype=np.int64), np.zeros(n_sections, dtype=np.int64)
        self._sections: dict[int, NDArray[np.int64]] = {}
        self.devices: list[Device] = []
        self.n_units = 0
        for nid in nids:
            sections = np.flatnonzero(page_map.section_nid == nid)
            self._sections[nid] = sections
            stretch_bytes = ways * granularity_bytes
            n_stretches = -(-len(sections) * SECTION_PAGES * PAGE_BYTES // stretch_bytes)
            of_each = -(-n_stretches * granularity_bytes // unit_bytes)
            first_page[sections] = np.arange(len(sections)) * SECTION_PAGES
            first_unit[sections], n_units[sections] = self.n_units, of_each
            for way in range(ways):
                self.devices.append(Device(nid, way, self.n_units, of_each))
                self.n_units += of_each
        self.regions = Regions(
            first_page,
            first_unit,
            n_units,
            ways,
            granularity_bytes.bit_length() - 1,
            unit_bytes.bit_length() - 1,
        )

    def pages_in(self, device: Device, units: NDArray[np.int64]) -> PageRuns:
        """Return the pages that a driver finds in units of a device, in the order it comes to them.

        Where granules are smaller than a page, each page of device memory holds parts of several pages, and
        the translation of its first byte names the first of them; the others are not found.

        Args:
            device: the device.
            units: int64[n], by their numbers on the device.
        """
        of_unit = np.repeat(np.arange(len(units)), self._unit_pages)
        dpa_pages = (units[:, None] * self._unit_pages + np.arange(self._unit_pages)).ravel()
        hpa = self._hpa_of(device.way, dpa_pages << PAGE_SHIFT)
        sections = self._sections[device.nid]
        there = hpa < len(sections) * SECTION_PAGES * PAGE_BYTES
        hpa, of_unit = hpa[there], of_unit[there]
        starts_run = np.ones(len(hpa), dtype=np.bool_)
        starts_run[1:] = (of_unit[1:] != of_unit[:-1]) | (hpa[1:] != hpa[:-1] + PAGE_BYTES)
        pages = hpa >> PAGE_SHIFT
        frames = sections[pages >> _SECTION_SHIFT] * SECTION_PAGES + pages % SECTION_PAGES
        return PageRuns(frames, of_unit, starts_run, len(dpa_pages))

    def _hpa_of(self, way: int, dpa: NDArray[np.int64]) -> NDArray[np.int64]:
        return place_in_region(dpa, way, self._ways, self._granularity_bytes)


def place_in_region(dpa: NDArray[np.int64], way: int, ways: int, granularity_bytes: int) -> NDArray[np.int64]:
    """Return int64[n], the place of each byte of a device in its region.

    Args:
        dpa: int64[n], bytes on the device, from the region's first there.
        way: the place of the device among the ``ways`` of the region.
        ways, granularity_bytes: of :data:`WAYS` and :data:`GRANULARITIES`.
    """
    granule, within = np.divmod(dpa, granularity_bytes)
    place: NDArray[np.int64] = (granule * ways + way) * granularity_bytes + within
    return place
