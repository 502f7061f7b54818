"""The memory that a walk sees: PFNs, folios, zones, and what happens to a folio that is taken off its LRU
list.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

NUMA_NO_NODE = -1
EINVAL = -22

# mm/migrate.c, NR_MAX_BATCHED_MIGRATION: the pages of a 2 MiB folio.
ROUND_PAGES = 512


def migrate_rounds(folio_pages: Sequence[int]) -> list[int]:
    """Return the folios per round of one migrate_pages() call: a round closes with the folio that reaches 512
    pages.

    mm/migrate.c, migrate_pages(): the list is cut behind that folio, not in front of it.
    """
    rounds: list[int] = []
    n_folios = n_pages = 0
    for pages in folio_pages:
        n_folios += 1
        n_pages += pages
        if n_pages >= ROUND_PAGES:
            rounds.append(n_folios)
            n_folios = n_pages = 0
    return [*rounds, n_folios] if n_folios else rounds


@dataclass(frozen=True)
class Span:
    """What one zone covers: PFNs ``start_pfn`` up to, not including, ``end_pfn``, holes and other nodes'
    pages too.
    """

    nid: int
    start_pfn: int
    end_pfn: int
    device: bool = False


@dataclass
class Folio:
    """One or more pages that move together. Its LRU state and memcg are properties of the whole."""

    first_pfn: int
    n_pages: int
    on_lru: bool
    prepare_result: int
    memcg: int


@dataclass
class Page:
    """One page frame. ``valid`` false: there is no struct page at all."""

    pfn: int
    nid: int
    valid: bool
    online: bool
    folio: Folio


@dataclass(frozen=True)
class Layout:
    """A machine written down as columns, one entry for each PFN in ``pfns``. Every other PFN is a hole."""

    pfns: tuple[int, ...]
    nid: tuple[int, ...]
    zones: tuple[Span, ...]
    valid: tuple[bool, ...]
    online: tuple[bool, ...]
    lru: tuple[bool, ...]
    head: tuple[int, ...]
    prepare: tuple[int, ...]
    memcg: tuple[int, ...]
    top_tier: tuple[int, ...] = ()


def layout(
    nid: Sequence[int],
    zones: Sequence[Span],
    *,
    first_pfn: int = 0,
    holes: Sequence[int] = (),
    offline: Sequence[int] = (),
    off_lru: Sequence[int] = (),
    folios: Sequence[tuple[int, int]] = (),
    refused: Sequence[int] = (),
    memcgs: Sequence[tuple[int, int]] = (),
    top_tier: Sequence[int] = (),
) -> Layout:
    """Return a machine of single pages in which everything is in order, but for the exceptions (PFNs) named.

    ``folios`` are (first PFN, pages); ``off_lru``, ``refused`` and ``memcgs`` name a folio by its first PFN.
    """
    pfns = range(first_pfn, first_pfn + len(nid))
    head = {pfn: pfn for pfn in pfns}
    for first, n_pages in folios:
        head.update(dict.fromkeys(range(first, first + n_pages), first))
    memcg = dict(memcgs)
    return Layout(
        tuple(pfns),
        tuple(nid),
        tuple(zones),
        tuple(pfn not in holes for pfn in pfns),
        tuple(pfn not in offline for pfn in pfns),
        tuple(pfn not in off_lru for pfn in pfns),
        tuple(head[pfn] for pfn in pfns),
        tuple(-11 if pfn in refused else 0 for pfn in pfns),
        tuple(memcg.get(pfn, 0) for pfn in pfns),
        tuple(top_tier),
    )


@dataclass
class World:
    """The pages and folios of a layout, the calls that moved them, and a count of everything."""

    zones: tuple[Span, ...]
    pages: dict[int, Page]
    nodes: frozenset[int]
    top_tier: frozenset[int]
    counters: Counter[str] = field(default_factory=Counter)
    calls: list[tuple[tuple[int, ...], int]] = field(default_factory=list)

    @classmethod
    def of(cls, columns: Layout) -> World:
        index_of = {pfn: index for index, pfn in enumerate(columns.pfns)}
        folios = {
            head: Folio(
                head,
                n_pages,
                columns.lru[index_of[head]],
                columns.prepare[index_of[head]],
                columns.memcg[index_of[head]],
            )
            for head, n_pages in Counter(columns.head).items()
        }
        pages = {
            pfn: Page(pfn, columns.nid[i], columns.valid[i], columns.online[i], folios[columns.head[i]])
            for i, pfn in enumerate(columns.pfns)
        }
        nodes = frozenset(zone.nid for zone in columns.zones)
        return cls(columns.zones, pages, nodes, frozenset(columns.top_tier))

    def online_page(self, pfn: int) -> Page | None:
        """Return the page, or None for a hole and for memory that is not online."""
        page = self.pages.get(pfn)
        return page if page is not None and page.valid and page.online else None

    def isolate(self, folio: Folio) -> bool:
        """Take the folio off its LRU list, unless the machine says that the checks before that refuse it."""
        if folio.prepare_result != 0:
            return False
        folio.on_lru = False
        return True

    def migrate(self, folios: list[Folio], nid: int) -> tuple[int, int]:
        """Move a list, or put it back if there is no such node. Return base pages (moved, put back)."""
        self.calls.append((tuple(folio.first_pfn for folio in folios), nid))
        n_pages = sum(folio.n_pages for folio in folios)
        if nid in self.nodes:
            return n_pages, 0
        for folio in folios:
            folio.on_lru = True
        return 0, n_pages
