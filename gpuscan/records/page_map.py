"""PFN <-> flat index: all pages of a machine in one flat, PFN-ordered index.

The flat index is what every array of the store is indexed by. It is made of
whole sections (32,768 pages, 128 MiB), present ones only, so holes cost nothing
and ``flat % 32768 == pfn % 32768``: a section, a 512-page block and a 64-page
word mean the same PFNs on both sides. A section that two zones share appears
once per zone; where zones alternate inside a section, it appears once per turn,
so that flat order is PFN order always.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from gpuscan.base.arguments import INT64_MAX, ArraySpec, all_of, check_arrays, integers, settle, whole
from gpuscan.base.errors import ArgumentError, TopologyError
from gpuscan.records.formats import N_NODES_MAX

SECTION_PAGES = 32_768
"""Pages of a sparsemem section with 4 KiB pages: SECTION_SIZE_BITS is 27 on x86-64 and arm64."""
BLOCK_PAGES = 512
"""Pages under one block bit: 2 MiB."""
WORD_PAGES = 64
"""Pages under one word of ready bits."""
_SECTION_SHIFT = 15


_ARRAYS = (
    ArraySpec("extent_pfn_start", "int64", ("extents",), values=(0, INT64_MAX), ascends=True),
    ArraySpec("extent_pfn_end", "int64", ("extents",), values=(1, INT64_MAX), ascends=True),
    ArraySpec("extent_flat_offset", "int64", ("extents",), multiple_of=SECTION_PAGES),
    ArraySpec("extent_nid", "int32", ("extents",), values=(0, N_NODES_MAX)),
    ArraySpec("extent_zone", "int32", ("extents",)),
    ArraySpec("section_pfn", "int64", ("sections",), values=(0, INT64_MAX), multiple_of=SECTION_PAGES),
    ArraySpec("section_nid", "int32", ("sections",), values=(0, N_NODES_MAX)),
    ArraySpec("section_zone", "int32", ("sections",)),
)
"""Fields of :class:`PageMap`: kernels look up in them and check nothing."""


@dataclass(frozen=True, slots=True)
class Extent:
    """Present PFNs ``[pfn_start, pfn_end)`` of one zone; ``zone`` is any id unique in the machine."""

    pfn_start: int
    pfn_end: int
    nid: int
    zone: int

    def __post_init__(self) -> None:
        settle(
            self,
            pfn_start=whole("extent: pfn_start", self.pfn_start, -INT64_MAX),
            pfn_end=whole("extent: pfn_end", self.pfn_end, -INT64_MAX),
            nid=whole("extent: nid", self.nid, 0, N_NODES_MAX - 1),
            zone=whole("extent: zone", self.zone, 0, (1 << 31) - 1),
        )


@dataclass(frozen=True, slots=True, eq=False)
class PageMap:
    """The flat index of a machine.

    Attributes:
        extent_pfn_start, extent_pfn_end: int64[n_extents], ascending and disjoint.
        extent_flat_offset: int64[n_extents]; ``flat = pfn + offset`` inside the extent.
        extent_nid, extent_zone: int32[n_extents].
        section_pfn: int64[n_sections]; PFN of flat page ``section * 32768``.
        section_nid, section_zone: int32[n_sections]; a flat section belongs to one zone.
    """

    extent_pfn_start: NDArray[np.int64]
    extent_pfn_end: NDArray[np.int64]
    extent_flat_offset: NDArray[np.int64]
    extent_nid: NDArray[np.int32]
    extent_zone: NDArray[np.int32]
    section_pfn: NDArray[np.int64]
    section_nid: NDArray[np.int32]
    section_zone: NDArray[np.int32]

    def __post_init__(self) -> None:
        arrays = check_arrays("page map", _ARRAYS, (getattr(self, spec.name) for spec in _ARRAYS), {})
        settle(self, **{spec.name: array for spec, array in zip(_ARRAYS, arrays, strict=True)})
        start, end, offset = self.extent_pfn_start, self.extent_pfn_end, self.extent_flat_offset
        if (start >= end).any() or (start[1:] < end[:-1]).any():
            raise ArgumentError(
                "page map: its extents are not ascending and disjoint; use PageMap.from_extents"
            )
        if len(start) == 0 or int((start + offset).min()) < 0 or int((end + offset).max()) > self.n_pages:
            raise ArgumentError("page map: its extents lie outside its sections; use PageMap.from_extents")

    @classmethod
    def from_extents(cls, extents: Iterable[Extent]) -> PageMap:
        """Build the index.

        Raises:
            TopologyError: an extent is empty or negative, or one PFN is in two extents.
        """
        listed = all_of("page map: extents", extents, Extent, "give Extents")
        ordered = sorted(listed, key=lambda extent: extent.pfn_start)
        if not ordered:
            raise TopologyError("the machine has no memory: give at least one zone with present pages")
        offsets: list[int] = []
        section_pfn: list[NDArray[np.int64]] = []
        section_of: list[tuple[int, int, int]] = []  # nid, zone, count
        n_sections = 0
        previous: Extent | None = None
        last_section = -1  # PFN section number the last flat section stands for
        for extent in ordered:
            if not 0 <= extent.pfn_start < extent.pfn_end:
                raise TopologyError(
                    f"zone {extent.zone} of node {extent.nid} has the empty or negative PFN range "
                    f"[{extent.pfn_start}, {extent.pfn_end}); give start < end"
                )
            if previous is not None and extent.pfn_start < previous.pfn_end:
                raise TopologyError(
                    f"PFN {extent.pfn_start} is in two zones (zone {previous.zone} of node {previous.nid} "
                    f"and zone {extent.zone} of node {extent.nid}); make their present ranges disjoint"
                )
            first = extent.pfn_start >> _SECTION_SHIFT
            last = (extent.pfn_end - 1) >> _SECTION_SHIFT
            shares = previous is not None and previous.zone == extent.zone and first == last_section
            fresh_first = first + 1 if shares else first
            offsets.append((n_sections - fresh_first) * SECTION_PAGES)
            if last >= fresh_first:
                section_pfn.append(np.arange(fresh_first, last + 1, dtype=np.int64) << _SECTION_SHIFT)
                section_of.append((extent.nid, extent.zone, last + 1 - fresh_first))
                n_sections += last + 1 - fresh_first
            last_section = last
            previous = extent
        counts = [count for _, _, count in section_of]
        return cls(
            np.array([extent.pfn_start for extent in ordered], dtype=np.int64),
            np.array([extent.pfn_end for extent in ordered], dtype=np.int64),
            np.array(offsets, dtype=np.int64),
            np.array([extent.nid for extent in ordered], dtype=np.int32),
            np.array([extent.zone for extent in ordered], dtype=np.int32),
            np.concatenate(section_pfn),
            np.repeat(np.array([nid for nid, _, _ in section_of], dtype=np.int32), counts),
            np.repeat(np.array([zone for _, zone, _ in section_of], dtype=np.int32), counts),
        )

    @property
    def n_sections(self) -> int:
        """Sections in the flat index."""
        return len(self.section_pfn)

    @property
    def n_pages(self) -> int:
        """Flat pages, a multiple of 32,768; not all of them are present."""
        return self.n_sections * SECTION_PAGES

    @property
    def n_present_pages(self) -> int:
        """Present pages."""
        return int((self.extent_pfn_end - self.extent_pfn_start).sum())

    def flat_of_pfn(self, pfns: ArrayLike) -> NDArray[np.int64]:
        """Return flat indexes of PFNs (any shape, int64); -1 for a PFN in a hole or outside the machine."""
        pfn = integers("PFNs", pfns).astype(np.int64, copy=False)
        extent = np.searchsorted(self.extent_pfn_start, pfn, side="right") - 1
        known = (extent >= 0) & (pfn < self.extent_pfn_end[extent])
        return np.where(known, pfn + self.extent_flat_offset[extent], -1)

    def pfn_of_flat(self, flats: ArrayLike) -> NDArray[np.int64]:
        """Return PFNs of flat indexes (any shape, int64).

        Raises:
            ArgumentError: there are no such pages.
        """
        flat = self._checked(flats)
        pfn: NDArray[np.int64] = self.section_pfn[flat >> _SECTION_SHIFT] + (flat & (SECTION_PAGES - 1))
        return pfn

    def nid_of_flat(self, flats: ArrayLike) -> NDArray[np.int32]:
        """Return the node of flat indexes (any shape, int32).

        Raises:
            ArgumentError: there are no such pages.
        """
        nid: NDArray[np.int32] = self.section_nid[self._checked(flats) >> _SECTION_SHIFT]
        return nid

    def _checked(self, flats: ArrayLike) -> NDArray[np.int64]:
        """Return flat indexes, none of which would be looked up from the end."""
        flat = integers("flat pages", flats)
        if flat.size and (int(flat.min()) < 0 or int(flat.max()) >= self.n_pages):
            raise ArgumentError(
                f"flat pages from {flat.min()} to {flat.max()} are not all in [0, {self.n_pages}); "
                "give those of this machine (flat_of_pfn has -1 for a PFN that it does not have)"
            )
        return flat.astype(np.int64, copy=False)

    def present_bits(self) -> NDArray[np.uint64]:
        """Return uint64[n_pages / 64], one bit per flat page, set where the page is present."""
        words = np.zeros(self.n_pages // WORD_PAGES, dtype=np.uint64)
        for start, end in self.extent_flat_ranges():
            set_bit_range(words, start, end)
        return words

    def extent_flat_ranges(self) -> list[tuple[int, int]]:
        """Return the flat range of every extent, ascending."""
        starts = (self.extent_pfn_start + self.extent_flat_offset).tolist()
        ends = (self.extent_pfn_end + self.extent_flat_offset).tolist()
        return list(zip(starts, ends, strict=True))

    def part(self, first_section: int, end_section: int) -> PageMap:
        """Return the index of flat sections ``[first_section, end_section)`` alone.

        Raises:
            ArgumentError: there are no such sections.
        """
        first_section = whole("part: first_section", first_section, -INT64_MAX)
        end_section = whole("part: end_section", end_section, -INT64_MAX)
        if not 0 <= first_section < end_section <= self.n_sections:
            raise ArgumentError(
                f"part: there are no sections [{first_section}, {end_section}) among {self.n_sections}; "
                "give some of these, first < end"
            )
        lo, hi = first_section * SECTION_PAGES, end_section * SECTION_PAGES
        start = np.maximum(self.extent_pfn_start, lo - self.extent_flat_offset)
        end = np.minimum(self.extent_pfn_end, hi - self.extent_flat_offset)
        inside = start < end
        sections = slice(first_section, end_section)
        return PageMap(
            start[inside],
            end[inside],
            self.extent_flat_offset[inside] - lo,
            self.extent_nid[inside],
            self.extent_zone[inside],
            self.section_pfn[sections],
            self.section_nid[sections],
            self.section_zone[sections],
        )

    def node_section_ranges(self, nid: int) -> list[tuple[int, int]]:
        """Return the flat ranges ``[lo, hi)`` of whole sections that make up node ``nid``, ascending."""
        nid = whole("node_section_ranges: nid", nid, -INT64_MAX)
        mine = np.concatenate(([False], self.section_nid == nid, [False]))
        edges = np.flatnonzero(mine[1:] != mine[:-1]) * SECTION_PAGES
        return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def set_bit_range(words: NDArray[np.uint64], start: int, end: int) -> None:
    """Set bits ``[start, end)`` of a bitmap of 64-bit words, in place."""
    if start >= end:
        return
    first, last = start // WORD_PAGES, (end - 1) // WORD_PAGES
    head = np.uint64((~0 << (start % WORD_PAGES)) & 0xFFFF_FFFF_FFFF_FFFF)
    tail = np.uint64((1 << ((end - 1) % WORD_PAGES + 1)) - 1)
    if first == last:
        words[first] |= head & tail
        return
    words[first] |= head
    words[first + 1 : last] = ~np.uint64(0)
    words[last] |= tail
