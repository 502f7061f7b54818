"""Delays at equal cost: which intervals are tried, and what is said of what was found."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.compare.equal_cost import DELAY_NS, SHARES, EqualCost, search
from gpuscan.compare.open_loop import OpenResult

MS = 1_000_000


class Walks:
    """A thread that walks for ``walk_ns``, whatever there is to find, and ``entry_ns`` for each mark."""

    def __init__(self, walk_ns: float, entry_ns: float = 0.0, taken_ms: range = range(1, 100_000)) -> None:
        self.walk_ns, self.entry_ns, self.taken_ms = walk_ns, entry_ns, taken_ms
        self.intervals_ms: list[float] = []

    def result(self, interval_ns: int, upto_ns: int = 4000 * MS) -> OpenResult:
        found = 1000
        scan_ns = self.walk_ns + self.entry_ns * found * (interval_ns + self.walk_ns) / upto_ns
        period_ns = interval_ns + scan_ns
        n_scans = max(1, round(upto_ns / period_ns))
        delays = np.linspace(1, period_ns, found).astype(np.int64)
        result = OpenResult("walks", found=found, delays_ns=delays, interval_ns=interval_ns, n_scans=n_scans)
        result.scan_ns, result.end_ns = n_scans * scan_ns, n_scans * period_ns
        return result

    def run(self, interval_ns: int, upto_ns: int) -> OpenResult:
        self.intervals_ms.append(interval_ns / MS)
        return self.result(interval_ns, upto_ns)

    def reached(self, list_ns: int = 4000 * MS, own_ms: int = 100) -> EqualCost:
        told: list[float] = []
        cost = search(
            self.result(own_ms * MS),
            list_ns,
            self.run,
            lambda result: result.scan_ns,
            lambda interval_ns: interval_ns // MS in self.taken_ms,
            told.append,
        )
        assert sum(told) == pytest.approx(1)
        return cost


@settings(max_examples=30, deadline=None)
@given(st.floats(0.5, 60), st.integers(1, 1000))
def test_a_walk_at_a_share_is_as_late_as_half_its_period(walk_ms: float, own_ms: int) -> None:
    cost = Walks(walk_ms * MS).reached(own_ms=own_ms)
    for share in SHARES:
        said = cost.delay_at(share)
        if not said.remark.startswith("(takes"):
            assert said.number == pytest.approx(walk_ms * MS / share / 2, rel=0.15)
    said = cost.share_at(DELAY_NS)
    if walk_ms < 15:
        assert said.number == pytest.approx(walk_ms * MS / (2 * DELAY_NS), rel=0.2)
    elif walk_ms > 25:
        assert said.why_not.endswith("at best")


def test_beyond_the_list_the_period_goes_on_and_is_said_to() -> None:
    walks = Walks(50 * MS)
    said = walks.reached().delay_at(0.01)
    assert said.number == pytest.approx(2500 * MS, rel=0.1)
    assert said.remark == "(by its period)"
    assert max(walks.intervals_ms) <= 4000 / 3


def test_what_is_reached_with_less_says_how_much_it_takes() -> None:
    said = Walks(0.01 * MS).reached().delay_at(0.1)
    assert said.number == pytest.approx(0.5 * MS, rel=0.05)
    assert said.remark == "(takes 1.0%)"


def test_what_costs_more_whatever_its_interval_says_so() -> None:
    cost = Walks(1000.0, entry_ns=200_000.0).reached()
    assert cost.delay_at(0.01).why_not.startswith("takes ")
    assert cost.delay_at(0.01).why_not.endswith(" at least")


def test_an_interval_that_a_design_does_not_take_is_not_run() -> None:
    walks = Walks(2 * MS, taken_ms=range(50, 1001))
    cost = walks.reached()
    assert walks.intervals_ms
    assert all(50 <= interval <= 1000 for interval in walks.intervals_ms)
    assert cost.share_at(DELAY_NS).why_not == "26 ms at best"


def test_who_finds_none_in_the_beginning_is_given_all_of_the_list_and_what_is_said_names_it() -> None:
    walks, runs = Walks(2 * MS), list[tuple[int, int]]()

    def late(interval_ns: int, upto_ns: int, *, at_ns: int = 4000 * MS) -> OpenResult:
        runs.append((interval_ns, upto_ns))
        return walks.result(interval_ns, upto_ns) if upto_ns >= at_ns else OpenResult("walks")

    def reached(run: Callable[[int, int], OpenResult]) -> EqualCost:
        own = walks.result(100 * MS)
        return search(own, 4000 * MS, run, lambda one: one.scan_ns, lambda _: True, lambda _: None)

    cost = reached(late)
    assert cost.points
    assert not cost.delay_at(0.1).why_not
    assert [upto_ns < 4000 * MS for _, upto_ns in runs].count(True) == 1  # nobody asks twice in vain
    none = reached(partial(late, at_ns=4001 * MS))
    said = "found none in the list's first 4 s, which these runs are of"
    assert none == EqualCost((), said)
    assert none.delay_at(0.01).why_not == said


def test_a_design_that_finds_nothing_has_no_points() -> None:
    cost = search(OpenResult("walks"), 100, None, None, None, lambda _: None)  # type: ignore[arg-type]
    assert cost == EqualCost((), "found none")
    assert (cost.delay_at(0.01).why_not, cost.share_at(1.0).why_not) == ("found none", "found none")
