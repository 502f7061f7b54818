"""``section-flag-next`` does what the pghot of its tree does: calls, records, counters, flags, threads."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from test_designs_transcribed import PGHOT_COUNTERS, array_machine, calls_of, records_of

from gpuscan.designs.built_in.section_flag_next import HINTFAULTS, HWHINTS, NextTunables, SectionFlagNext
from gpuscan.designs.machine import ArrayMachine
from gpuscan.designs.requests import COOLED, NO_TARGET
from gpuscan.records.formats import record_format, unpack
from transcripts.machines import (
    SECTION_PAGES,
    Hotplug,
    Mark,
    PghotCase,
    PghotNextCase,
    Report,
    Wait,
    Walk,
    pghot_next_cases,
)
from transcripts.pghot import DEFAULT, PRECISE, Mode, Tunables
from transcripts.pghot_next import PghotNext, Source
from transcripts.world import Layout, Span, layout

COUNTERS = (*PGHOT_COUNTERS, "pghot_recorded_hwhints", "no_target")
SOURCES = {Source.HINTFAULTS: HINTFAULTS, Source.HWHINTS: HWHINTS, 2: 4}


def both(case: PghotNextCase) -> tuple[SectionFlagNext, PghotNext]:
    base, tunables = case.base, case.base.tunables
    thread = PghotNext(
        base.columns,
        base.mode,
        tunables=tunables,
        roomy=set(base.roomy),
        distances=dict(case.distances),
        enabled_sources=case.enabled_sources,
        without_memory=set(case.without_memory),
    )
    machine = array_machine(base.columns, base.roomy)
    machine._distances = dict(case.distances)
    for nid in case.without_memory:
        machine.set_online(nid, online=False)
    design = SectionFlagNext(
        machine,
        NextTunables(
            record_format="pghot" if base.mode is PRECISE else "pghot-compact",
            target_nid=tunables.target_nid,
            freq_threshold=tunables.freq_threshold,
            freq_window_ms=tunables.window_ms,
            batch_nr=tunables.batch_nr,
            rate_limit_mbps=tunables.rate_limit_mbps,
            hz=tunables.hz,
            enabled_sources=case.enabled_sources,
        ),
        case.without_memory,
    )
    return design, thread


def told(design: SectionFlagNext, event: Report, now: int) -> int:
    source = SOURCES[event.source]
    if event.n_pages is None:
        return design.record_accesses(event.pfn, event.nid, event.nr, now, source)
    return design.record_range(event.pfn, event.n_pages, event.nid, event.nr, now, source)


def reported(thread: PghotNext, event: Report, now: int) -> int:
    if event.n_pages is None:
        return thread.record_accesses(event.pfn, event.nid, event.source, event.nr, now)
    return thread.record_range(event.pfn, event.n_pages, event.nid, event.source, event.nr, now)


def compare(case: PghotNextCase) -> tuple[SectionFlagNext, Counter[str]]:
    """Drive both with the same events, on one clock, and compare everything that comes out."""
    design, thread = both(case)
    columns = case.base.columns
    nodes = {zone.nid for zone in columns.zones}
    sections = {pfn // SECTION_PAGES for pfn in columns.pfns}
    now = 70_000
    for event in case.base.events:
        match event:
            case Wait(jiffies):
                now += jiffies
            case Mark(pfn, nid, n_times):
                for _ in range(n_times):
                    assert design.mark(pfn, nid, now) == thread.record_access(pfn, nid, now)
            case Report():
                assert told(design, event, now) == reported(thread, event, now)
            case Hotplug(nid, comes):
                if comes == (nid in thread.without_memory):
                    assert isinstance(design.machine, ArrayMachine)
                    changed = design.machine.set_online(nid, online=comes)
                    (design.memory_added if comes else design.memory_removed)(nid, changed)
                    (thread.add_memory if comes else thread.remove_memory)(nid)
            case Walk(nid):
                if nid in thread.threads:
                    design.walk(nid, now_jiffies=now)
                    thread.walk_node(nid, now)
        assert {nid for nid in nodes if design.activated(nid)} == thread.activated
        assert {number for number in sections if design.section_hot(number)} == thread.hot_sections
        assert {nid for nid in nodes if design.has_thread(nid)} == thread.threads
        design.verify()
    assert calls_of(design) == thread.world.calls
    assert records_of(design.records, columns) == {pfn: word for pfn, word in thread.records.items() if word}
    found = thread.world.counters
    found["not_promoted"] = found["too_old"] + found["rate_limited"]
    assert {name: design.counters[name] for name in COUNTERS} == {name: found[name] for name in COUNTERS}
    return design, found


@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=pghot_next_cases())
def test_section_flag_next_does_what_the_tree_does(case: PghotNextCase) -> None:
    compare(case)


@pytest.mark.slow
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=pghot_next_cases())
def test_section_flag_next_does_what_the_tree_does_in_many_cases(case: PghotNextCase) -> None:
    compare(case)


def low_node(
    *events: object,
    mode: Mode = PRECISE,
    folios: tuple[tuple[int, int], ...] = (),
    without_memory: frozenset[int] = frozenset(),
) -> PghotNextCase:
    """Return 40 pages of node 1 and a page each of nodes 0 and 9, the top tier, with room; 9 is nearer."""
    low, top = SECTION_PAGES, 2 * SECTION_PAGES  # in sections of their own
    own = layout(
        [1] * 40,
        [Span(1, low, low + 40)],
        first_pfn=low,
        folios=[(low + first, n_pages) for first, n_pages in folios],
    )
    fast = layout([0, 9], [Span(0, top, top + 1), Span(9, top + 1, top + 2)], first_pfn=top)
    joined = {place.name: getattr(own, place.name) + getattr(fast, place.name) for place in fields(Layout)}
    columns = Layout(**{**joined, "top_tier": (0, 9)})
    tunables = Tunables(target_nid=-1)
    base = PghotCase(columns, mode, tunables, frozenset({0, 9}), events)  # type: ignore[arg-type]
    distances = (((1, 0), 30), ((1, 9), 20))
    return PghotNextCase(base, distances, 0b11, without_memory)


@pytest.mark.parametrize("mode", [DEFAULT, PRECISE], ids=lambda mode: mode.name)
def test_a_device_s_report_goes_to_the_nearest_node_and_is_one_request_of_it(mode: Mode) -> None:
    event = Report(SECTION_PAGES + 3, None, -1, Source.HWHINTS, 2)
    design, _ = compare(low_node(event, Walk(1), mode=mode))
    assert calls_of(design) == [((SECTION_PAGES + 3,), 9)]
    assert design.ledger.as_dict()["migrated"] == 1
    assert design.ledger.elsewhere == 0


@pytest.mark.parametrize("mode", [DEFAULT, PRECISE], ids=lambda mode: mode.name)
@pytest.mark.parametrize("nr", [1, 3, 7, 8, 40])
def test_a_count_stops_where_the_record_does(mode: Mode, nr: int) -> None:
    pfn = SECTION_PAGES + 3
    first, again = (Report(pfn, None, -1, Source.HWHINTS, count) for count in (nr, 2))
    compare(low_node(first, mode=mode))
    compare(low_node(first, again, mode=mode))
    compare(low_node(first, Wait(5001), first, again, mode=mode))


def test_a_range_that_begins_inside_a_folio_goes_on_behind_it() -> None:
    event = Report(SECTION_PAGES + 4, 5, -1, Source.HWHINTS, 2)
    design, _ = compare(low_node(event, folios=((2, 4), (8, 8))))
    assert np.flatnonzero(design.records).tolist() == [2, 6, 7, 8]


def test_a_node_that_a_fault_named_outlives_the_reports_of_a_device() -> None:
    pfn = SECTION_PAGES + 3
    design, _ = compare(low_node(Mark(pfn, 0), Report(pfn, None, -1, Source.HWHINTS, 2), Walk(1)))
    assert calls_of(design) == [((pfn,), 0)]
    assert design.ledger.elsewhere == design.counters["sent_to_wrong_node"] == 0


def test_a_pending_request_ends_with_the_window_and_its_section_is_walked_for_nothing() -> None:
    pfn = SECTION_PAGES + 3
    design, found = compare(low_node(Mark(pfn, 0, 2), Wait(5001), Mark(pfn, 0), Walk(1)))
    assert design.ledger.lost == {COOLED: 1}
    assert found["pfns_examined"] == SECTION_PAGES
    assert calls_of(design) == []
    # Two at once make a window of their own.
    design, _ = compare(
        low_node(Mark(pfn, 0, 2), Wait(5001), Report(pfn, None, 0, Source.HINTFAULTS, 2), Walk(1))
    )
    assert design.ledger.as_dict()["superseded"] == design.ledger.as_dict()["migrated"] == 1


def test_a_range_makes_a_request_of_each_folio() -> None:
    design, found = compare(low_node(Report(SECTION_PAGES, 30, -1, Source.HWHINTS, 40), Walk(1)))
    assert found["pghot_recorded_hwhints"] == 1
    assert found["pghot_recorded_accesses"] == 30 * 40
    assert design.ledger.as_dict()["migrated"] == 30
    words = unpack(record_format("pghot"), design.records)
    assert not np.any(words.freq)


def test_memory_that_goes_takes_requests_along_and_memory_that_comes_changes_targets() -> None:
    pfn = SECTION_PAGES + 3
    hot = Report(pfn, None, -1, Source.HWHINTS, 2)
    design, _ = compare(low_node(hot, Hotplug(1, False), Hotplug(1, True), Walk(1)))
    assert design.ledger.lost == {"stale: freed or reallocated": 1}
    assert design.counters["walks"] == 1
    design, _ = compare(low_node(hot, Hotplug(9, True), Walk(1), without_memory=frozenset({9})))
    assert calls_of(design) == [((pfn,), 9)]
    assert design.ledger.elsewhere == 1  # node 0 was the nearest when it was asked for
    # Nowhere to go, and a batch on its way all the same.
    both_ways = (Mark(pfn + 1, 0, 2), hot, Hotplug(0, False), Hotplug(9, False), Walk(1))
    design, found = compare(low_node(*both_ways))
    assert design.ledger.lost == {"consumed before refusal": 1, NO_TARGET: 1}
    assert found["no_target"] == 1
    # A node that a fault named and that has no memory any more is refused by the checks.
    fault = Mark(pfn, 9, 2)
    design, found = compare(low_node(fault, Hotplug(9, False), Walk(1)))
    assert calls_of(design) == []
    assert found["prepare_refused"] == 1


def test_a_folio_may_begin_a_batch_and_fill_it() -> None:
    """With batch_nr 0 each folio is a batch; the thread reschedules before one for another node, too."""
    low = SECTION_PAGES
    marks = [Mark(low + page, (0, 9)[page % 2], 1) for page in range(8)]
    case = low_node(*marks, Walk(1))
    tunables = replace(case.base.tunables, batch_nr=0, freq_threshold=1)
    design, _ = compare(replace(case, base=replace(case.base, tunables=tunables)))
    assert design.counters["claimed"] == 8
    assert design.counters["cond_resched"] == 8 + 7
