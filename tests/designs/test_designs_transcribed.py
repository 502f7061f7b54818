"""The designs of the kernel debate do what the posted patches do: the same calls, records and counters.

The other side are the transcriptions in ``transcripts``, which share no code with ``gpuscan``.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, find, given, settings
from hypothesis.strategies import SearchStrategy

from gpuscan.designs.machine import ArrayMachine, ZoneSpan
from gpuscan.designs.pghot import SectionFlag
from gpuscan.designs.pghot_marks import PghotTunables
from gpuscan.designs.races import Race, RaceOrder
from gpuscan.designs.rfc import RfcFixed, RfcV1
from transcripts.machines import (
    HUGE,
    SECTION_PAGES,
    Event,
    Mark,
    PghotCase,
    Wait,
    Walk,
    pghot_cases,
    rfc_cases,
)
from transcripts.pghot import DEFAULT, PRECISE, Mode, Pghot, Tunables
from transcripts.rfc_v1 import Kmigrated
from transcripts.world import Layout, Span, layout

RFC_COUNTERS = (
    "kmigrated_add_pfn",
    "kmigrated_add_pfn_einval",
    "walks",
    "zones_walked",
    "pfns_examined",
    "claimed",
    "at_home",
    "prepare_refused",
    "isolated",
    "batch_calls",
    "empty_batch_calls",
    "cond_resched",
    "pgmigrate_success",
    "numa_pages_migrated",
    "pgpromote_success",
    "pgmigrate_fail",
    "invalid_nid",
)
PGHOT_COUNTERS = (
    "pghot_recorded_accesses",
    "pghot_recorded_hintfaults",
    "pgpromote_candidate",
    "pgpromote_candidate_nrl",
    "walks",
    "sections_examined",
    "sections_walked",
    "pfns_examined",
    "claimed",
    "at_home",
    "not_promoted",
    "prepare_refused",
    "isolated",
    "batch_calls",
    "batch_folios",
    "cond_resched",
    "pgmigrate_success",
    "pgmigrate_fail",
    "numa_pages_migrated",
    "pgpromote_success",
)


def array_machine(columns: Layout, free_enough: frozenset[int] = frozenset()) -> ArrayMachine:
    """Return the layout as the arrays that a design is given, holes filled in."""
    first_pfn = min(columns.pfns)
    at = np.array(columns.pfns) - first_pfn
    n_pfns = int(at.max()) + 1

    def column(values: tuple[int, ...], dtype: type, absent: int) -> np.ndarray:
        array: np.ndarray = np.full(n_pfns, absent, dtype)
        array[at] = values
        return array

    head = np.arange(first_pfn, first_pfn + n_pfns, dtype=np.int64)
    head[at] = columns.head
    return ArrayMachine(
        column(columns.nid, np.int64, columns.nid[0]),
        [ZoneSpan(zone.nid, zone.start_pfn, zone.end_pfn, zone.device) for zone in columns.zones],
        first_pfn=first_pfn,
        valid=column(columns.valid, np.bool_, 0),
        online=column(columns.online, np.bool_, 0),
        lru=column(columns.lru, np.bool_, 0),
        head=head,
        prepare=column(columns.prepare, np.int64, 0),
        memcg=column(columns.memcg, np.int64, 0),
        top_tier=columns.top_tier,
        free_enough=tuple(free_enough),
    )


def calls_of(design: RfcV1 | RfcFixed | SectionFlag) -> list[tuple[tuple[int, ...], int]]:
    return [(tuple(call.pfns), call.nid) for call in design.calls]


def records_of(records: np.ndarray, columns: Layout) -> dict[int, int]:
    """Return the records that are not zero, by PFN."""
    first_pfn = min(columns.pfns)
    return {first_pfn + int(i): int(records[i]) for i in np.flatnonzero(records)}


def compare_rfc(columns: Layout, events: list[Event], *, fixed: bool) -> Counter[str]:
    """Drive both with the same events and compare everything that comes out."""
    thread = Kmigrated(columns, fixed=fixed)
    design = (RfcFixed if fixed else RfcV1)(array_machine(columns))
    nodes = {zone.nid for zone in columns.zones}
    for event in events:
        match event:
            case Mark(pfn, nid):
                assert design.request(pfn, nid) == thread.add_pfn(pfn, nid)
            case Walk(nid, rivals):
                races = [Race(rival.pfn, rival.nid, cast(RaceOrder, rival.order)) for rival in rivals]
                design.walk(nid, races)
                thread.walk_node(nid, rivals)
        assert {nid for nid in nodes if design.activated(nid)} == thread.activated
    assert calls_of(design) == thread.world.calls
    expected = {pfn: word >> 2 for pfn, word in thread.words.items() if word}
    assert records_of(design.records, columns) == expected
    counters = {name: design.counters[name] for name in RFC_COUNTERS}
    assert counters == {name: thread.world.counters[name] for name in RFC_COUNTERS}
    return thread.world.counters


@pytest.mark.parametrize("fixed", [False, True])
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=rfc_cases())
def test_rfc_designs_do_what_was_posted(case: tuple[Layout, list[Event]], fixed: bool) -> None:
    compare_rfc(*case, fixed=fixed)


@pytest.mark.parametrize("cases", [rfc_cases(), pghot_cases()], ids=["rfc", "pghot"])
def test_machines_are_drawn_with_folios_of_512_pages(cases: SearchStrategy[Any]) -> None:
    def largest_folio(case: Any) -> int:
        columns = case.columns if isinstance(case, PghotCase) else case[0]
        return max(Counter(columns.head).values())

    only_drawn = settings(phases=[Phase.generate], max_examples=100, database=None, deadline=None)
    assert find(cases.map(largest_folio), lambda n_pages: n_pages == HUGE, settings=only_drawn) == HUGE


@pytest.mark.parametrize("fixed", [False, True])
def test_rfc_designs_cut_long_runs_of_marks_where_the_patch_does(fixed: bool) -> None:
    """2100 marked pages of mixed targets, with folios of 512 and a refused page among them."""
    n_pages = 2600
    columns = layout(
        [9] * n_pages + [0, 1, 2],
        [Span(9, 0, n_pages), *(Span(nid, n_pages + nid, n_pages + nid + 1) for nid in range(3))],
        folios=[(1024, 512)],
        refused=[700],
    )
    marks: list[Event] = [Mark(pfn, 1 if pfn < 1500 else pfn % 3) for pfn in range(n_pages)]
    counters = compare_rfc(columns, [*marks, Walk(9)], fixed=fixed)
    assert counters["batch_calls"] > 3
    assert counters["prepare_refused"] == 1


def compare_pghot(case: PghotCase) -> Counter[str]:
    """Drive both with the same accesses and walks, on one clock, and compare everything that comes out."""
    tunables = case.tunables
    thread = Pghot(case.columns, case.mode, tunables=tunables, roomy=set(case.roomy))
    design = SectionFlag(
        array_machine(case.columns, case.roomy),
        PghotTunables(
            record_format="pghot" if case.mode is PRECISE else "pghot-compact",
            target_nid=tunables.target_nid,
            freq_threshold=tunables.freq_threshold,
            freq_window_ms=tunables.window_ms,
            batch_nr=tunables.batch_nr,
            rate_limit_mbps=tunables.rate_limit_mbps,
            hz=tunables.hz,
        ),
    )
    nodes = {zone.nid for zone in case.columns.zones}
    sections = {pfn // SECTION_PAGES for pfn in case.columns.pfns}
    now = 70_000
    for event in case.events:
        match event:
            case Wait(jiffies):
                now += jiffies
            case Mark(pfn, nid, n_times):
                for _ in range(n_times):
                    assert design.record_access(pfn, nid, now) == thread.record_access(pfn, nid, now)
            case Walk(nid):
                design.walk(nid, now_jiffies=now)
                thread.walk_node(nid, now)
        assert {nid for nid in nodes if design.activated(nid)} == thread.activated
        assert {number for number in sections if design.section_hot(number)} == thread.hot_sections
    assert calls_of(design) == thread.world.calls
    assert records_of(design.records, case.columns) == {
        pfn: word for pfn, word in thread.records.items() if word
    }
    found = thread.world.counters
    found["not_promoted"] = found["too_old"] + found["rate_limited"]
    assert {name: design.counters[name] for name in PGHOT_COUNTERS} == {
        name: found[name] for name in PGHOT_COUNTERS
    }
    return found


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(case=pghot_cases())
def test_section_flag_does_what_was_posted(case: PghotCase) -> None:
    compare_pghot(case)


@pytest.mark.parametrize("mode", [DEFAULT, PRECISE], ids=lambda mode: mode.name)
@pytest.mark.parametrize("roomy", [True, False])
def test_section_flag_cuts_and_limits_long_runs_where_the_patch_does(mode: Mode, roomy: bool) -> None:
    """1400 hot pages: batches of 513 where there is room, 256 pages a second where there is not."""
    low = SECTION_PAGES
    columns = layout(
        [1] * 1400 + [0],
        [Span(0, low + 1400, low + 1401), Span(1, low, low + 1400)],
        first_pfn=low,
        top_tier=[0],
    )
    marks = [Mark(pfn, 0, 2) for pfn in range(low, low + 1400)]
    again = [Mark(pfn, 0, 2) for pfn in range(low + 1000, low + 1400)]
    events: tuple[Event, ...] = (*marks, Walk(1), Wait(1001), *again, Walk(1))
    counters = compare_pghot(
        PghotCase(columns, mode, Tunables(rate_limit_mbps=1), frozenset({0} if roomy else ()), events)
    )
    assert counters["batch_calls"] == (3 if roomy else 2)
    assert counters["isolated"] == (1400 if roomy else 512)


@pytest.mark.parametrize("jiffy", [127, 128, 255])
def test_a_mark_of_the_walk_s_own_jiffy_has_no_age(jiffy: int) -> None:
    """With a window of 100 ms a bucket of 128 jiffies is too old; the mark is in the walk's own."""
    low = SECTION_PAGES
    columns = layout([1, 0], [Span(0, low + 1, low + 2), Span(1, low, low + 1)], first_pfn=low, top_tier=[0])
    start = 70_000 // 128 * 128 + 128 - 70_000  # begins a bucket
    events = (Wait(start + jiffy), Mark(low, 0, 1), Walk(1))
    tunables = Tunables(window_ms=100, freq_threshold=1)
    counters = compare_pghot(PghotCase(columns, DEFAULT, tunables, frozenset(), events))
    assert counters["isolated"] == 1
    assert counters["not_promoted"] == 0
