"""Hypothesis strategies: small machines with every oddity that a walk can meet, and what happens on them."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from hypothesis import strategies as st

from .pghot import DEFAULT, PRECISE, Mode, Tunables
from .pghot_next import Source
from .rfc_v1 import Rival
from .world import Layout, Span

MAX_PAGES = 200
HUGE = 512
SECTION_PAGES = 32768
NIDS = (0, 1, 2, 5, 7, 8, 9, 10, 16, 17)
# Two of the interleavings of two atomics on each side are whole, four are torn.
ORDERS = ("PPCC", "PCPC", "PCCP", "CPPC", "CPCP", "CCPP")


@dataclass(frozen=True)
class Mark:
    """A request, or (``n_times`` of them) an access, to be made at one page."""

    pfn: int
    nid: int
    n_times: int = 1


@dataclass(frozen=True)
class Walk:
    """One turn of a node's thread, with the second producers that meet it."""

    nid: int
    rivals: tuple[Rival, ...] = ()


@dataclass(frozen=True)
class Wait:
    """Let so many jiffies pass."""

    jiffies: int


@dataclass(frozen=True)
class Report:
    """A report of so many accesses to each of some pages; ``n_pages`` of None is not a range but one page."""

    pfn: int
    n_pages: int | None
    nid: int
    source: int
    nr: int


@dataclass(frozen=True)
class Hotplug:
    """Let all memory of a node come, or go."""

    nid: int
    comes: bool


Event = Mark | Walk | Wait | Report | Hotplug


@dataclass
class _Columns:
    """The columns of a layout while it is being drawn."""

    pfns: list[int] = field(default_factory=list)
    nid: list[int] = field(default_factory=list)
    valid: list[bool] = field(default_factory=list)
    online: list[bool] = field(default_factory=list)
    lru: list[bool] = field(default_factory=list)
    head: list[int] = field(default_factory=list)
    prepare: list[int] = field(default_factory=list)
    memcg: list[int] = field(default_factory=list)

    def add(self, first: int, n_pages: int, nid: int, kind: str, memcg: int) -> None:
        for pfn in range(first, first + n_pages):
            self.pfns.append(pfn)
            self.nid.append(nid)
            self.valid.append(kind != "hole")
            self.online.append(kind not in ("hole", "offline"))
            self.lru.append(kind != "off-lru")
            # What is not there or not online is no folio: every PFN stands for itself.
            self.head.append(pfn if kind in ("hole", "offline") else first)
            self.prepare.append(-11 if kind == "refused" else 0)
            self.memcg.append(memcg)


_KINDS = st.sampled_from(("fine",) * 6 + ("hole", "offline", "off-lru", "refused"))
_SIZES = st.sampled_from((1, 1, 1, 2, 4, 8, 16))


