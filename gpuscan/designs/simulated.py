"""A simulated machine as the designs see it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.folio_steps import FolioSteps
from gpuscan.designs.machine import BatchResult, BatchResults, Page, Pages, ZoneSpan
from gpuscan.engine.stages import MigrateResult, MigrateStatus
from gpuscan.migrate.simulated import ManyFolios, SimulatedMigrator
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.frames import PMD_ORDER
from gpuscan.sim.machine import SimulatedMachine


class SimulatedPages:
    """A :class:`gpuscan.designs.machine.Machine`: positions are flat indexes.

    All pages are online. A folio's memory cgroup is its process.

    Args:
        machine: the machine.
        migrator: what moves its folios; made without VMAs, as kmigrated calls it.
    """

    def __init__(self, machine: SimulatedMachine, migrator: SimulatedMigrator) -> None:
        self._machine = machine
        self._migrator = migrator
        self._many = ManyFolios(migrator)
        topology, page_map = machine.topology, machine.page_map
        self._extent_start = page_map.extent_pfn_start.tolist()
        self._extent_end = page_map.extent_pfn_end.tolist()
        self._extent_offset = page_map.extent_flat_offset.tolist()
        self._section_pfn = page_map.section_pfn.tolist()
        self._section_nid = page_map.section_nid.tolist()
        self._sections: list[int] = np.unique(page_map.section_pfn // SECTION_PAGES).tolist()
        self._nids = frozenset(node.nid for node in topology.nodes if node.present_pages)
        self._zones: dict[int, list[ZoneSpan]] = {node.nid: [] for node in topology.nodes}
        for node, zone in topology.zones:
            if zone.present:
                start, end = zone.present[0][0], zone.present[-1][1]
                self._zones[node.nid].append(ZoneSpan(node.nid, start, end, zone.name == "Device"))
        self._folio_at: Callable[[int], int] = machine.space.folio_at
        self._large = [mapping for mapping in machine.space.mappings if mapping.order]
        self._large_orders = sorted({mapping.order for mapping in self._large})
        self._process_start = [process.first_folio for process in machine.processes]
        self._is_node = np.zeros(max(self._nids) + 1, dtype=np.bool_)
        self._is_node[list(self._nids)] = True
        self._isolated = np.zeros(page_map.n_pages, dtype=np.bool_)

    @property
    def n_positions(self) -> int:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self._machine.page_map.n_pages

    @property
    def nids(self) -> frozenset[int]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self._nids

    def is_top_tier(self, nid: int) -> bool:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return bool(self._machine.top_tier[nid])

    def has_cpus(self, nid: int) -> bool:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return bool(self._machine.topology.node(nid).cpus)

    def present_pages(self, nid: int) -> int:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self._machine.topology.node(nid).present_pages

    def distance(self, nid: int, other: int) -> int:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self._machine.topology.distance_between(nid, other)

    def zones(self, nid: int) -> Sequence[ZoneSpan]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self._zones[nid]

    def sections(self) -> Sequence[int]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self._sections

    def position(self, pfn: int) -> int:
        """See :class:`gpuscan.designs.machine.Machine`."""
        extent = bisect_right(self._extent_start, pfn) - 1
        if extent < 0 or pfn >= self._extent_end[extent]:
            return -1
        position: int = pfn + self._extent_offset[extent]
        return position

    def pfn(self, position: int) -> int:
        """See :class:`gpuscan.designs.machine.Machine`."""
        pfn: int = self._section_pfn[position // SECTION_PAGES] + position % SECTION_PAGES
        return pfn

    def ranges(self, start_pfn: int, end_pfn: int) -> Sequence[tuple[int, int]]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        found = []
        extent = max(0, bisect_right(self._extent_start, start_pfn) - 1)
        while extent < len(self._extent_start) and self._extent_start[extent] < end_pfn:
            lo = max(start_pfn, self._extent_start[extent])
            hi = min(end_pfn, self._extent_end[extent])
            if lo < hi:
                offset = self._extent_offset[extent]
                found.append((lo + offset, hi + offset))
            extent += 1
        return found

    def page(self, position: int) -> Page:
        """See :class:`gpuscan.designs.machine.Machine`; free memory is pages off the LRU."""
        folio, nid = self._folio_at(position), self._section_nid[position // SECTION_PAGES]
        if folio >= 0:
            order = self._machine.space.order_of(folio) if self._large_orders else 0
            return Page(True, nid, position, 1 << order, not self._isolated.item(position))
        for order in self._large_orders:
            head = position >> order << order
            folio = self._folio_at(head)
            if folio >= 0 and self._machine.space.order_of(folio) >= order:
                n_pages = 1 << self._machine.space.order_of(folio)
                return Page(True, nid, head, n_pages, not self._isolated.item(head))
        return Page(True, nid, position, 1, False)

    def pages(self, positions: NDArray[np.int64]) -> Pages:
        """See :class:`gpuscan.designs.machine.Machine`."""
        space, page_map = self._machine.space, self._machine.page_map
        nids = page_map.nid_of_flat(positions).astype(np.int64)
        heads, folios = positions, space.folios_at(positions)
        for order in self._large_orders:
            around = positions >> order << order
            found = space.folios_at(around)
            inside = (folios < 0) & (found >= 0)
            inside[inside] = space.orders_of(found[inside]) >= order
            heads, folios = np.where(inside, around, heads), np.where(inside, found, folios)
        mapped = folios >= 0
        n_pages = np.ones(len(positions), dtype=np.int64)
        if self._large_orders:
            n_pages[mapped] <<= space.orders_of(folios[mapped])
        online = np.ones(len(positions), dtype=np.bool_)
        return Pages(online, nids, heads, n_pages, mapped & ~self._isolated[heads])

    def pfns(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self._machine.page_map.pfn_of_flat(positions)

    def online_positions(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self._machine.page_map.flat_of_pfn(pfns)

    def lru_heads(self, pfns: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        positions = self.online_positions(pfns)
        if self._large:
            pages = [self.page(position) if position >= 0 else None for position in positions.tolist()]
            return np.array([page.head if page and page.lru else -1 for page in pages], dtype=np.int64)
        mapped = (positions >= 0) & (self._machine.space.folio_of[positions] > 0)
        mapped &= ~self._isolated[positions]
        return np.where(mapped, positions, -1)

    def nids_at(self, positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self._machine.page_map.nid_of_flat(positions).astype(np.int64)

    def memcg(self, head: int) -> int:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return bisect_right(self._process_start, self._folio_at(head)) - 1

    def memcgs(self, heads: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        folios = self._machine.space.folios_at(heads)
        return np.searchsorted(self._process_start, folios, side="right") - 1

    def free_space_enough(self, nid: int) -> bool:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self._machine.free_space_enough(nid)

    def n_steps(self, start_pfn: int, end_pfn: int, nid: int | None = None) -> int:
        """See :class:`gpuscan.designs.machine.Machine`; no folio lies across ``start_pfn``."""
        n_stepped_over = 0
        for mapping in self._large:
            end = mapping.first_folio + mapping.n_folios
            heads = self._machine.space.frame_of[mapping.first_folio : end].astype(np.int64)
            if nid is not None:
                heads = heads[self._machine.page_map.nid_of_flat(heads) == nid]
            for lo, hi in self.ranges(start_pfn, end_pfn):
                n_folios = int(np.count_nonzero((heads >= lo) & (heads < hi)))
                n_stepped_over += n_folios * ((1 << mapping.order) - 1)
        return end_pfn - start_pfn - n_stepped_over

    def n_steps_each(self, starts: NDArray[np.int64], ends: NDArray[np.int64]) -> NDArray[np.int64]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        if not self._large:
            return ends - starts
        parts = zip(starts.tolist(), ends.tolist(), strict=True)
        return np.array([self.n_steps(start, end) for start, end in parts], dtype=np.int64)

    def steps_to(self, start_pfn: int, pfns: NDArray[np.int64], nid: int | None = None) -> NDArray[np.int64]:
        """See :class:`gpuscan.designs.machine.Machine`; no folio lies across ``start_pfn``."""
        return self._folio_steps(nid).before(start_pfn, pfns) if self._large else pfns - start_pfn

    def _folio_steps(self, nid: int | None) -> FolioSteps:
        """Return the large folios of a node, or of all, as they lie now."""
        heads, n_pages = [], []
        for mapping in self._large:
            end = mapping.first_folio + mapping.n_folios
            flats = self._machine.space.frame_of[mapping.first_folio : end].astype(np.int64)
            if nid is not None:
                flats = flats[self._machine.page_map.nid_of_flat(flats) == nid]
            heads.append(self._machine.page_map.pfn_of_flat(flats))
            n_pages.append(np.full(len(flats), 1 << mapping.order))
        return FolioSteps.of(np.concatenate(heads), np.concatenate(n_pages))

    def prepare(self, head: int, nid: int) -> int:
        """See :class:`gpuscan.designs.machine.Machine`; for a node without memory the kernel would oops."""
        if nid not in self._nids:
            return MigrateStatus.EINVAL
        result = self._migrator.prepare(head, nid)
        if result == 0:
            self._isolated[head] = True
        return result

    @property
    def isolated_goes_off_lru(self) -> bool:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return True

    def refusals(self, heads: NDArray[np.int64], nids: NDArray[np.int64]) -> NDArray[np.int8]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        refused = np.full(len(heads), -1, dtype=np.int8)
        there = self._have_memory(nids)
        refused[there] = self._many.refusals(heads[there], nids[there]) != 0
        return refused

    def draws(self, n: int) -> NDArray[np.bool_]:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self._many.isolation_draws(n)

    def prepare_many(
        self, heads: NDArray[np.int64], nids: NDArray[np.int64], accepted: NDArray[np.bool_]
    ) -> None:
        """See :class:`gpuscan.designs.machine.Machine`."""
        there = self._have_memory(nids)
        self._many.prepare_many(heads[there], nids[there], accepted[there])
        self._isolated[heads[accepted]] = True

    def _have_memory(self, nids: NDArray[np.int64]) -> NDArray[np.bool_]:
        known = (nids >= 0) & (nids < len(self._is_node))
        return known & self._is_node[np.where(known, nids, 0)]

    def migrate(self, heads: Sequence[int] | NDArray[np.int64], nid: int) -> BatchResult:
        """See :class:`gpuscan.designs.machine.Machine`."""
        frames = np.array(heads, dtype=np.int64)
        n_pages = 1 << self._machine.space.orders_of(self._machine.space.folios_at(frames))
        self._isolated[frames] = False
        if nid not in self._nids:
            return BatchResult(
                np.zeros(len(heads), dtype=np.bool_), counts=(("pgmigrate_fail", int(n_pages.sum())),)
            )
        result = self._migrator.migrate_isolated(nid, frames)
        moved = result.status == MigrateStatus.MOVED
        counts = tuple(migrate_counts(result, n_pages).items())
        return BatchResult(moved, result.busy_ns, result.events, counts)

    def steady_pages(self, nid: int) -> int:
        """See :class:`gpuscan.designs.machine.Machine`."""
        return self._many.steady_pages(nid) if nid in self._nids else self.n_positions

    def migrate_each(
        self, heads: NDArray[np.int64], ends: NDArray[np.int64], nids: NDArray[np.int64]
    ) -> BatchResults:
        """See :class:`gpuscan.designs.machine.Machine`."""
        self._isolated[heads] = False
        result = self._migrator.migrate_singles(heads, ends, nids)
        n_rounds = int(result.n_rounds.sum())
        counts = {
            "pgmigrate_success": len(heads),
            "migrate_pages_rounds": n_rounds,
            "migrate_pages_passes": n_rounds,
        }
        return BatchResults(np.ones(len(heads), dtype=np.bool_), result.busy_ns, result.events, counts)


def migrate_counts(result: MigrateResult, n_pages: NDArray[np.int64]) -> dict[str, int]:
    """Return what ``migrate_pages()`` counts, and our ``migrate_pages_rounds`` and ``migrate_pages_passes``.

    Args:
        result: of folios that were all isolated.
        n_pages: int64[n], their base pages.
    """
    moved, failed = result.status == MigrateStatus.MOVED, result.status == MigrateStatus.EAGAIN
    # What migrate_pages() did not come to any more is put back without being counted.
    failed[np.flatnonzero(result.status == MigrateStatus.ENOMEM)[:1]] = True
    huge = n_pages >= 1 << PMD_ORDER
    return {
        "pgmigrate_success": int(n_pages[moved].sum()),
        "pgmigrate_fail": int(n_pages[failed].sum()),
        "thp_migration_success": int((moved & huge).sum()),
        "thp_migration_fail": int((failed & huge).sum()),
        "migrate_pages_rounds": result.n_rounds,
        "migrate_pages_passes": result.n_passes,
    }
