"""What the service decides, without a kernel: shares, budgets, pauses, sizes of calls, thresholds, hours."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.base.units import PAGE_BYTES
from gpuscan.migrate.steward import MOST_CALL_PAGES
from gpuscan.service.budgets import Budgets, fair_shares
from gpuscan.service.hold_ups import HoldUps
from gpuscan.service.hours import DAY_MIN, Hours, are_quiet, parse_hours
from gpuscan.service.pace import LONGEST_NS, Pace
from gpuscan.service.thresholds import PERIOD_NS, ColdAfter, HotLooks

_S = 1_000_000_000
_MS = 1_000_000
NAMES = st.sampled_from(["a", "b", "c"])
FOLIOS = st.lists(st.sampled_from([1, 1, 1, 8, 512]), max_size=40)


@settings(max_examples=20, deadline=None)
@given(st.integers(-5, 10_000), st.dictionaries(st.text(max_size=3), st.integers(0, 5_000), max_size=6))
def test_shares_are_fair_and_leave_nothing(total, wanted):
    shares = fair_shares(total, wanted)
    assert shares.keys() == wanted.keys()
    assert all(0 <= shares[name] <= wanted[name] for name in wanted)
    assert sum(shares.values()) == min(max(0, total), sum(wanted.values()))
    for name in wanted:
        if shares[name] < wanted[name]:
            assert shares[name] >= max(shares.values()) - 1


@settings(max_examples=20, deadline=None)
@given(
    st.none() | st.integers(1, 50_000).map(lambda pages: pages * PAGE_BYTES),
    st.tuples(*[st.none() | st.integers(1, 50_000).map(lambda pages: pages * PAGE_BYTES)] * 3),
    st.lists(st.tuples(st.integers(0, 5 * _S), st.lists(st.tuples(NAMES, FOLIOS), max_size=6)), max_size=30),
)
def test_no_rate_is_exceeded_but_for_a_folio(rate, rates, looks):
    budgets = Budgets(rate, dict(zip("abc", rates, strict=True)))
    granted = dict.fromkeys("abc", 0)
    elapsed_ns = 0
    for ns, asked in looks:
        elapsed_ns += ns
        budgets.begin(ns)
        for name, folios in asked:
            n_pages = np.array(folios, dtype=np.int64)
            n = budgets.grant(name, n_pages)
            assert 0 <= n <= len(folios)
            granted[name] += int(n_pages[:n].sum())
        for name, own in zip("abc", rates, strict=True):
            if own is not None:
                assert granted[name] <= own * elapsed_ns / _S / PAGE_BYTES + 512
        if rate is not None:
            assert sum(granted.values()) <= rate * elapsed_ns / _S / PAGE_BYTES + 512
    if rate is None and rates == (None, None, None):
        assert sum(granted.values()) == sum(sum(folios) for _, asked in looks for _, folios in asked)


@settings(max_examples=20, deadline=None)
@given(st.integers(40, 400), st.lists(st.integers(1, 4_000), min_size=2, max_size=2))
def test_two_that_want_more_than_there_is_get_as_much_and_all_of_it(pages_per_look, wanted):
    budgets = Budgets(pages_per_look * PAGE_BYTES, {"a": None, "b": None})
    granted = {"a": 0, "b": 0}
    n_looks = 40
    for _ in range(n_looks):
        budgets.begin(_S)
        for name, n in zip("ab", wanted, strict=True):  # a comes first, always
            granted[name] += budgets.grant(name, np.ones(n, dtype=np.int64))
    there_is = n_looks * pages_per_look
    asked = {name: n * n_looks for name, n in zip("ab", wanted, strict=True)}
    fair = fair_shares(there_is, asked)
    for name in "ab":
        assert granted[name] >= 0.9 * fair[name] - n_looks  # of a look's pages one cannot be divided
    assert sum(granted.values()) >= 0.95 * min(there_is, sum(asked.values())) - 2


def test_what_did_not_move_is_given_back():
    budgets = Budgets(100 * PAGE_BYTES, {"a": 100 * PAGE_BYTES})
    budgets.begin(_S)
    assert budgets.grant("a", np.ones(200, dtype=np.int64)) == 100
    budgets.give_back("a", 60)
    assert budgets.grant("a", np.ones(200, dtype=np.int64)) == 60
    assert budgets.left_pages("a") == 0


def test_a_huge_page_passes_under_a_small_rate_and_is_owed():
    budgets = Budgets(None, {"a": 10 * PAGE_BYTES})
    granted_after_s = []
    for second in range(110):
        budgets.begin(_S)
        if budgets.grant("a", np.array([512], dtype=np.int64)):
            granted_after_s.append(second)
    assert granted_after_s[:3] == [0, 51, 102]


@pytest.mark.parametrize(
    ("rate", "own", "pause_ns", "pages"),
    [
        (None, None, 0, None),
        (None, 4096 * 4000, 0, 8_000),
        (4096 * 3000, 4096 * 4000, 0, 6_000),
        (None, 4096, 0, 1024),
        (None, 4096 * 4000, 10 * _S, 80_000),
    ],
)
def test_candidates_are_what_can_move_in_two_seconds_or_pauses(rate, own, pause_ns, pages):
    assert Budgets(rate, {"a": own}).backlog_pages("a", pause_ns) == pages


@settings(max_examples=20, deadline=None)
@given(
    st.floats(0.005, 0.5),
    st.integers(_MS, 200 * _MS),
    st.lists(st.integers(0, 60 * _MS), min_size=30, max_size=120),
)
def test_the_share_of_a_core_is_kept_whatever_looks_cost(share, wanted_ns, costs):
    pace = Pace(share)
    cpu_ns = elapsed_ns = 0
    for cost_ns in costs:
        elapsed = pace.pause_ns(wanted_ns) + cost_ns
        elapsed_ns += elapsed
        cpu_ns += cost_ns
        pace.took(cost_ns, elapsed)
    # What is above the share is one look that cost more than those before, and what was saved.
    assert cpu_ns <= share * elapsed_ns + share * _S + 2 * max(costs) or pace.n_exceeded


@settings(max_examples=20, deadline=None)
@given(st.floats(0.005, 0.5), st.integers(_MS, 60 * _MS))
def test_a_pause_is_not_longer_than_it_need_be(share, cost_ns):
    pace = Pace(share)
    for _ in range(200):
        pace.took(cost_ns, pace.pause_ns(1) + cost_ns)
    needed_ns = cost_ns / share
    assert needed_ns * 0.9 - cost_ns <= pace.pause_ns(1) <= max(1, min(LONGEST_NS, 1.3 * needed_ns))


def test_what_no_pause_can_keep_is_counted_and_a_quiet_time_makes_it_short_again():
    pace = Pace(0.01)
    for _ in range(3):
        pace.took(2 * _S, LONGEST_NS)
    assert pace.n_exceeded == 3
    assert pace.pause_ns(_MS) == LONGEST_NS
    for _ in range(40):
        pace.took(_MS, 10 * _S)
    assert pace.pause_ns(200 * _MS) == 200 * _MS
    assert not pace.lengthens(200 * _MS)
    pace.took(20 * _MS, _MS)
    assert pace.lengthens(_MS)
    assert pace.n_lengthened == 1


@settings(max_examples=20, deadline=None)
@given(
    st.integers(10_000, 100 * _MS),
    st.integers(100, 2 * _MS),
    st.integers(0, 200_000),
)
def test_calls_settle_below_the_limit_and_not_far_below(limit_ns, page_ns, call_ns):
    hold_ups = HoldUps(limit_ns)
    for _ in range(30):
        n = hold_ups.pages
        hold_ups.took(n, n, call_ns + n * page_ns)
    last_ns = call_ns + hold_ups.pages * page_ns
    assert 1 <= hold_ups.pages <= MOST_CALL_PAGES
    assert last_ns <= limit_ns or hold_ups.pages == 1
    doubled_ns = call_ns + 2 * hold_ups.pages * page_ns
    assert doubled_ns > 0.5 * limit_ns or hold_ups.pages == MOST_CALL_PAGES or call_ns > 0.3 * limit_ns


def test_calls_shrink_at_once_where_pages_take_longer():
    hold_ups = HoldUps(20 * _MS)
    for _ in range(10):
        hold_ups.took(hold_ups.pages, hold_ups.pages, hold_ups.pages * 1_000)
    assert hold_ups.pages == MOST_CALL_PAGES
    hold_ups.took(512, 512, 512 * 100_000)
    assert (hold_ups.n_exceeded, hold_ups.longest_ns) == (1, 512 * 100_000)
    assert hold_ups.pages * 100_000 <= 20 * _MS


@settings(max_examples=20, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 3 * _S)), max_size=60))
def test_looks_stay_within_bounds_and_rise_only_where_more_is_held_than_moves(steps):
    hot = HotLooks(2, 7)
    for moved, held, ns in steps:
        before = hot.looks
        hot.heard(moved, held)
        hot.pass_time(ns)
        assert 2 <= hot.looks <= 7
        assert abs(hot.looks - before) <= 1


def test_looks_rise_under_pressure_and_fall_without():
    hot = HotLooks(2, 7)
    for _ in range(9):
        hot.heard(1, 5)
        hot.pass_time(PERIOD_NS)
    assert hot.looks == 7
    for _ in range(24):
        hot.heard(5, 0)
        hot.pass_time(PERIOD_NS)
    assert hot.looks == 3
    hot.heard(5, 1)  # a little is held: neither
    hot.pass_time(PERIOD_NS)
    assert hot.looks == 3


def test_cold_comes_sooner_without_room_above_and_later_with_it():
    cold = ColdAfter(10 * _S, 600 * _S)
    began_ns = cold.ns
    assert 10 * _S < began_ns < 600 * _S
    for _ in range(20):
        cold.heard_short()
        cold.pass_time(PERIOD_NS)
    assert cold.ns == 10 * _S
    for _ in range(300):
        cold.pass_time(PERIOD_NS)
    assert cold.ns == 600 * _S


@settings(max_examples=20, deadline=None)
@given(st.integers(0, DAY_MIN - 1), st.integers(0, DAY_MIN - 1), st.integers(0, DAY_MIN - 1))
def test_hours_are_those_that_a_clock_passes(start, end, minute):
    if start == end:
        return
    hours = parse_hours(f"{start // 60:02}:{start % 60:02}-{end // 60}:{end % 60:02}")
    passed = [(start + i) % DAY_MIN for i in range((end - start) % DAY_MIN)]
    assert hours.has(minute) == (minute in passed)
    assert are_quiet([hours], minute) == hours.has(minute)


def test_all_day_and_no_time_at_all():
    assert parse_hours("00:00-24:00") == Hours(0, DAY_MIN)
    assert all(are_quiet([parse_hours("0:00 - 24:00")], minute) for minute in (0, 700, 1439))
    for text in ("22:00", "22:60-23:00", "25:00-26:00", "x", "07:00-07:00"):
        with pytest.raises(ValueError, match="write for example 22:00-06:00"):
            parse_hours(text)


def test_calls_that_move_nothing_do_not_teach_that_pages_are_quick():
    hold_ups = HoldUps(20 * _MS)
    before = hold_ups.pages
    for _ in range(20):
        hold_ups.took(hold_ups.pages, 0, 1_000)
    assert hold_ups.pages == before


def test_what_is_owed_is_owed_after_a_reload_too():
    before = Budgets(None, {"a": 10 * PAGE_BYTES, "b": 10 * PAGE_BYTES})
    before.begin(_S)
    assert before.grant("a", np.array([512], dtype=np.int64)) == 1
    assert before.grant("b", np.array([512], dtype=np.int64)) == 1
    after = Budgets(None, {"a": 10 * PAGE_BYTES, "b": 99 * PAGE_BYTES}, before)
    after.begin(_S)
    assert after.grant("a", np.ones(1, dtype=np.int64)) == 0
    assert after.grant("b", np.ones(1, dtype=np.int64)) == 1  # another rate begins anew


def test_the_cost_of_a_rest_is_no_look_s():
    pace = Pace(0.02)
    pace.took(_MS, 50 * _MS)
    pace.rested(3 * _S, 7200 * _S)
    assert pace.cost_ns == _MS
    assert pace.pause_ns(100 * _MS) == 100 * _MS
