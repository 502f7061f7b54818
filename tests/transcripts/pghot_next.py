"""pghot in the tree after v7, one page at a time: reports with a count, ranges, the nearest node of the top
tier, and threads that come and go with a node's memory.

From github.com/davidlohr/linux at bef84326d61f: mm/pghot.c, mm/pghot-default.c, mm/pghot-precise.c,
include/linux/pghot.h. The walk, the threshold and the rate limit are those of v7, so they are in ``pghot``;
what is written anew is here, from that text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from .pghot import PRECISE, Pghot
from .world import EINVAL, NUMA_NO_NODE, Folio

NID_KNOWN = 1 << 27
"""PGHOT_NID_KNOWN, of the precise mode: the record's nid came from a source that knows it."""


class Source(IntEnum):
    """enum pghot_src."""

    HINTFAULTS = 0
    HWHINTS = 1


@dataclass
class PghotNext(Pghot):
    """The same machine. Nodes of ``without_memory`` have none online yet; distances are 20 unless given.

    ``tunables.target_nid`` is vm.pghot_target_nid, -1 by default there; ``enabled_sources`` is
    vm.pghot_enabled_sources, hint faults alone by default.
    """

    distances: Mapping[tuple[int, int], int] = field(default_factory=dict)
    enabled_sources: int = 1 << Source.HINTFAULTS
    without_memory: set[int] = field(default_factory=set)
    hot_maps: set[int] = field(init=False)
    threads: set[int] = field(init=False)
    nearest: dict[int, int] = field(init=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for page in self.world.pages.values():
            if page.nid in self.without_memory:
                page.online = False
        # pghot_setup_hot_map, and pghot_init for the threads: what has memory at boot.
        self.hot_maps = {section for section in self.sections() if self.is_lower(self.section_nid(section))}
        self.threads = {nid for nid in self.with_memory() if self.is_lower(nid)}
        self.update_targets()

    # -- nodes and sections ----------------------------------------------------------------------------------

    def with_memory(self) -> list[int]:
        """N_MEMORY, ascending."""
        return sorted(self.world.nodes - self.without_memory)

    def is_lower(self, nid: int) -> bool:
        return nid != NUMA_NO_NODE and nid not in self.world.top_tier

    def section_nid(self, section: int) -> int:
        """The first page must be online: pfn_to_online_page(), in pghot_setup_hot_map and in the walk."""
        page = self.world.online_page(section * self.tunables.section_pages)
        return page.nid if page is not None else NUMA_NO_NODE

    def has_records(self, section: int) -> bool:
        return section in self.hot_maps

    def update_targets(self) -> None:
        """pghot_topo_targets_update: for every node, with memory or without; the lower nid on a tie."""
        fast = [nid for nid in self.with_memory() if nid in self.world.top_tier]
        self.nearest = {}
        for nid in sorted(self.world.nodes):
            best, best_distance = NUMA_NO_NODE, None
            for candidate in fast:
                distance = self.distance(nid, candidate)
                if best_distance is None or distance < best_distance:
                    best, best_distance = candidate, distance
            self.nearest[nid] = best

    def distance(self, nid: int, other: int) -> int:
        return 10 if nid == other else self.distances.get((nid, other), 20)

    def sections_of(self, nid: int) -> set[int]:
        size = self.tunables.section_pages
        return {pfn // size for pfn, page in self.world.pages.items() if page.valid and page.nid == nid}

    def add_memory(self, nid: int) -> None:
        """All memory of a node comes: MEM_GOING_ONLINE for its sections, then NODE_ADDED_FIRST_MEMORY.

        The node's first block comes before it has a tier and gets its map by pghot_alloc_node_hotmaps, the
        others by pghot_online_sec_hotmap: all have one in the end. A map that is there stays.
        """
        for page in self.world.pages.values():
            if page.nid == nid and page.valid:
                page.online = True
        self.without_memory.discard(nid)
        self.update_targets()
        if self.is_lower(nid):
            for section in self.sections_of(nid) - self.hot_maps:
                self.hot_maps.add(section)
            self.threads.add(nid)

    def remove_memory(self, nid: int) -> None:
        """All memory of a node goes: MEM_OFFLINE frees maps with records and hot bit, then the thread stops.

        The node's flag stays as it is, for a thread that comes later.
        """
        for page in self.world.pages.values():
            if page.nid == nid:
                page.online = False
        size = self.tunables.section_pages
        for section in self.sections_of(nid) & self.hot_maps:
            self.hot_maps.discard(section)
            self.hot_sections.discard(section)
            for pfn in range(section * size, (section + 1) * size):
                if pfn in self.records:
                    self.records[pfn] = 0
        self.without_memory.add(nid)
        self.update_targets()
        self.threads.discard(nid)

    # -- the producers ---------------------------------------------------------------------------------------

    def record_access(self, pfn: int, nid: int, now: int) -> int:
        """pghot_record_access, source hint faults: one access."""
        return self.record_accesses(pfn, nid, Source.HINTFAULTS, 1, now)

    def record_accesses(self, pfn: int, nid: int, source: int, nr: int, now: int) -> int:
        """pghot_record_accesses: a report of nr accesses to one page."""
        checked = self.check_report(nid, source, nr)
        if checked <= 0:
            return checked
        self.record_page(pfn, nid, nr, now)
        return 0

    def record_range(self, pfn: int, nr_pages: int, nid: int, source: int, nr: int, now: int) -> int:
        """pghot_record_range: counted once as a report; each folio inherits the count. Return folios."""
        end = pfn + nr_pages
        if nr_pages == 0 or end >= 1 << 64:
            return EINVAL
        checked = self.check_report(nid, source, nr)
        if checked <= 0:
            return checked
        n_recorded = 0
        while pfn < end:
            step, recorded = self.record_page(pfn, nid, nr, now)
            n_recorded += recorded
            pfn += step
        return n_recorded

    def check_report(self, nid: int, source: int, nr: int) -> int:
        """pghot_record_common: 1 to go on, 0 where the source is not enabled, or -EINVAL."""
        if nr == 0 or not self.nid_valid(nid):
            return EINVAL
        if source not in (Source.HINTFAULTS, Source.HWHINTS):
            return EINVAL
        if not self.enabled_sources & 1 << source:
            return 0
        name = "pghot_recorded_hintfaults" if source == Source.HINTFAULTS else "pghot_recorded_hwhints"
        self.world.counters[name] += 1
        return 1

    def nid_valid(self, nid: int) -> bool:
        """pghot_nid_valid: the default mode takes any, the precise one a node of the top tier or none."""
        if self.mode is not PRECISE or nid == NUMA_NO_NODE:
            return True
        return 0 <= nid < 1024 and nid in self.with_memory() and nid in self.world.top_tier

    def record_page(self, pfn: int, nid: int, nr: int, now: int) -> tuple[int, bool]:
        """pghot_record_page: return the pages up to the end of the folio, and whether it was recorded.

        A page that cannot be promoted is a step of one, but for a folio that is off its LRU list: that one
        is stepped over whole.
        """
        page = self.world.online_page(pfn)
        if page is None or self.is_device(pfn):
            return 1, False
        if page.nid == nid or page.nid in self.world.top_tier:
            return 1, False
        folio = page.folio
        step = folio.n_pages - (pfn - folio.first_pfn)
        if not folio.on_lru:
            return step, False
        section = folio.first_pfn // self.tunables.section_pages
        if section not in self.hot_maps:
            return step, False
        self.world.counters["pghot_recorded_accesses"] += nr
        if self.update_record(folio.first_pfn, nid, nr, now):
            self.hot_sections.add(section)
            self.activated.add(page.nid)
        return step, True

    def update_record(self, pfn: int, nid: int, nr: int, now: int) -> bool:
        """pghot_update_record: the word is built from zero, so READY goes with the window."""
        mode, old = self.mode, self.records[pfn]
        nr = min(nr, mode.freq_max)
        old_time = (old >> mode.time_shift) & mode.time_mask
        if self.age_ms(old_time, now) > self.window_ms:
            freq = nr
        else:
            freq = min(((old >> mode.freq_shift) & mode.freq_max) + nr, mode.freq_max)

        new = 0
        if mode.nid_bits:
            nid_mask = (1 << mode.nid_bits) - 1
            if nid != NUMA_NO_NODE:
                new = (nid & nid_mask) | NID_KNOWN
            elif old & NID_KNOWN:
                # Who does not know the node does not overwrite who does.
                new = old & (nid_mask | NID_KNOWN)
        new |= freq << mode.freq_shift
        new |= ((now >> mode.bucket_shift) & mode.time_mask) << mode.time_shift
        if freq >= self.tunables.freq_threshold:
            new |= mode.ready
        self.records[pfn] = new
        return bool(new & mode.ready)

    # -- the thread ------------------------------------------------------------------------------------------

    def wake(self, nid: int, now: int) -> bool:
        return nid in self.threads and super().wake(nid, now)

    def consume(self, pfn: int) -> tuple[int, int] | None:
        """pghot_get_record: NUMA_NO_NODE where no source knew the node, as always in the default mode."""
        mode, word = self.mode, self.records[pfn]
        if not word & mode.ready:
            return None
        self.records[pfn] = 0
        nid = NUMA_NO_NODE
        if mode.nid_bits and word & NID_KNOWN:
            nid = word & ((1 << mode.nid_bits) - 1)
        return nid, (word >> mode.time_shift) & mode.time_mask

    def promotion_target(self, recorded: int, src_nid: int) -> int:
        """pghot_promotion_target, asked by the walk where the record names no node."""
        if recorded != NUMA_NO_NODE:
            return recorded
        if self.tunables.target_nid != NUMA_NO_NODE:
            return self.tunables.target_nid
        return self.nearest[src_nid]

    def should_migrate(self, n_pages: int, nid: int, stored_time: int, now: int) -> bool:
        """pgdat_free_space_enough: no zone of a node without memory is populated."""
        roomy, self.roomy = self.roomy, self.roomy - self.without_memory
        decided = super().should_migrate(n_pages, nid, stored_time, now)
        self.roomy = roomy
        return decided

    def prepare(self, folio: Folio, target: int) -> bool:
        """migrate_misplaced_folio_prepare: -EAGAIN where the target has no managed zone."""
        return target not in self.without_memory and super().prepare(folio, target)
