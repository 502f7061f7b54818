"""kmigrated as posted in RFC v1 3/4 ("mm: kmigrated - Async kernel migration thread"), one page at a time.

``Kmigrated(layout)`` behaves as posted. ``Kmigrated(layout, fixed=True)`` differs in three places only: the
comparison with NUMA_NO_NODE, the width of the NID mask, and stepping over a folio in one go.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from .world import EINVAL, NUMA_NO_NODE, Folio, Layout, Page, Span, World

# include/linux/page_ext.h, enum page_ext_flags on 64-bit: page_owner has bits 0 and 1, the young and idle
# bits are 32-bit only, so the new READY is bit 2 and the NID field starts one above it.
READY = 1 << 2
NID_SHIFT = 3
NID_WIDTH = 10
# page_ext.h, PAGE_EXT_MIG_NID_MASK: made from the shift, not from the width. Three bits: nodes 0 to 7.
POSTED_NID_MASK = (1 << NID_SHIFT) - 1
FIXED_NID_MASK = (1 << NID_WIDTH) - 1

# mm/kmigrated.c, KMIGRATE_BATCH
BATCH_FOLIOS = 512


@dataclass(frozen=True)
class Rival:
    """A second producer that marks ``pfn`` for ``nid`` while the thread consumes that very page.

    ``order`` interleaves the two atomics of each side: P the producer's next, C the thread's next.
    """

    pfn: int
    nid: int
    order: str


@dataclass
class Kmigrated:
    """One page_ext word per PFN, one ACTIVATE flag per node, and the thread's walk over them."""

    columns: Layout
    fixed: bool = False
    world: World = field(init=False)
    words: dict[int, int] = field(init=False)
    activated: set[int] = field(default_factory=set)
    rivals: dict[int, Rival] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.world = World.of(self.columns)
        self.words = dict.fromkeys(self.columns.pfns, 0)

    # -- the three atomics on a page_ext word ----------------------------------------------------------------

    def exchange_nid(self, pfn: int, nid: int) -> int:
        """Store a nid, return the one that was there. page_ext_xchg_nid: both are masked."""
        mask = FIXED_NID_MASK if self.fixed else POSTED_NID_MASK
        word = self.words[pfn]
        before = (word >> NID_SHIFT) & mask
        self.words[pfn] = (word & ~(mask << NID_SHIFT)) | ((nid & mask) << NID_SHIFT)
        return before

    def set_ready(self, pfn: int) -> None:
        self.words[pfn] |= READY

    def test_and_clear_ready(self, pfn: int) -> bool:
        was_ready = bool(self.words[pfn] & READY)
        self.words[pfn] &= ~READY
        return was_ready

    # -- the producer ----------------------------------------------------------------------------------------

    def add_pfn(self, pfn: int, nid: int) -> int:
        """Mark one page, head or tail. kmigrated_add_pfn: nid, then READY, then the flag of its node."""
        page = self.world.online_page(pfn)
        if page is None:
            self.world.counters["kmigrated_add_pfn_einval"] += 1
            return EINVAL
        self.exchange_nid(pfn, nid)
        self.finish_adding(page)
        return 0

    def finish_adding(self, page: Page) -> None:
        self.set_ready(page.pfn)
        # Nobody is woken: the flag alone is set.
        self.activated.add(page.nid)
        self.world.counters["kmigrated_add_pfn"] += 1

    # -- the thread ------------------------------------------------------------------------------------------

    def walk_node(self, nid: int, rivals: tuple[Rival, ...] = ()) -> None:
        """kmigrated_do_work: the flag is cleared first, so a mark made meanwhile starts the next walk."""
        self.world.counters["walks"] += 1
        self.activated.discard(nid)
        self.rivals = {rival.pfn: rival for rival in rivals}
        for zone in self.world.zones:
            if zone.nid == nid and not zone.device and zone.start_pfn < zone.end_pfn:
                self.walk_zone(zone)
        for rival in list(self.rivals.values()):
            self.add_pfn(rival.pfn, rival.nid)
        self.rivals = {}

    def walk_zone(self, zone: Span) -> None:
        """kmigrated_walk_zone: the batch in the making belongs to the zone and ends with it."""
        count = self.world.counters
        count["zones_walked"] += 1
        stack: list[Folio] = []
        batch_nid = NUMA_NO_NODE
        n_in_batch = 0
        pfn = zone.start_pfn
        while pfn < zone.end_pfn:
            count["pfns_examined"] += 1
            page = self.world.online_page(pfn)
            if page is None or page.nid != zone.nid:
                pfn += 1
                continue
            here, folio = pfn, page.folio
            # As posted every tail page is looked at, each with a record of its own (the TODO in
            # kmigrated_walk_zone).
            pfn = folio.first_pfn + folio.n_pages if self.fixed else pfn + 1

            # A folio already on the batch's list is not on an LRU list any more, so a marked tail keeps its
            # mark.
            if not folio.on_lru:
                continue
            target = self.consume(here)
            if target == NUMA_NO_NODE:
                continue
            if target not in self.world.nodes:
                count["invalid_nid"] += 1
            # From here on the mark is gone: whoever drops out is forgotten.
            if target == page.nid:
                count["at_home"] += 1
                continue
            if not self.world.isolate(folio):
                count["prepare_refused"] += 1
                continue
            count["isolated"] += 1

            if self.fixed:
                if batch_nid == NUMA_NO_NODE:
                    batch_nid = target
            # As posted the test is "!=": nothing before the zone's first flush, then always the newest
            # target. So the first candidate differs from -1 and flushes nothing to -1, and no later change is
            # ever seen.
            elif batch_nid != NUMA_NO_NODE:
                batch_nid = target

            # Counted before it is added: the batch that goes out does not hold the page that made it full.
            n_in_batch += 1
            if n_in_batch >= BATCH_FOLIOS or batch_nid != target:
                self.flush(stack, batch_nid)
                stack = []
                batch_nid = target
                n_in_batch = 0
                count["cond_resched"] += 1
            stack.insert(0, folio)  # list_add puts it in front
        if stack:
            self.flush(stack, batch_nid)

    def consume(self, pfn: int) -> int:
        """kmigrated_get_nid: clear READY, and if it was set take the nid: a rival may come between."""
        rival = self.rivals.pop(pfn, None)
        order = rival.order if rival is not None else "CC"
        target = NUMA_NO_NODE
        ready = False
        n_producer = n_consumer = 0
        for side in order:
            if side == "P":
                assert rival is not None
                n_producer += 1
                if n_producer == 1:
                    self.exchange_nid(pfn, rival.nid)
                else:
                    self.finish_adding(self.world.pages[pfn])
            else:
                n_consumer += 1
                if n_consumer == 1:
                    ready = self.test_and_clear_ready(pfn)
                    self.world.counters["claimed"] += ready
                elif ready:
                    # -1 under the mask: the word that stays behind holds node 7 (posted) or 1023.
                    target = self.exchange_nid(pfn, NUMA_NO_NODE)
        return target

    def flush(self, stack: list[Folio], nid: int) -> None:
        """migrate_misplaced_folios_batch (2/4): any success counts as a promotion, whatever the tiers."""
        count = self.world.counters
        count["batch_calls"] += 1
        count["empty_batch_calls"] += not stack
        moved, put_back = self.world.migrate(stack, nid)
        for name in ("pgmigrate_success", "numa_pages_migrated", "pgpromote_success"):
            count[name] += moved
        count["pgmigrate_fail"] += put_back
