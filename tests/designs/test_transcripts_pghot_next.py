"""The transcription of pghot after v7, held to small machines worked out by hand from the tree's text."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

import pytest

from transcripts.pghot import DEFAULT, PRECISE, Mode, Tunables
from transcripts.pghot_next import NID_KNOWN, PghotNext, Source
from transcripts.world import Layout, Span, layout

SECTION = 16
NEXT = Tunables(section_pages=SECTION, target_nid=-1)
LOW = 32
"""First PFN of the lower tier: behind a section of node 0 and one of node 9, of the top tier."""
HW, FAULT = Source.HWHINTS, Source.HINTFAULTS
BOTH = 0b11


def tiers(nids: list[int], **exceptions: Sequence[int] | Sequence[tuple[int, int]]) -> Layout:
    """Return nodes 0 and 9 and the given pages of lower nodes, each node's in one stretch."""
    zones = [Span(0, 0, 16), Span(9, 16, 32)]
    for nid in dict.fromkeys(nids):
        first = LOW + nids.index(nid)
        zones.append(Span(nid, first, first + nids.count(nid)))
    return layout([0] * 16 + [9] * 16 + nids, zones, top_tier=(0, 9), **exceptions)  # type: ignore[arg-type]


def thread(
    columns: Layout | None = None,
    mode: Mode = DEFAULT,
    *,
    sources: int = BOTH,
    distances: Mapping[tuple[int, int], int] | None = None,
    without_memory: Collection[int] = (),
    **changes: int,
) -> PghotNext:
    """Return pghot where the top tier has plenty of free memory: no threshold, no rate limit."""
    made = PghotNext(
        columns or tiers([1] * 16),
        mode,
        tunables=replace(NEXT, **changes),
        distances=distances or {},
        enabled_sources=sources,
        without_memory=set(without_memory),
    )
    made.roomy = {0, 9}
    return made


@pytest.mark.parametrize(("mode", "freq_shift", "most"), [(DEFAULT, 0, 3), (PRECISE, 10, 7)])
def test_a_report_carries_a_count_that_stops_at_the_field_s_width(
    mode: Mode, freq_shift: int, most: int
) -> None:
    """Two at once are as good as two faults. 200 is more than two or three bits hold, and so is 2 + most."""
    pghot = thread(mode=mode)
    assert pghot.record_accesses(LOW, -1, HW, 2, 1000) == 0
    assert pghot.records[LOW] >> freq_shift & most == 2
    assert pghot.records[LOW] & mode.ready
    assert (pghot.hot_sections, pghot.activated) == ({2}, {1})
    pghot.record_accesses(LOW, -1, HW, most, 1000)
    pghot.record_accesses(LOW + 1, -1, HW, 200, 1000)
    assert [pghot.records[pfn] >> freq_shift & most for pfn in (LOW, LOW + 1)] == [most, most]
    # So does one that begins a window: no bit of it reaches the time, bucket 31 or jiffy 10000.
    late, time_shift, time = (3968, 2, 31) if mode is DEFAULT else (10_000, 13, 10_000)
    pghot.record_accesses(LOW + 2, -1, HW, 200, late)
    assert pghot.records[LOW + 2] == mode.ready | time << time_shift | most << freq_shift
    # Counted as they were reported, not as they were kept.
    assert pghot.world.counters["pghot_recorded_accesses"] == 2 + most + 400
    assert pghot.world.counters["pghot_recorded_hwhints"] == 4


def test_reports_that_are_not_taken() -> None:
    """No accesses and no node of the top tier: -EINVAL. A source that is off: 0, and nothing is counted."""
    pghot = thread(mode=PRECISE, sources=0b01)
    assert pghot.record_accesses(LOW, 0, FAULT, 0, 1000) == -22
    assert pghot.record_accesses(LOW, 1, FAULT, 1, 1000) == -22
    assert pghot.record_accesses(LOW, 0, 2, 1, 1000) == -22
    assert pghot.record_range(LOW, 0, 0, FAULT, 1, 1000) == -22
    assert pghot.record_range(LOW, (1 << 64) - LOW, 0, FAULT, 1, 1000) == -22
    assert pghot.record_accesses(LOW, -1, HW, 9, 1000) == 0
    assert pghot.record_range(LOW, 4, -1, HW, 9, 1000) == 0
    assert not pghot.world.counters
    assert not any(pghot.records.values())


