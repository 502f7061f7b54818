"""pghot's record and walk, one page at a time: hot sections, one word per folio, promotion to the top tier.

From "[PATCH v7] mm: Hot page tracking and promotion infrastructure" (2026-05-04): mm/pghot.c with the rate
limit that a later patch of the series moves there, mm/pghot-default.c and mm/pghot-precise.c. RFC v6
(2026-03-23) walks alike but for the memcg. The mm tree after v7 (commit 0e9084fe7728) drops READY with the
window: ``Revision``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import Enum

from .world import EINVAL, NUMA_NO_NODE, Folio, Layout, World

U32 = 0xFFFF_FFFF
MSEC_PER_SEC = 1000


class Revision(Enum):
    """pghot_update_record: v7 replaces fields of the old word, so READY stays; later it is built anew."""

    V7 = "v7"
    AFTER = "after v7"


@dataclass(frozen=True)
class Mode:
    """The layout of a record (include/linux/pghot.h) and the window that goes with it."""

    name: str
    ready: int
    nid_bits: int
    freq_shift: int
    freq_max: int
    time_shift: int
    time_mask: int
    bucket_shift: int
    window_ms: int


# One byte: two bits of frequency, five of time in buckets of 128 jiffies, no nid. READY on top.
DEFAULT = Mode("default", 1 << 7, 0, 0, 3, 2, 31, 7, 3000)
# Four bytes: ten bits of nid, three of frequency, fourteen of time in jiffies, four unused. READY on top.
PRECISE = Mode("precise", 1 << 31, 10, 10, 7, 13, 16383, 0, 5000)


@dataclass(frozen=True)
class Tunables:
    """The values in force. ``window_ms`` of None is the mode's own; the defaults are pghot.h's."""

    hz: int = 1000
    window_ms: int | None = None
    freq_threshold: int = 2
    target_nid: int = 0
    batch_nr: int = 512
    rate_limit_mbps: int = 65536
    section_pages: int = 32768


@dataclass
class Promotion:
    """What one target node remembers between candidates: the nbp_ fields of its pglist_data."""

    candidates: int = 0
    rate_start_ms: int = 0
    rate_candidates: int = 0
    threshold_start_ms: int = 0
    threshold_candidates: int = 0
    threshold_ms: int = 0


@dataclass
class Pghot:
    """A record per PFN, a hot bit per section, a flag per node. ``roomy`` nodes have free memory to spare."""

    columns: Layout
    mode: Mode = DEFAULT
    revision: Revision = Revision.V7
    tunables: Tunables = field(default_factory=Tunables)
    roomy: set[int] = field(default_factory=set)
    world: World = field(init=False)
    records: dict[int, int] = field(init=False)
    hot_sections: set[int] = field(default_factory=set)
    activated: set[int] = field(default_factory=set)
    promotion: dict[int, Promotion] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.world = World.of(self.columns)
        self.records = dict.fromkeys(self.columns.pfns, 0)
        self.window_ms = self.mode.window_ms if self.tunables.window_ms is None else self.tunables.window_ms
        assert MSEC_PER_SEC % self.tunables.hz == 0

    # -- sections --------------------------------------------------------------------------------------------

    def sections(self) -> Iterable[int]:
        """Return the numbers of the sections in which there is any memory, ascending."""
        size = self.tunables.section_pages
        return sorted({pfn // size for pfn, page in self.world.pages.items() if page.valid})

    def section_nid(self, section: int) -> int:
        """Return the node of a section: that of its first page, and of none if that page is not there.

        kmigrated_do_work and pghot_setup_hot_map judge a section by its first PFN only.
        """
        page = self.world.pages.get(section * self.tunables.section_pages)
        return page.nid if page is not None and page.valid else NUMA_NO_NODE

    def has_records(self, section: int) -> bool:
        """pghot_setup_hot_map: no records where the first PFN is missing or of the top tier."""
        nid = self.section_nid(section)
        return nid != NUMA_NO_NODE and nid not in self.world.top_tier

    # -- time ------------------------------------------------------------------------------------------------

    def ms(self, jiffies: int) -> int:
        return jiffies * (MSEC_PER_SEC // self.tunables.hz)

    def age_ms(self, stored_time: int, now: int) -> int:
        """pghot_access_latency: modulo the width of the field, so an old access can look fresh."""
        mask = self.mode.time_mask << self.mode.bucket_shift
        return self.ms(((now & mask) - (stored_time << self.mode.bucket_shift)) & mask)

    # -- the producer ----------------------------------------------------------------------------------------

    def record_access(self, pfn: int, nid: int, now: int) -> int:
        """pghot_record_access, source hint faults: which accesses are let in, and to which record."""
        count = self.world.counters
        # pghot_nid_valid: the default mode stores no nid and takes any, the precise one wants the top tier's.
        if (
            self.mode.nid_bits
            and nid != NUMA_NO_NODE
            and (nid not in self.world.nodes or nid not in self.world.top_tier)
        ):
            return EINVAL
        count["pghot_recorded_hintfaults"] += 1
        page = self.world.online_page(pfn)
        # The order of these three does not show: all of them end in 0 and count nothing.
        if page is None or page.nid == nid or page.nid in self.world.top_tier or self.is_device(pfn):
            return 0
        folio = page.folio
        if not folio.on_lru:
            return 0
        section = folio.first_pfn // self.tunables.section_pages
        if not self.has_records(section):
            return 0
        count["pghot_recorded_accesses"] += 1
        if self.update(folio.first_pfn, nid, now):
            self.hot_sections.add(section)
            self.activated.add(page.nid)
        return 0

    def is_device(self, pfn: int) -> bool:
        return any(zone.device and zone.start_pfn <= pfn < zone.end_pfn for zone in self.world.zones)

    def update(self, pfn: int, nid: int, now: int) -> bool:
        """pghot_update_record: count the access, or start over when the last one is older than the window."""
        mode, word = self.mode, self.records[pfn]
        freq = (word >> mode.freq_shift) & mode.freq_max
        stored_time = (word >> mode.time_shift) & mode.time_mask
        if self.age_ms(stored_time, now) > self.window_ms:
            freq = 1
        elif freq < mode.freq_max:
            freq += 1

        new = freq << mode.freq_shift
        new |= ((now >> mode.bucket_shift) & mode.time_mask) << mode.time_shift
        if mode.nid_bits:
            new |= (self.tunables.target_nid if nid == NUMA_NO_NODE else nid) & ((1 << mode.nid_bits) - 1)
        if freq >= self.tunables.freq_threshold or (self.revision is Revision.V7 and word & mode.ready):
            new |= mode.ready
        self.records[pfn] = new
        return bool(new & mode.ready)

    # -- the thread ------------------------------------------------------------------------------------------

    def wake(self, nid: int, now: int) -> bool:
        """One turn of kmigrated's loop: unlike RFC v1's it works only if the flag is set."""
        if nid not in self.activated:
            return False
        self.walk_node(nid, now)
        return True

    def walk_node(self, nid: int, now: int) -> None:
        """kmigrated_do_work: clear the flag; then, section by section, clear the hot bit and walk."""
        self.world.counters["walks"] += 1
        self.activated.discard(nid)
        for section in self.sections():
            self.world.counters["sections_examined"] += 1
            # The patch leaves out top tier sections, too; they have no records and so are never hot.
            if self.section_nid(section) != nid or section not in self.hot_sections:
                continue
            self.hot_sections.discard(section)
            self.walk_section(section, nid, now)

    def walk_section(self, section: int, src_nid: int, now: int) -> None:
        """kmigrated_walk_zone, which gets one section at a time: a batch ends with it at the latest."""
        count = self.world.counters
        count["sections_walked"] += 1
        size = self.tunables.section_pages
        stack: list[Folio] = []
        batch_nid = NUMA_NO_NODE
        batch_memcg = 0
        n_in_batch = 0
        pfn, end_pfn = section * size, (section + 1) * size
        while pfn < end_pfn:
            count["pfns_examined"] += 1
            page = self.world.online_page(pfn)
            if page is None:
                pfn += 1
                continue
            here, folio = pfn, page.folio
            # Stepped over whole, whatever becomes of it: from here, not from the folio's start.
            pfn += folio.n_pages
            if page.nid != src_nid or not folio.on_lru:
                continue
            found = self.consume(here)
            if found is None:
                continue
            recorded, stored_time = found
            count["claimed"] += 1
            # The record is zero now: whoever drops out below starts counting from nothing.
            target = self.promotion_target(recorded, src_nid)
            if target == NUMA_NO_NODE:
                count["no_target"] += 1
                continue
            if target not in self.world.nodes:
                count["invalid_nid"] += 1
            if target == page.nid:
                count["at_home"] += 1
                continue
            if not self.should_migrate(folio.n_pages, target, stored_time, now):
                continue
            if not self.prepare(folio, target):
                count["prepare_refused"] += 1
                continue
            count["isolated"] += 1

            if batch_nid == NUMA_NO_NODE:
                batch_nid, batch_memcg = target, folio.memcg
            if batch_nid != target or batch_memcg != folio.memcg:
                if stack:
                    self.flush(stack, batch_nid)
                    stack = []
                batch_nid, batch_memcg = target, folio.memcg
                n_in_batch = 0
                count["cond_resched"] += 1
            stack.insert(0, folio)  # list_add
            # Added first, counted after, and compared with ">": the batch goes out with batch_nr + 1 folios.
            n_in_batch += 1
            if n_in_batch > self.tunables.batch_nr:
                self.flush(stack, batch_nid)
                stack = []
                n_in_batch = 0
                count["cond_resched"] += 1
        if stack:
            self.flush(stack, batch_nid)

    def promotion_target(self, recorded: int, src_nid: int) -> int:
        """v7: where pghot_get_record says, which has put pghot_target_nid in place of a node unknown."""
        return recorded

    def prepare(self, folio: Folio, target: int) -> bool:
        """migrate_misplaced_folio_prepare."""
        return self.world.isolate(folio)

    def consume(self, pfn: int) -> tuple[int, int] | None:
        """pghot_get_record: if READY, take (target, time) and leave the record zero, in one exchange."""
        mode, word = self.mode, self.records[pfn]
        if not word & mode.ready:
            return None
        self.records[pfn] = 0
        target = word & ((1 << mode.nid_bits) - 1) if mode.nid_bits else self.tunables.target_nid
        return target, (word >> mode.time_shift) & mode.time_mask

    def should_migrate(self, n_pages: int, nid: int, stored_time: int, now: int) -> bool:
        """kmigrated_should_migrate_memory: free memory bypasses, then the threshold, then the rate limit."""
        count, node = self.world.counters, self.promotion.setdefault(nid, Promotion())
        if nid in self.roomy:
            node.threshold_ms = 0
            count["pgpromote_candidate_nrl"] += n_pages
            return True
        now_ms = self.ms(now) & U32
        rate_limit_pages = self.tunables.rate_limit_mbps << 8  # MB to 4 KiB pages
        self.adjust_threshold(node, rate_limit_pages, now_ms)
        if self.age_ms(stored_time, now) >= (node.threshold_ms or self.window_ms):
            count["too_old"] += 1
            return False

        # kmigrated_promotion_rate_limit: counted as a candidate whether it is let through or not.
        node.candidates += n_pages
        count["pgpromote_candidate"] += n_pages
        if (now_ms - node.rate_start_ms) & U32 > MSEC_PER_SEC:
            # The second starts with this candidate already counted, so it does not use up the new allowance.
            node.rate_start_ms = now_ms
            node.rate_candidates = node.candidates
        if node.candidates - node.rate_candidates >= rate_limit_pages:
            count["rate_limited"] += 1
            return False
        return True

    def adjust_threshold(self, node: Promotion, rate_limit_pages: int, now_ms: int) -> None:
        """kmigrated_promotion_adjust_threshold: once a minute, a step down if over the limit, up if under."""
        if (now_ms - node.threshold_start_ms) & U32 <= 60 * MSEC_PER_SEC:
            return
        node.threshold_start_ms = now_ms
        allowed = rate_limit_pages * 60
        seen = node.candidates - node.threshold_candidates
        step_ms = self.window_ms * 2 // 16
        threshold_ms = node.threshold_ms or self.window_ms
        if seen > allowed * 11 // 10:
            threshold_ms = max(threshold_ms - step_ms, step_ms)
        elif seen < allowed * 9 // 10:
            threshold_ms = min(threshold_ms + step_ms, self.window_ms * 2)
        node.threshold_candidates = node.candidates
        node.threshold_ms = threshold_ms

    def flush(self, stack: list[Folio], nid: int) -> None:
        """promote_misplaced_memcg_folios: one migrate_pages() call for folios of one target and memcg."""
        count = self.world.counters
        count["batch_calls"] += 1
        count["batch_folios"] += len(stack)
        moved, put_back = self.world.migrate(stack, nid)
        for name in ("pgmigrate_success", "numa_pages_migrated", "pgpromote_success"):
            count[name] += moved
        count["pgmigrate_fail"] += put_back