@st.composite
def layouts(draw: st.DrawFn, starts: tuple[int, ...] | None = None, top_tier: tuple[int, ...] = ()) -> Layout:
    """Draw a machine: stretches of nodes' memory, one behind the other, or at each of ``starts`` (ascending).

    A zone spans from its first stretch to its last and whatever lies between, of other nodes and of its own
    other zones, too. A ZONE_DEVICE zone is one stretch. ``top_tier`` nodes are always there. Every third
    machine or so has a folio of 512 pages, at a multiple of 512, behind a hole where that is needed.
    """
    nids = draw(st.lists(st.sampled_from(NIDS), min_size=2, max_size=4, unique=True))
    lower = [nid for nid in nids if nid not in top_tier] or [16]
    nids = [*top_tier, *lower]
    if starts is None:
        starts = (draw(st.sampled_from((0, 1, 37, 512, SECTION_PAGES - 40))),)
    columns = _Columns()
    spans: dict[tuple[int, int], list[int]] = {}
    for island, start in enumerate(starts):
        pfn, end = start, start + MAX_PAGES // len(starts)
        n_stretches = draw(st.integers(1, 8 if len(starts) == 1 else 4))
        huge_in = draw(st.integers(-2 * n_stretches, n_stretches - 1))
        for stretch in range(n_stretches):
            nid = draw(st.sampled_from((*nids, *lower, *lower)))
            device = draw(st.integers(0, 9)) == 0
            memcg = draw(st.integers(0, 2))
            # Zone types in their order; device zones get a number of their own behind all others.
            zone = 10 + 100 * island + stretch if device else draw(st.integers(0, 2))
            sizes = draw(st.lists(_SIZES, min_size=1, max_size=8))
            if stretch == huge_in:
                sizes.insert(draw(st.integers(0, len(sizes))), HUGE)
            for n_pages in sizes:
                if n_pages == HUGE:
                    end += HUGE + -pfn % HUGE
                    pfn += -pfn % HUGE
                if pfn + n_pages > end:
                    break
                kind, stray = draw(_KINDS), draw(st.integers(0, 9)) == 9
                columns.add(pfn, n_pages, nid, kind, memcg + stray)
                if kind != "hole":
                    span = spans.setdefault((nid, zone), [pfn, pfn])
                    span[1] = pfn + n_pages
                pfn += n_pages
    # Nodes without a page of their own: a page each, so that they are nodes of the machine.
    pfn = max([*columns.pfns, starts[-1] - 1]) + 1
    for nid in nids:
        if not any(owner == nid for owner, _ in spans):
            columns.add(pfn, 1, nid, "fine", 0)
            spans[nid, 0] = [pfn, pfn + 1]
            pfn += 1
    zones = tuple(
        Span(nid, first, end, device=zone >= 10) for (nid, zone), (first, end) in sorted(spans.items())
    )
    return Layout(
        tuple(columns.pfns),
        tuple(columns.nid),
        zones,
        tuple(columns.valid),
        tuple(columns.online),
        tuple(columns.lru),
        tuple(columns.head),
        tuple(columns.prepare),
        tuple(columns.memcg),
        top_tier,
    )


def _nodes(columns: Layout) -> list[int]:
    return sorted({zone.nid for zone in columns.zones})


@st.composite
def rfc_cases(draw: st.DrawFn) -> tuple[Layout, list[Event]]:
    """Draw a machine and requests, walks and races on it. Targets are nodes of the machine and others."""
    columns = draw(layouts())
    pages = st.sampled_from(columns.pfns)
    nodes = st.sampled_from(_nodes(columns))
    targets = st.one_of(*[nodes] * 8, st.sampled_from((3, 6, 7, 11, 1023)))
    rivals = st.builds(Rival, pages, targets, st.sampled_from(ORDERS))
    walks = st.builds(Walk, nodes, st.lists(rivals, max_size=4, unique_by=lambda rival: rival.pfn).map(tuple))
    marks = st.builds(Mark, pages, targets)
    events: list[Event] = []
    for _ in range(draw(st.integers(1, 3))):
        events += draw(st.lists(marks, min_size=1, max_size=60))
        events += draw(st.lists(walks, min_size=1, max_size=3))
    return columns, events


@dataclass(frozen=True)
class PghotCase:
    """A machine, the mode and tunables, the nodes with free memory to spare, and the events."""

    columns: Layout
    mode: Mode
    tunables: Tunables
    roomy: frozenset[int]
    events: tuple[Event, ...]


