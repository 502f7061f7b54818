"""The open loop's walks, with 2 MiB folios among the pages, against one that looks at page after page."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.base.errors import RunFailedError
from gpuscan.compare.open_loop import OpenLoop, StepCosts
from gpuscan.compare.request_list import ENTRY
from gpuscan.compare.static_machine import StillPages
from gpuscan.designs.catalogue import DESIGNS, make_model
from gpuscan.designs.machine import migrate_one_by_one
from gpuscan.engine.policy import Policy
from gpuscan.records.page_map import SECTION_PAGES
from gpuscan.sim.machine import SimulatedMachine
from gpuscan.sim.spec import MachineSpec, ProcessSpec
from gpuscan.topology import Topology
from machines import tiered

COSTS = StepCosts(page_ns=37.0, entry_ns=20.0)
ZONE_PAGES = 4096
CXL = 2
PGHOT = ("section-flag", "section-flag-next")
WALKERS = ("rfc-v1", "rfc-fixed", "zone-flag", "per-folio", *PGHOT)


@cache
def machine() -> SimulatedMachine:
    """Return a machine whose node 2 has two zones in sections of their own, pages and huge pages in both."""
    topology = tiered()
    start = 5 * SECTION_PAGES
    normal = topology.nodes[CXL].zones[0]
    zones = tuple(
        replace(normal, name=name, present=((at, at + ZONE_PAGES),), managed_pages=ZONE_PAGES)
        for name, at in (("Normal", start), ("Movable", start + SECTION_PAGES))
    )
    nodes = (*topology.nodes[:CXL], replace(topology.nodes[CXL], zones=zones), topology.nodes[3])
    processes = tuple(
        ProcessSpec(name, n_pages, (0,), 1.0, ((CXL, 1.0),), order=order)
        for name, n_pages, order in (("a", 700, 0), ("b", 512 * 9, 9), ("c", 900, 0))
    )
    return SimulatedMachine(Topology("walked", nodes, topology.distance), MachineSpec(processes))


@cache
def heads() -> dict[int, int]:
    """Return the base pages of every folio on node 2 by its first PFN."""
    frames, space = machine().space.frame_of.astype(np.int64), machine().space
    sizes = 1 << space.orders_of(np.arange(space.n_folios))
    return dict(zip(machine().page_map.pfn_of_flat(frames).tolist(), sizes.tolist(), strict=True))


def walked_one_by_one(name: str, marks: list[tuple[int, int]], sleep_ns: int) -> list[tuple[int, int]]:
    """Return (PFN, delay) of every page that is found, the obvious way.

    Args:
        name: of the design.
        marks: (time, PFN), ascending, all of node 2.
        sleep_ns: between two walks.
    """
    sections, flags = name in PGHOT, name in (*PGHOT, "zone-flag")
    start = 5 * SECTION_PAGES
    length = SECTION_PAGES if sections else ZONE_PAGES
    spans = [(at, at + length) for at in (start, start + SECTION_PAGES)]
    since: dict[int, int] = {}
    flagged: set[tuple[int, int]] = set()
    left, found = list(marks), []

    def mark_until(now: float) -> bool:
        before = len(left)
        while left and left[0][0] <= now:
            time, pfn = left.pop(0)
            since.setdefault(pfn, time)
            flagged.update(span for span in spans if span[0] <= pfn < span[1])
        return len(left) < before

    start_ns = sleep_ns
    while left or since:
        mark_until(start_ns)
        if sections and not flagged:
            start_ns += sleep_ns
            continue
        n_looked_at, marked = 0, False
        for span in spans:
            marked |= mark_until(start_ns + n_looked_at * COSTS.page_ns)
            if flags and span not in flagged:
                continue
            flagged.discard(span)
            pfn = span[0]
            while pfn < span[1]:
                now = start_ns + n_looked_at * COSTS.page_ns
                marked |= mark_until(now)
                if pfn in since:
                    found.append((pfn, int(now) - since.pop(pfn)))
                pfn += 1 if name == "rfc-v1" else heads().get(pfn, 1)
                n_looked_at += 1
        end_ns = start_ns + max(1, int(n_looked_at * COSTS.page_ns))
        marked |= mark_until(end_ns)
        start_ns = end_ns if marked else end_ns + sleep_ns
    return sorted(found)


class Crowded(StillPages):
    """All targets are short of memory, so that the design looks at ages."""

    def free_space_enough(self, nid: int) -> bool:
        return False


def looped(name: str, marks: list[tuple[int, int]]) -> OpenLoop:
    chosen = machine()
    entries = np.zeros(len(marks), dtype=ENTRY)
    entries["time_ns"], entries["pfn"] = [time for time, _ in marks], [pfn for _, pfn in marks]
    policy = Policy(freq_threshold=1, record_format="pghot")
    design = make_model(name, Crowded(chosen), policy)
    return OpenLoop(DESIGNS.get(name), design, chosen.topology, entries, COSTS, policy)


def sleep_of(name: str) -> int:
    return 100_000_000 if name in PGHOT else 1_000_000_000


def test_the_machine_has_folios_of_both_sizes_in_both_zones() -> None:
    sizes = [
        [n for pfn, n in heads().items() if start <= pfn < start + ZONE_PAGES]
        for start in (5 * SECTION_PAGES, 6 * SECTION_PAGES)
    ]
    assert [set(inside) for inside in sizes] == [{1, 512}, {1, 512}]


@pytest.mark.parametrize("name", WALKERS)
@pytest.mark.parametrize("seed", range(10))
def test_pages_are_found_when_a_walk_page_by_page_comes_to_them(name: str, seed: int) -> None:
    rng = np.random.default_rng(seed)
    # A walk takes 0.1 to 2.4 ms; all marks come shortly before, during and after the first.
    longest_ns = int(2 * (SECTION_PAGES if name in PGHOT else ZONE_PAGES) * COSTS.page_ns)
    n_marks = rng.integers(1, 60)
    times = np.sort(sleep_of(name) + rng.integers(-1000, longest_ns, n_marks))
    pfns = rng.choice(sorted(heads())[:: rng.integers(1, 300)], n_marks)
    marks = list(zip(times.tolist(), pfns.tolist(), strict=True))
    loop = looped(name, marks)
    loop.run()
    page_map = machine().page_map
    found = zip(page_map.pfn_of_flat(loop.ledger.positions).tolist(), loop.ledger.delays_ns, strict=True)
    assert sorted(found) == walked_one_by_one(name, marks, sleep_of(name))
    assert not loop.ledger.lost


def test_a_page_that_is_marked_ahead_of_a_walk_is_not_of_old() -> None:
    # The walk of pghot comes to the second section after 1.05 ms; at 101 jiffies the page is marked there.
    pfns = sorted(heads())
    loop = looped("section-flag", [(99_999_995, pfns[0]), (101_010_000, pfns[-1])])
    loop.run()
    assert not loop.ledger.lost
    assert loop.model.counters["walks"] == 1


def test_a_page_found_before_it_was_marked_is_an_error() -> None:
    loop = looped("rfc-fixed", [(5, min(heads()))])
    loop.ledger.now_ns = 2
    loop.ledger.ask(7, 0)
    loop.place.begin(1)
    with pytest.raises(RunFailedError, match="found at 1 ns, 1 ns before it was marked; this is a bug"):
        loop.ledger.claim(7)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.tuples(st.integers(0, 1200), st.sampled_from([0, 2, 7])), min_size=1, max_size=6))
def test_batches_together_are_counted_as_one_by_one(batches: list[tuple[int, int]]) -> None:
    process = ProcessSpec("app", 8192, (0,), 1.0, ((2, 1.0),))
    sim = SimulatedMachine(tiered(), MachineSpec((process,)))
    still, sizes = StillPages(sim), np.array([size for size, _ in batches])
    heads = sim.space.frame_of[: sizes.sum()].astype(np.int64)
    nids = np.array([nid for _, nid in batches])
    together = still.migrate_each(heads, sizes.cumsum(), nids)
    single = migrate_one_by_one(still, heads, sizes.cumsum(), nids)
    assert together.moved.tolist() == single.moved.tolist()
    assert together.busy_ns.tolist() == single.busy_ns.tolist()
    assert together.events == single.events
    assert +Counter(together.counts) == +Counter(single.counts)