def test_hint_faults_alone_are_enabled_by_default() -> None:
    pghot = PghotNext(tiers([1] * 16), tunables=NEXT)
    pghot.record_accesses(LOW, -1, HW, 2, 1000)
    pghot.record_access(LOW + 1, 0, 1000)
    assert [pfn for pfn, word in pghot.records.items() if word] == [LOW + 1]


@pytest.mark.parametrize("mode", [DEFAULT, PRECISE])
def test_ready_goes_with_the_window(mode: Mode) -> None:
    """Hot, then one access after the window: 1 of 2, and the section is walked for nothing."""
    pghot = thread(mode=mode)
    pghot.record_accesses(LOW, 0, FAULT, 2, 1000)
    later = 1000 + (3200 if mode is DEFAULT else 5001)
    pghot.record_access(LOW, 0, later)
    assert not pghot.records[LOW] & mode.ready
    assert pghot.hot_sections == {2}
    assert pghot.wake(1, later)
    assert pghot.world.calls == []


def test_who_does_not_know_the_node_does_not_overwrite_who_does() -> None:
    """Node 9 by a fault, then a device: bit 27 and 9 stay. A device alone: bit 27 clear, nid 0."""
    pghot = thread(mode=PRECISE)
    pghot.record_access(LOW, 9, 1000)
    pghot.record_accesses(LOW, -1, HW, 1, 1000)
    assert pghot.records[LOW] == 9 | 2 << 10 | 1000 << 13 | NID_KNOWN | 1 << 31
    pghot.record_accesses(LOW + 1, -1, HW, 2, 1000)
    assert pghot.records[LOW + 1] == 2 << 10 | 1000 << 13 | 1 << 31
    # A fault after the device: known from then on. Node 0 is a node like any other.
    pghot.record_accesses(LOW + 2, -1, HW, 2, 1000)
    pghot.record_access(LOW + 2, 0, 1000)
    assert pghot.records[LOW + 2] == 0 | 3 << 10 | 1000 << 13 | NID_KNOWN | 1 << 31
    # Also when the count begins anew.
    pghot.record_accesses(LOW, -1, HW, 2, 1000 + 5001)
    assert pghot.records[LOW] & (1023 | NID_KNOWN) == 9 | NID_KNOWN


@pytest.mark.parametrize(
    ("distances", "target"),
    [
        ({(1, 0): 30, (1, 9): 21}, 9),
        ({(1, 0): 30, (1, 9): 30}, 0),  # the lower one on a tie
        ({(0, 1): 11, (9, 1): 50, (1, 0): 40, (1, 9): 30}, 9),  # from the page's node, not from the target
        ({(1, 0): 255, (1, 9): 255}, 0),  # 255 is a number like any other
    ],
)
def test_a_record_without_a_node_goes_to_the_nearest_of_the_top_tier(
    distances: Mapping[tuple[int, int], int], target: int
) -> None:
    for mode in (DEFAULT, PRECISE):
        pghot = thread(mode=mode, distances=distances)
        pghot.record_accesses(LOW, -1, HW, 2, 1000)
        assert pghot.wake(1, 1000)
        assert pghot.world.calls == [((LOW,), target)]


def test_pghot_target_nid_overrides_the_topology_but_not_a_node_that_is_known() -> None:
    pghot = thread(mode=PRECISE, distances={(1, 0): 11}, target_nid=9)
    pghot.record_accesses(LOW, -1, HW, 2, 1000)
    pghot.record_accesses(LOW + 1, 0, FAULT, 2, 1000)
    pghot.wake(1, 1000)
    assert pghot.world.calls == [((LOW,), 9), ((LOW + 1,), 0)]
    compact = thread(distances={(1, 0): 11}, target_nid=9)
    compact.record_accesses(LOW, 0, FAULT, 2, 1000)
    compact.wake(1, 1000)
    assert compact.world.calls == [((LOW,), 9)]


