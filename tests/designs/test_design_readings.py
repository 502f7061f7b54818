"""Our readings: zone-flag and per-folio against rfc-fixed, and the lists of percpu-list."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.designs.built_in.per_folio import PerFolio
from gpuscan.designs.built_in.percpu_list import PercpuList
from gpuscan.designs.built_in.zone_flag import ZoneFlag
from gpuscan.designs.machine import ArrayMachine, BatchCall, ZoneSpan
from gpuscan.designs.rfc import RfcFixed
from gpuscan.engine.stages import FolioEvents

ZONES = [ZoneSpan(0, 0, 0), ZoneSpan(1, 0, 0), ZoneSpan(2, 0, 4), ZoneSpan(2, 4, 8)]


def machine(**arrays: Any) -> ArrayMachine:
    """Return a machine with two zones of 4 pages on node 2."""
    return ArrayMachine(np.full(8, 2), ZONES, **arrays)


def test_zones_without_marks_are_skipped() -> None:
    design = ZoneFlag(machine())
    design.request(5, 0)
    design.walk(2)
    assert design.calls == [BatchCall((5,), 0)]
    assert (design.counters["pfns_examined"], design.counters["zones_skipped"]) == (4, 1)
    design.walk(2)
    assert design.counters["pfns_examined"] == 4


def test_a_folio_off_the_lru_is_stranded_when_its_zone_flag_is_cleared() -> None:
    pages = machine()
    design, fixed = ZoneFlag(pages), RfcFixed(pages)
    for each in (design, fixed):
        each.request(5, 0)
    pages.prepare(5, 0)  # somebody isolates it for a moment
    for each in (design, fixed):
        each.walk(2)
    pages.migrate([5], -1)  # and puts it back
    design.walk(2)
    assert design.calls == []
    design.finish()
    assert design.ledger.lost == {"stranded by a cleared zone flag": 1}
    design.verify()
    fixed.walk(2)
    assert fixed.calls == [BatchCall((5,), 0)]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.tuples(st.integers(0, 7), st.sampled_from([0, 1, 2])), max_size=8), max_size=4),
    st.lists(st.booleans(), min_size=8, max_size=8),
)
def test_a_zone_flag_changes_what_is_looked_at_and_not_what_moves(
    rounds: list[list[tuple[int, int]]], refused: list[bool]
) -> None:
    prepare = np.where(refused, -11, 0)
    design, fixed = ZoneFlag(machine(prepare=prepare)), RfcFixed(machine(prepare=prepare))
    for requests in rounds:
        for each in (design, fixed):
            for pfn, nid in requests:
                each.request(pfn, nid)
            each.walk(2)
            each.verify()
    assert design.calls == fixed.calls
    assert (design.records == fixed.records).all()
    assert design.counters["pfns_examined"] <= fixed.counters["pfns_examined"]


def test_a_mark_goes_with_its_allocation() -> None:
    design = PerFolio(machine())
    design.request(3, 0)
    frame = np.array([3])
    design.apply([FolioEvents(freed=frame, allocated=frame)])
    assert design.ledger.lost == {"stale: freed or reallocated": 1}
    design.verify()
    design.walk(2)
    assert design.calls == []
    assert design.ledger.stale_claims == 0


def test_any_page_marks_its_folio_and_memory_off_the_lru_has_no_record() -> None:
    lru = np.ones(8, bool)
    lru[7] = False
    design = PerFolio(machine(head=[0, 1, 2, 2, 4, 4, 4, 7], lru=lru))
    assert [design.request(pfn, 0) for pfn in (6, 7, 99)] == [0, -22, -22]
    design.walk(2)
    assert design.calls == [BatchCall((4,), 0)]
    assert design.counters["kmigrated_add_pfn_einval"] == 2


def test_lists_are_emptied_cpu_by_cpu_and_the_newest_entry_of_a_page_counts() -> None:
    design = PercpuList(machine())
    for cpu, pfn, nid in ((1, 5, 1), (0, 3, 0), (0, 5, 0), (1, 4, 1)):
        design.mark(pfn, nid, cpu=cpu)
    assert design.activated(2)
    design.walk(2)
    # CPU 0 is first, so its entry for page 5 is taken for the older one.
    assert design.calls == [BatchCall((3,), 0), BatchCall((4, 5), 1)]
    assert (design.counters["entries_examined"], design.counters["duplicates"]) == (4, 1)
    assert design.ledger.lost == {"overwritten nid": 1}
    assert design.ledger.elsewhere == 1
    design.verify()


def test_a_full_list_drops_and_only_that_list() -> None:
    design = PercpuList(machine(), list_entries=2)
    for pfn in range(4):
        design.mark(pfn, 0, cpu=0)
    design.mark(3, 0, cpu=1)
    assert design.ledger.lost == {"list overflow": 2}
    design.verify()
    design.walk(2)
    assert design.calls == [BatchCall((3, 1, 0), 0)]
    assert (design.ledger.requested, design.ledger.migrated) == (5, 3)
    design.verify()


def test_an_entry_without_a_reference_outlives_its_folio() -> None:
    design = PercpuList(machine())
    design.mark(3, 0)
    frame = np.array([3])
    design.apply([FolioEvents(freed=frame, allocated=frame)])
    design.verify()
    design.walk(2)
    assert design.calls == [BatchCall((3,), 0)]
    assert (design.ledger.migrated, design.ledger.stale_claims) == (0, 1)


def test_pages_at_home_are_not_listed_and_refused_ones_are_forgotten() -> None:
    design = PercpuList(machine(prepare=[-11] * 8))
    design.mark(1, 2)
    design.mark(2, 0)
    assert [design.mark(pfn, 0) for pfn in (99, 2)] == [-22, 0]
    design.walk(2)
    assert design.calls == []
    assert design.ledger.superseded == 1
    assert design.ledger.lost == {"consumed before refusal": 1}
    design.verify()
