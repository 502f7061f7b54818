"""pghot: when a page becomes READY, what a section's hot bit strands, and what refuses a zeroed record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.base.errors import InputError
from gpuscan.designs.machine import ArrayMachine, BatchCall, ZoneSpan
from gpuscan.designs.pghot import SectionFlag
from gpuscan.designs.pghot_marks import PghotTunables
from gpuscan.records.formats import record_format, unpack
from gpuscan.records.page_map import SECTION_PAGES

EAGAIN = -11
COMPACT = PghotTunables()
PRECISE = PghotTunables(record_format="pghot")


def lower(n: int = 8, first_pfn: int = 0, **arrays: Any) -> ArrayMachine:
    """Return a machine with ``n`` pages on node 2, below the top tier of nodes 0 and 1, both with room."""
    zones = [ZoneSpan(0, 0, 0), ZoneSpan(1, 0, 0), ZoneSpan(2, first_pfn, first_pfn + n)]
    arrays = {"top_tier": (0, 1), "free_enough": (0, 1), **arrays}
    return ArrayMachine(np.full(n, 2), zones, first_pfn=first_pfn, **arrays)


def hot(design: SectionFlag, pfn: int, nid: int = 0, now: int = 10) -> None:
    """Access a page twice in a row."""
    design.record_access(pfn, nid, now)
    design.record_access(pfn, nid, now)


def ready(design: SectionFlag) -> list[int]:
    fmt = record_format(design.tunables.record_format)
    return np.flatnonzero(unpack(fmt, design.records).ready).tolist()


@pytest.mark.parametrize("tunables", [COMPACT, PRECISE])
def test_two_accesses_within_the_window_make_a_page_ready(tunables: PghotTunables) -> None:
    window = tunables.window_ms
    design = SectionFlag(lower(), tunables)
    start = 1 << 20
    design.record_access(0, 0, start)
    assert ready(design) == []
    assert not design.activated(2)
    design.record_access(0, 0, start + window - 200)
    assert ready(design) == [0]
    assert design.activated(2)
    assert design.section_hot(0)
    late = SectionFlag(lower(), tunables)
    late.record_access(0, 0, start)
    late.record_access(0, 0, start + window + 200)
    assert ready(late) == []


def test_ready_survives_a_new_window() -> None:
    design = SectionFlag(lower(), PRECISE)
    hot(design, 0, now=1000)
    design.record_access(0, 0, 1000 + 6000)
    fields = unpack(record_format("pghot"), design.records)
    assert (fields.ready[0], fields.freq[0]) == (True, 1)


@pytest.mark.parametrize("tunables", [COMPACT, PRECISE])
def test_a_wrapped_time_looks_fresh(tunables: PghotTunables) -> None:
    design = SectionFlag(lower(), tunables)
    wrap = record_format(tunables.record_format).wrap_jiffies()
    design.record_access(0, 0, 1 << 20)
    design.record_access(0, 0, (1 << 20) + wrap)
    assert ready(design) == [0]
    design.walk(2, now_jiffies=(1 << 20) + wrap)
    assert design.counters["false_promotions"] == 1
    honest = SectionFlag(lower(), tunables)
    hot(honest, 0)
    honest.walk(2, now_jiffies=10)
    assert honest.counters["false_promotions"] == 0


def test_precise_goes_where_the_last_access_came_from_and_compact_to_one_node() -> None:
    for tunables, nid in ((COMPACT, 0), (PRECISE, 1)):
        design = SectionFlag(lower(), tunables)
        hot(design, 3, nid=1)
        design.walk(2, now_jiffies=10)
        assert design.calls == [BatchCall((3,), nid)]
        assert design.ledger.elsewhere == (nid == 0)
        assert design.records[3] == 0


def test_only_accesses_to_lower_tiers_from_elsewhere_are_recorded() -> None:
    online, lru = np.ones(8, bool), np.ones(8, bool)
    online[1] = lru[2] = False
    nid = np.full(8, 2)
    nid[3] = 1
    zones = [ZoneSpan(0, 0, 0), ZoneSpan(1, 3, 4), ZoneSpan(2, 0, 8)]
    design = SectionFlag(ArrayMachine(nid, zones, online=online, lru=lru, top_tier=(0, 1)), PRECISE)
    for pfn in (1, 2, 3, 99):
        assert design.record_access(pfn, 0, 10) == 0
    for no_target in (2, 7, 1024, -2):  # its own node, below the top tier; not there; too large; no number
        assert design.record_access(4, no_target, 10) == -22
    assert not design.records.any()
    assert design.counters["pghot_recorded_hintfaults"] == 4
    assert design.counters["pghot_recorded_accesses"] == 0


def test_compact_takes_any_node_since_it_keeps_none() -> None:
    design = SectionFlag(lower(), COMPACT)
    assert design.record_access(4, 2, 10) == 0  # its own node: counted as a fault, not recorded
    assert design.counters["pghot_recorded_accesses"] == 0
    assert design.record_access(4, 1024, 10) == 0
    assert design.counters["pghot_recorded_hintfaults"] == 2
    assert design.counters["pghot_recorded_accesses"] == 1
    assert np.flatnonzero(design.records).tolist() == [4]


def test_device_pages_are_not_recorded() -> None:
    zones = [ZoneSpan(0, 0, 0), ZoneSpan(1, 0, 0), ZoneSpan(2, 0, 4), ZoneSpan(2, 4, 8, device=True)]
    design = SectionFlag(ArrayMachine(np.full(8, 2), zones, top_tier=(0, 1)), PRECISE)
    for pfn in (3, 5):
        assert design.record_access(pfn, 0, 10) == 0
    assert np.flatnonzero(design.records).tolist() == [3]
    assert design.counters["pghot_recorded_accesses"] == 1


def test_an_access_to_a_tail_counts_for_the_first_page() -> None:
    design = SectionFlag(lower(head=[0, 1, 2, 2, 2, 2, 6, 7]), PRECISE)
    design.record_access(4, 0, 10)
    design.record_access(5, 0, 10)
    assert ready(design) == [2]
    design.walk(2, now_jiffies=10)
    assert design.calls == [BatchCall((2,), 0)]
    assert design.counters["pfns_examined"] == SECTION_PAGES - 3


def test_a_folio_off_the_lru_is_stranded_when_its_section_bit_is_cleared() -> None:
    machine = lower()
    design = SectionFlag(machine, PRECISE)
    hot(design, 3)
    assert machine.prepare(3, 0) == 0  # somebody isolates it for a moment
    design.walk(2, now_jiffies=10)
    machine.migrate([3], -1)  # and puts it back
    assert ready(design) == [3]
    assert design.stranded() == 1
    design.walk(2, now_jiffies=10)
    assert design.calls == []
    hot(design, 5)  # another access to the section
    assert design.stranded() == 0
    design.walk(2, now_jiffies=10)
    assert design.calls == [BatchCall((5, 3), 0)]


def test_what_is_stranded_at_the_end_is_lost() -> None:
    machine = lower()
    design = SectionFlag(machine, PRECISE)
    hot(design, 3)
    machine.prepare(3, 0)
    design.walk(2, now_jiffies=10)
    design.finish()
    assert design.ledger.lost == {"stranded by a cleared section bit": 1}
    design.verify()


def test_a_section_that_starts_on_another_node_strands_its_pages() -> None:
    nid = [1, 2, 2, 2]
    for top_tier, has_records in (((0, 1), False), ((0,), True)):
        zones = [ZoneSpan(0, 0, 0), ZoneSpan(1, 0, 1), ZoneSpan(2, 1, 4)]
        design = SectionFlag(ArrayMachine(nid, zones, top_tier=top_tier, free_enough=(0,)), PRECISE)
        hot(design, 2)
        assert (ready(design) == [2]) == has_records
        design.walk(2, now_jiffies=10)
        design.walk(1, now_jiffies=10)
        assert design.calls == []
        assert design.stranded() == has_records


def test_batches_end_with_the_section_the_target_and_the_memcg() -> None:
    n = SECTION_PAGES + 4
    memcg = np.zeros(n, dtype=int)
    memcg[3] = 7
    design = SectionFlag(lower(n, memcg=memcg), PRECISE)
    for pfn, nid in ((0, 0), (1, 1), (2, 1), (3, 1), (4, 1), (SECTION_PAGES, 1)):
        hot(design, pfn, nid)
    design.walk(2, now_jiffies=10)
    assert design.calls == [
        BatchCall((0,), 0),
        BatchCall((2, 1), 1),
        BatchCall((3,), 1),
        BatchCall((4,), 1),
        BatchCall((SECTION_PAGES,), 1),
    ]


def test_a_batch_is_513_folios() -> None:
    design = SectionFlag(lower(600), PRECISE)
    for pfn in range(520):
        hot(design, pfn)
    design.walk(2, now_jiffies=10)
    assert [len(call.pfns) for call in design.calls] == [513, 7]


def test_the_threshold_refuses_after_the_record_was_zeroed() -> None:
    design = SectionFlag(lower(free_enough=()), PRECISE)
    hot(design, 0, now=1000)
    design.walk(2, now_jiffies=1000 + 5000)
    assert design.calls == []
    assert design.records[0] == 0
    assert design.ledger.lost == {"consumed before the rate limit": 1}
    assert design.counters["pgpromote_candidate"] == 0
    bypassed = SectionFlag(lower(), PRECISE)
    hot(bypassed, 0, now=1000)
    bypassed.walk(2, now_jiffies=1000 + 5000)
    assert bypassed.calls == [BatchCall((0,), 0)]
    assert bypassed.counters["pgpromote_candidate_nrl"] == 1


def test_the_rate_limit_lets_a_second_s_worth_through() -> None:
    limit = PghotTunables(record_format="pghot", rate_limit_mbps=1)  # 256 pages a second
    design = SectionFlag(lower(1200, free_enough=()), limit)
    for pfn in range(1200):
        hot(design, pfn, now=5000)
    design.walk(2, now_jiffies=5000)
    # The first candidate begins the second and is not counted in it.
    assert design.counters["isolated"] == 256
    assert design.counters["pgpromote_candidate"] == 1200
    assert design.ledger.lost == {"consumed before the rate limit": 1200 - 256}


def test_the_threshold_falls_when_there_are_too_many_candidates() -> None:
    limit = PghotTunables(record_format="pghot", rate_limit_mbps=0)
    design = SectionFlag(lower(free_enough=()), limit)
    for now in (70_000, 140_000):
        hot(design, 0, now=now)
        design.walk(2, now_jiffies=now)
    # 5000 ms, less 5000 * 2 / 16 after the minute in which the first was a candidate.
    hot(design, 1, now=141_000)
    design.walk(2, now_jiffies=141_000 + 4375)
    assert design.counters["pgpromote_candidate"] == 2
    hot(design, 2, now=141_000)
    design.walk(2, now_jiffies=141_000 + 4374)
    assert design.counters["pgpromote_candidate"] == 3


def test_enough_free_memory_resets_the_threshold() -> None:
    limit = PghotTunables(record_format="pghot", rate_limit_mbps=0)
    machine = lower(free_enough=())
    design = SectionFlag(machine, limit)
    for now in (70_000, 140_000):
        hot(design, 0, now=now)
        design.walk(2, now_jiffies=now)
    machine._free_enough = frozenset({0})
    hot(design, 1, now=141_000)
    design.walk(2, now_jiffies=141_000)
    machine._free_enough = frozenset()
    hot(design, 2, now=141_000)
    design.walk(2, now_jiffies=141_000 + 4999)  # 4375 without the reset
    assert design.counters["pgpromote_candidate"] == 3


def test_a_refused_page_is_forgotten() -> None:
    design = SectionFlag(lower(prepare=[EAGAIN] * 8), PRECISE)
    hot(design, 3)
    design.walk(2, now_jiffies=10)
    assert ready(design) == []
    assert design.ledger.lost == {"consumed before refusal": 1}


@settings(max_examples=80, deadline=None)
@given(st.data(), st.sampled_from([COMPACT, PRECISE]))
def test_nothing_is_lost_without_a_reason(data: st.DataObject, tunables: PghotTunables) -> None:
    n = data.draw(st.integers(1, 40))
    first_pfn = SECTION_PAGES - data.draw(st.integers(0, 20))
    state = np.array(data.draw(st.lists(st.sampled_from("ooooxlr"), min_size=n, max_size=n)))
    nid = np.array(data.draw(st.lists(st.sampled_from([0, 2, 9]), min_size=n, max_size=n)))
    spans = [ZoneSpan(node, first_pfn, first_pfn + n) for node in (0, 2, 9)]
    machine = ArrayMachine(
        nid,
        spans,
        first_pfn=first_pfn,
        valid=state != "x",
        lru=state != "l",
        prepare=np.where(state == "r", EAGAIN, 0),
        memcg=data.draw(st.lists(st.integers(0, 1), min_size=n, max_size=n)),
        top_tier=(0,),
        free_enough=data.draw(st.sampled_from([(), (0,), (0, 2, 9)])),
    )
    design = SectionFlag(machine, tunables)
    now = 0
    pfns = st.integers(first_pfn, first_pfn + n - 1)
    for _ in range(4):
        accesses = data.draw(st.lists(st.tuples(pfns, st.sampled_from([0, 2, 9, -1, 5])), max_size=60))
        for pfn, node in accesses:
            design.record_access(pfn, node, now)
        for node in (2, 9):
            design.walk(node, now_jiffies=now)
        now += data.draw(st.sampled_from([0, 100, 4000, 17_000]))
        design.verify()
    counters = design.counters
    ended = (
        counters["at_home"] + counters["not_promoted"] + counters["prepare_refused"] + counters["isolated"]
    )
    assert counters["claimed"] == ended
    design.finish()
    design.verify()
    assert design.ledger.pending == 0 or design.stranded() == 0


def test_a_time_that_is_not_kept_is_refused() -> None:
    design = SectionFlag(ArrayMachine([2] * 4, [ZoneSpan(2, 0, 4)], top_tier=(0,)))
    pfns, nids, cpus = np.array([1]), np.zeros(1, dtype=np.int32), np.zeros(1, dtype=np.int64)
    most = (1 << 31) - 2
    design.mark_many(pfns, nids, np.array([most]), cpus)
    with pytest.raises(
        InputError, match="a time of 2,147,483,647 jiffies is more than a model of pghot keeps"
    ):
        design.mark_many(pfns, nids, np.array([most + 1]), cpus)
    with pytest.raises(InputError, match=r"give a shorter run, or a lower policy\.hz"):
        design.record_access(1, 0, most + 1)