def test_a_range_is_one_report_and_each_folio_inherits_its_count() -> None:
    """PFN 34 to 43: the folio at 32 from its third page on, a hole, a single page, one off the LRU (two
    pages, stepped over whole) and the folio at 40, which the range leaves in its middle. Three recorded.
    """
    columns = tiers([1] * 16, folios=[(32, 4), (38, 2), (40, 8)], holes=[36], off_lru=[38])
    pghot = thread(columns)
    assert pghot.record_range(34, 10, -1, HW, 2, 1000) == 3
    assert [pfn for pfn, word in pghot.records.items() if word] == [32, 37, 40]
    assert pghot.world.counters["pghot_recorded_hwhints"] == 1
    assert pghot.world.counters["pghot_recorded_accesses"] == 6
    pghot.wake(1, 1000)
    assert pghot.world.calls == [((40, 37, 32), 0)]


def test_a_range_over_the_top_tier_records_nothing_there() -> None:
    pghot = thread()
    assert pghot.record_range(LOW - 3, 5, -1, HW, 2, 1000) == 2
    assert pghot.record_range(0, LOW, -1, HW, 2, 1000) == 0
    assert [pfn for pfn, word in pghot.records.items() if word] == [LOW, LOW + 1]


def test_a_section_needs_its_first_page_online() -> None:
    """v7 asks for a struct page only; here an offline first page means no records, and no walk."""
    pghot = thread(tiers([1] * 16, offline=[LOW]))
    pghot.record_accesses(LOW + 1, 0, FAULT, 2, 1000)
    assert not any(pghot.records.values())
    assert pghot.hot_maps == set()


def test_a_node_that_gains_memory_gains_records_and_a_thread() -> None:
    pghot = thread(without_memory={1})
    assert pghot.threads == pghot.hot_maps == set()
    pghot.record_accesses(LOW, 0, FAULT, 2, 1000)  # nothing is online there
    assert not any(pghot.records.values())
    pghot.add_memory(1)
    assert (pghot.threads, pghot.hot_maps) == ({1}, {2})
    pghot.record_accesses(LOW, 0, FAULT, 2, 1000)
    assert pghot.wake(1, 1000)
    assert pghot.world.calls == [((LOW,), 0)]


def test_a_node_that_loses_its_memory_loses_records_and_thread() -> None:
    pghot = thread()
    pghot.record_accesses(LOW, 0, FAULT, 2, 1000)
    pghot.remove_memory(1)
    assert pghot.threads == pghot.hot_maps == pghot.hot_sections == set()
    assert not any(pghot.records.values())
    assert not pghot.wake(1, 1000)
    # The flag was set when the thread was stopped: the next one walks at once, and finds nothing.
    pghot.add_memory(1)
    assert pghot.activated == {1}
    assert pghot.wake(1, 1000)
    assert pghot.world.calls == []


def test_targets_follow_the_top_tier_s_memory() -> None:
    """Hot before node 9, the nearest, has memory; promoted there, since the walk asks."""
    pghot = thread(mode=PRECISE, distances={(1, 0): 40, (1, 9): 30}, without_memory={9})
    pghot.record_accesses(LOW, -1, HW, 2, 1000)
    assert pghot.nearest[1] == 0
    pghot.add_memory(9)
    assert pghot.nearest[1] == 9
    pghot.wake(1, 1000)
    assert pghot.world.calls == [((LOW,), 9)]
    pghot.remove_memory(9)
    pghot.remove_memory(0)
    assert pghot.nearest[1] == -1
    pghot.record_accesses(LOW + 1, -1, HW, 2, 1000)
    pghot.wake(1, 1000)
    assert len(pghot.world.calls) == 1
    assert pghot.world.counters["no_target"] == 1
    assert not any(pghot.records.values())