@st.composite
def pghot_cases(draw: st.DrawFn) -> PghotCase:
    """Draw two or three sections with some pages from the start of each, or without the first: no records."""
    top_tier = tuple(draw(st.lists(st.sampled_from((0, 1, 9)), min_size=1, max_size=2, unique=True)))
    n_sections = draw(st.integers(2, 3))
    starts = tuple(
        section * SECTION_PAGES + draw(st.sampled_from((0, 0, 0, 0, 3)))
        for section in range(1, n_sections + 1)
    )
    columns = draw(layouts(starts, top_tier))
    nodes = st.sampled_from(_nodes(columns))
    pages = st.sampled_from(columns.pfns)
    fast = st.sampled_from(top_tier)
    targets = st.one_of(fast, fast, fast, st.just(-1), nodes, st.sampled_from((3, 1023, 1024)))
    marks = st.builds(Mark, pages, targets, st.sampled_from((1, 2, 2, 2, 3, 8)))
    waits = st.builds(
        Wait, st.sampled_from((0, 1, 100, 127, 128, 1001, 2944, 3072, 4096, 5001, 16384, 60_001))
    )
    # Most accesses come in runs, as from a process that sweeps its memory.
    runs = st.builds(
        lambda first, n_pages, nid: [Mark(pfn, nid, 2) for pfn in columns.pfns[first : first + n_pages]],
        st.integers(0, len(columns.pfns) - 1),
        st.integers(1, 40),
        fast,
    )
    slow_nodes = [nid for nid in _nodes(columns) if nid not in top_tier]
    events: list[Event] = []
    for _ in range(draw(st.integers(1, 3))):
        for run in draw(st.lists(runs, min_size=1, max_size=3)):
            events += run
        events += draw(st.lists(st.one_of(marks, marks, waits), max_size=20))
        events += [Walk(nid) for nid in draw(st.permutations(slow_nodes))[: draw(st.integers(1, 4))]]
    tunables = Tunables(
        hz=draw(st.sampled_from((1000, 250, 100))),
        window_ms=draw(st.sampled_from((None, None, 1000, 100))),
        freq_threshold=draw(st.integers(1, 3)),
        target_nid=draw(st.sampled_from(top_tier)),
        batch_nr=draw(st.sampled_from((512, 512, 3, 1, 0))),
        rate_limit_mbps=draw(st.sampled_from((65536, 65536, 1, 0))),
    )
    return PghotCase(
        columns,
        draw(st.sampled_from((DEFAULT, PRECISE))),
        tunables,
        draw(st.frozensets(st.sampled_from(top_tier))),
        tuple(events),
    )


@dataclass(frozen=True)
class PghotNextCase:
    """The same for pghot after v7: where nodes are, what is enabled, and who has no memory at the start."""

    base: PghotCase
    distances: tuple[tuple[tuple[int, int], int], ...]
    enabled_sources: int
    without_memory: frozenset[int]


@st.composite
def pghot_next_cases(draw: st.DrawFn) -> PghotNextCase:
    """Draw a case of pghot, and between its events reports of devices and memory that comes and goes."""
    base = draw(pghot_cases())
    nodes = _nodes(base.columns)
    pages = st.sampled_from(base.columns.pfns)
    counts = st.sampled_from((1, 2, 2, 3, 6, 40, 0))
    sources = st.sampled_from((Source.HWHINTS, Source.HWHINTS, Source.HINTFAULTS, 2))
    targets = st.one_of(
        st.just(-1), st.just(-1), st.sampled_from(base.columns.top_tier), st.sampled_from(nodes)
    )
    lengths = st.sampled_from((None, 1, 4, 17, 70, 600, 0, 1 << 64))
    reports = st.builds(Report, pages, lengths, targets, sources, counts)
    hotplugs = st.builds(Hotplug, st.sampled_from(nodes), st.booleans())
    events: list[Event] = []
    for event in base.events:
        events += draw(st.lists(reports, max_size=2)) if draw(st.integers(0, 3)) == 0 else []
        events += [draw(hotplugs)] if draw(st.integers(0, 19)) == 0 else []
        events.append(event)
    pairs = [(nid, other) for nid in nodes for other in base.columns.top_tier if nid != other]
    distances = tuple((pair, draw(st.sampled_from((11, 20, 20, 30, 255)))) for pair in pairs)
    tunables = replace(base.tunables, target_nid=draw(st.sampled_from((-1, -1, base.tunables.target_nid))))
    return PghotNextCase(
        replace(base, tunables=tunables, events=tuple(events)),
        distances,
        draw(st.sampled_from((0b11, 0b11, 0b01, 0b10))),
        draw(st.frozensets(st.sampled_from(nodes), max_size=1)),
    )
