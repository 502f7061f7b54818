"""kmigrated as posted: each defect on a small machine where it bites, and the ledger of losses."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.designs.machine import ArrayMachine, BatchCall, ZoneSpan
from gpuscan.designs.races import RACE_ORDERS, Race, RaceOrder
from gpuscan.designs.rfc import RfcFixed, RfcV1
from gpuscan.engine.stages import FolioEvents
from gpuscan.records.formats import FORMATS, unpack

EAGAIN = -11


def flat(n: int = 8, nids: tuple[int, ...] = (0, 1, 2), **arrays: Any) -> ArrayMachine:
    """Return a machine with ``n`` pages on node 2 and none on the others."""
    zones = [ZoneSpan(nid, 0, n if nid == 2 else 0) for nid in nids]
    return ArrayMachine(np.full(n, 2), zones, **arrays)


def targets(design: RfcV1 | RfcFixed) -> list[int]:
    return unpack(FORMATS["rfc"], design.records).nid.tolist()


def ready(design: RfcV1 | RfcFixed) -> list[int]:
    return np.flatnonzero(unpack(FORMATS["rfc"], design.records).ready).tolist()


def test_the_first_candidate_of_each_zone_flushes_nothing_to_no_node() -> None:
    zones = [ZoneSpan(0, 0, 0), ZoneSpan(2, 0, 4), ZoneSpan(2, 4, 8), ZoneSpan(2, 8, 9)]
    posted = RfcV1(ArrayMachine(np.full(9, 2), zones))
    for pfn in (1, 3, 6):
        posted.request(pfn, 0)
    posted.walk(2)
    empty = BatchCall((), -1)
    assert posted.calls == [empty, BatchCall((3, 1), 0), empty, BatchCall((6,), 0)]
    assert posted.counters["empty_batch_calls"] == 2
    assert posted.counters["cond_resched"] == 2
    fixed = RfcFixed(ArrayMachine(np.full(9, 2), zones))
    for pfn in (1, 3, 6):
        fixed.request(pfn, 0)
    fixed.walk(2)
    assert fixed.calls == [BatchCall((3, 1), 0), BatchCall((6,), 0)]


def test_a_change_of_target_flushes_nothing_and_the_last_one_takes_all() -> None:
    marks = [(0, 0), (1, 1), (2, 0), (3, 1)]
    posted, fixed = RfcV1(flat()), RfcFixed(flat())
    for pfn, nid in marks:
        posted.request(pfn, nid)
        fixed.request(pfn, nid)
    posted.walk(2)
    fixed.walk(2)
    assert posted.calls[1:] == [BatchCall((3, 2, 1, 0), 1)]
    assert posted.ledger.elsewhere == posted.counters["sent_to_wrong_node"] == 2
    assert fixed.calls == [BatchCall((pfn,), nid) for pfn, nid in marks]
    assert fixed.ledger.elsewhere == fixed.counters["sent_to_wrong_node"] == 0


def test_the_page_that_fills_a_batch_decides_where_the_others_go() -> None:
    posted = RfcV1(flat(600))
    for pfn in range(513):
        posted.request(pfn, 1 if pfn == 512 else 0)
    posted.walk(2)
    first, full, last = posted.calls
    assert first == BatchCall((), -1)
    # After the empty flush the count starts at 0 with a folio on the list: 512 more make 512.
    assert full == BatchCall(tuple(range(511, -1, -1)), 1)
    assert last == BatchCall((512,), 1)
    assert posted.ledger.elsewhere == 512


def test_rfc_fixed_flushes_when_the_512th_comes_and_not_with_it() -> None:
    fixed = RfcFixed(flat(600))
    for pfn in range(512):
        fixed.request(pfn, 0)
    fixed.walk(2)
    assert [len(call.pfns) for call in fixed.calls] == [511, 1]


@pytest.mark.parametrize(("nid", "goes_to"), [(7, 7), (8, 0), (9, 1)])
def test_targets_are_modulo_8(nid: int, goes_to: int) -> None:
    nids = tuple(range(10))
    posted, fixed = RfcV1(flat(nids=nids)), RfcFixed(flat(nids=nids))
    posted.request(4, nid)
    fixed.request(4, nid)
    posted.walk(2)
    fixed.walk(2)
    assert posted.calls[-1] == BatchCall((4,), goes_to)
    assert fixed.calls == [BatchCall((4,), nid)]
    assert targets(posted)[4] == 7  # -1 & 7
    assert targets(fixed)[4] == 1023


def test_a_fault_on_a_well_placed_page_of_node_9_sends_it_to_node_1() -> None:
    def machine() -> ArrayMachine:
        return ArrayMachine([9, 9], [ZoneSpan(1, 0, 0), ZoneSpan(9, 0, 2)])

    posted, fixed = RfcV1(machine()), RfcFixed(machine())
    posted.request(0, 9)
    fixed.request(0, 9)
    posted.walk(9)
    fixed.walk(9)
    assert posted.calls[-1] == BatchCall((0,), 1)
    assert fixed.calls == []
    assert fixed.ledger.lost == {"already there": 1}


def test_a_masked_target_can_be_the_page_s_own_node() -> None:
    posted = RfcV1(ArrayMachine([1], [ZoneSpan(1, 0, 1), ZoneSpan(9, 0, 0)]))
    posted.request(0, 9)
    posted.walk(1)
    assert posted.calls == []
    assert posted.ledger.lost == {"masked nid": 1}


@pytest.mark.parametrize("kind", [RfcV1, RfcFixed])
def test_a_refused_page_is_forgotten(kind: type[RfcV1]) -> None:
    design = kind(flat(prepare=[EAGAIN] * 8))
    design.request(3, 0)
    design.walk(2)
    assert ready(design) == []
    assert design.ledger.lost == {"consumed before refusal": 1}
    assert all(not call.pfns for call in design.calls)


@pytest.mark.parametrize(
    ("order", "first_walk", "second_walk"),
    [
        ("PPCC", 1, None),  # the newer request stands
        ("PCPC", 1, "invalid"),  # READY again, with the nid that the thread left
        ("PCCP", 1, "invalid"),
        ("CPPC", 1, "invalid"),
        ("CPCP", 1, "invalid"),
        ("CCPP", 0, 1),  # one after the other
    ],
)
@pytest.mark.parametrize("kind", [RfcV1, RfcFixed])
def test_two_atomics_on_each_side_lose_a_target(
    kind: type[RfcV1], order: RaceOrder, first_walk: int, second_walk: int | str | None
) -> None:
    # Nothing moves (the folio is off the LRU only while it is isolated), so that the second walk sees it.
    design = kind(flat(prepare=[EAGAIN] * 8))
    design.request(5, 0)
    seen: list[int] = []
    design.machine.prepare_many = lambda heads, nids, accepted: seen.extend(nids.tolist())  # type: ignore[method-assign]
    design.walk(2, [Race(5, 1, order)])
    assert seen == [first_walk]
    design.walk(2)
    gone = {RfcV1: 7, RfcFixed: 1023}[kind]
    assert seen[1:] == ([] if second_walk is None else [gone if second_walk == "invalid" else second_walk])
    assert design.counters["invalid_nid"] == (second_walk == "invalid")
    assert design.ledger.lost["invalid nid"] == (second_walk == "invalid")
    design.verify()


def test_a_race_on_a_page_that_is_not_ready_marks_it_for_this_walk_or_the_next() -> None:
    for order in RACE_ORDERS:
        design = RfcFixed(flat())
        design.walk(2, [Race(5, 1, order)])
        found_at_once = order == "PPCC"
        assert design.calls == ([BatchCall((5,), 1)] if found_at_once else [])
        assert ready(design) == ([] if found_at_once else [5])
        assert design.activated(2)


def test_holes_other_nodes_offline_pages_and_pages_off_the_lru_keep_their_marks() -> None:
    nid = np.full(8, 2)
    nid[1] = 1
    online, lru, valid = np.ones(8, bool), np.ones(8, bool), np.ones(8, bool)
    valid[2] = online[3] = lru[4] = False
    machine = ArrayMachine(
        nid, [ZoneSpan(1, 1, 2), ZoneSpan(2, 0, 8)], valid=valid, online=online, lru=lru, first_pfn=0
    )
    design = RfcFixed(machine)
    results = [design.request(pfn, 0) for pfn in range(8)]
    assert results == [0, 0, -22, -22, 0, 0, 0, 0]
    design.walk(2)
    assert ready(design) == [1, 4]
    assert design.activated(1)
    assert design.counters["pfns_examined"] == 8
    design.verify()


def test_a_folio_is_walked_page_by_page_as_posted_and_in_one_step_when_fixed() -> None:
    head = [0, 1, 2, 2, 2, 2, 6, 7]
    posted, fixed = RfcV1(flat(head=head)), RfcFixed(flat(head=head))
    for design in (posted, fixed):
        design.request(4, 0)  # a tail
        design.walk(2)
    assert posted.calls[-1] == BatchCall((2,), 0)
    assert posted.counters["pgmigrate_success"] == 4
    assert posted.counters["pfns_examined"] == 8
    assert fixed.calls == []
    assert ready(fixed) == [4]
    assert fixed.counters["pfns_examined"] == 5


def test_a_zone_that_begins_inside_a_folio_begins_with_a_tail() -> None:
    zones = [ZoneSpan(0, 0, 0), ZoneSpan(2, 0, 4), ZoneSpan(2, 4, 8)]
    design = RfcFixed(ArrayMachine([2] * 8, zones, head=[0, 1, 2, 2, 2, 2, 6, 7]))
    for pfn in (4, 5):
        design.request(pfn, 0)
    design.walk(2)
    assert design.calls == [BatchCall((2,), 0)]
    assert ready(design) == [5]
    assert design.counters["pfns_examined"] == 3 + 3


def test_two_marks_of_one_folio_isolate_it_once() -> None:
    posted = RfcV1(flat(head=[0, 1, 2, 2, 2, 2, 6, 7]))
    for pfn in (2, 4):
        posted.request(pfn, 0)
    posted.walk(2)
    assert posted.calls[-1] == BatchCall((2,), 0)
    assert ready(posted) == [4]
    posted.verify()


def test_zone_device_is_not_walked_and_the_flag_is_cleared_first() -> None:
    machine = ArrayMachine([2, 2], [ZoneSpan(0, 0, 0), ZoneSpan(2, 0, 1), ZoneSpan(2, 1, 2, device=True)])
    design = RfcFixed(machine)
    for pfn in (0, 1):
        design.request(pfn, 0)
    assert design.activated(2)
    design.walk(2)
    assert not design.activated(2)
    assert design.calls == [BatchCall((0,), 0)]
    assert ready(design) == [1]


def test_a_newer_request_supersedes_or_overwrites() -> None:
    design = RfcFixed(flat())
    for nid in (0, 0, 1):
        design.request(3, nid)
    design.walk(2)
    ledger = design.ledger
    assert (ledger.requested, ledger.superseded, ledger.migrated) == (3, 1, 1)
    assert ledger.lost == {"overwritten nid": 1}
    design.verify()


@pytest.mark.parametrize("kind", [RfcV1, RfcFixed])
def test_a_mark_outlives_its_folio_and_moves_the_next_one(kind: type[RfcV1]) -> None:
    design = kind(flat())
    design.request(3, 0)
    frame = np.array([3])
    design.apply([FolioEvents(freed=frame, allocated=frame)])
    assert design.ledger.lost == {"stale: freed or reallocated": 1}
    design.verify()
    design.walk(2)
    assert design.calls[-1] == BatchCall((3,), 0)
    assert (design.ledger.migrated, design.ledger.stale_claims) == (0, 1)
    design.verify()


def test_the_example_in_the_docs_is_true(capsys: pytest.CaptureFixture[str]) -> None:
    text = (Path(__file__).parents[2] / "docs" / "designs.md").read_text(encoding="utf-8")
    code = text.split("```python\n")[1].split("```")[0]
    exec(code, {})
    assert capsys.readouterr().out.strip() == code.rsplit("# ", 1)[1].strip()


@st.composite
def machines(draw: st.DrawFn) -> ArrayMachine:
    """Draw a machine with holes, large folios, several zones per node and nodes from 8 on."""
    nids = draw(st.lists(st.sampled_from([0, 1, 2, 7, 8, 9, 1023]), min_size=2, max_size=4, unique=True))
    folios = draw(
        st.lists(
            st.tuples(
                st.sampled_from([1, 1, 1, 2, 8]),  # pages
                st.sampled_from(nids),
                st.sampled_from(["ok", "ok", "ok", "hole", "offline", "off the LRU", "refused"]),
            ),
            min_size=1,
            max_size=40,
        )
    )
    first_pfn = draw(st.sampled_from([0, 4096]))
    sizes = np.array([n for n, _, _ in folios])
    start = np.repeat(np.cumsum(sizes) - sizes, sizes)

    def spread(values: list[object]) -> np.ndarray:
        return np.repeat(np.array(values), sizes)

    state = spread([state for _, _, state in folios])
    n = int(sizes.sum())
    cuts = sorted(draw(st.lists(st.integers(0, n), max_size=2)))
    zones = [
        ZoneSpan(nid, first_pfn + lo, first_pfn + hi, device=draw(st.integers(0, 9)) == 0)
        for nid in nids
        for lo, hi in zip([0, *cuts], [*cuts, n], strict=True)
    ]
    return ArrayMachine(
        spread([nid for _, nid, _ in folios]),
        zones,
        first_pfn=first_pfn,
        valid=state != "hole",
        online=state != "offline",
        lru=state != "off the LRU",
        head=start + first_pfn,
        prepare=np.where(state == "refused", EAGAIN, 0),
    )


@settings(max_examples=150, deadline=None)
@given(st.data(), st.sampled_from([RfcV1, RfcFixed]))
def test_nothing_is_lost_without_a_reason(data: st.DataObject, kind: type[RfcV1]) -> None:
    machine = data.draw(machines())
    design = kind(machine)
    pfns = st.integers(machine.pfn(0), machine.pfn(machine.n_positions - 1))
    nids = sorted(machine.nids)
    for _ in range(3):
        for pfn, nid in data.draw(st.lists(st.tuples(pfns, st.sampled_from(nids)), max_size=60)):
            design.request(pfn, nid)
        racing = data.draw(st.lists(pfns, max_size=8, unique=True))
        races = [
            Race(pfn, data.draw(st.sampled_from(nids)), data.draw(st.sampled_from(RACE_ORDERS)))
            for pfn in racing
        ]
        design.walk(data.draw(st.sampled_from(nids)), races)
        design.verify()
        assert design.ledger.in_flight == 0
    counters = design.counters
    assert counters["claimed"] == counters["at_home"] + counters["prepare_refused"] + counters["isolated"]
    assert counters["isolated"] == counters["batch_folios"] == sum(len(call.pfns) for call in design.calls)
    assert design.ledger.requested == counters["kmigrated_add_pfn"]
    per_call = Counter(pfn for call in design.calls for pfn in call.pfns)
    if not counters["pgmigrate_fail"]:  # a folio that was put back may come again
        assert max(per_call.values(), default=1) == 1


def test_a_machine_of_arrays_takes_what_it_knows() -> None:
    with pytest.raises(
        TypeError, match="ArrayMachine takes no heads; give first_pfn, valid, online, lru, head"
    ):
        ArrayMachine([0], [ZoneSpan(0, 0, 1)], heads=[0])  # type: ignore[call-arg]
