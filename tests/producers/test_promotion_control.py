"""The kernel's hot threshold and promotion rate limit, by hand and against its steps fault by fault."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscan.producers.promotion import PromotionControl

MINUTE = 60_000


def decide(
    control: PromotionControl, *faults: tuple[int, int], n_pages: int = 1
) -> tuple[list[bool], list[bool]]:
    """Hand (time, latency) pairs over and return (hot, within the rate)."""
    at_ms, latency_ms = np.array(faults, dtype=np.int64).reshape(-1, 2).T
    hot, within = control.decide(at_ms, latency_ms, np.full(len(at_ms), n_pages))
    return hot.tolist(), within.tolist()


def test_hot_is_below_the_threshold() -> None:
    assert decide(PromotionControl(1000, 1 << 20, MINUTE), (1, 999), (2, 1000), (3, 0)) == (
        [True, False, True],
        [True, False, True],
    )


def test_a_window_of_a_second_begins_with_its_first_candidate_which_is_not_counted_against_it() -> None:
    control = PromotionControl(1000, 3, MINUTE)
    # The first window began at 0 with no candidate: 1 and 2 are below 3 pages, the third is not.
    assert decide(control, (10, 0), (20, 0), (30, 0), (1000, 0))[1] == [True, True, False, False]
    # Over a second after 0: a new window, whose first candidate sets the count it begins with.
    assert decide(control, (1001, 0), (1500, 0), (1600, 0), (2001, 0))[1] == [True, True, True, False]
    assert decide(control, (2002, 0))[1] == [True]
    assert control.n_candidates == 9


def test_a_cold_fault_is_no_candidate_and_begins_no_window() -> None:
    control = PromotionControl(100, 2, MINUTE)
    assert decide(control, (1500, 100), (1600, 1), (2550, 1), (2601, 1))[1] == [False, True, True, True]
    assert control.n_candidates == 3


def test_huge_pages_count_by_base_pages() -> None:
    control = PromotionControl(1000, 1024, MINUTE)
    assert decide(control, (1, 0), (2, 0), (3, 0), n_pages=512)[1] == [True, False, False]


@pytest.mark.parametrize(
    ("n_candidates", "threshold_ms"),
    [
        (660, 1000),  # 11/10 of 600 is not more than that
        (661, 875),  # more: down by 2 * 1000 / 16
        (540, 1000),  # 9/10 is not less
        (539, 1125),
    ],
)
def test_the_threshold_moves_a_step_when_the_minute_missed_the_rate(
    n_candidates: int, threshold_ms: int
) -> None:
    control = PromotionControl(1000, 10, MINUTE)  # room for 600 candidates a minute
    decide(control, *[(MINUTE, 0)] * n_candidates)
    assert control.threshold_ms == 1000  # a minute is not over a minute
    decide(control, (MINUTE + 1, 5000))
    assert control.threshold_ms == threshold_ms


def test_the_threshold_stays_between_one_step_and_twice_the_default() -> None:
    idle = PromotionControl(1000, 10, MINUTE)
    for minute in range(1, 12):
        decide(idle, (minute * (MINUTE + 1), 5000))
    assert idle.threshold_ms == 2000
    busy = PromotionControl(1000, 1, MINUTE)
    for minute in range(1, 12):
        decide(busy, *[(minute * (MINUTE + 1), 0)] * 100)
    assert busy.threshold_ms == 125


def test_a_bypass_forgets_where_the_threshold_was() -> None:
    control = PromotionControl(1000, 10, MINUTE)
    decide(control, (MINUTE + 1, 5000))
    assert control.threshold_ms == 1125
    control.bypass()
    assert control.threshold_ms == 1000


def test_without_a_threshold_or_a_limit() -> None:
    everything_hot = PromotionControl(None, 1, MINUTE)
    assert decide(everything_hot, (MINUTE * 2, 10**9), (MINUTE * 4, 10**9))[0] == [True, True]
    assert everything_hot.threshold_ms == 0
    no_limit = PromotionControl(1000, None, MINUTE)
    assert decide(no_limit, *[(MINUTE * 2, 0)] * 100)[1] == [True] * 100
    assert no_limit.threshold_ms == 1000
    assert no_limit.admits(MINUTE * 2, 0, 1)
    for rate, threshold in ((0, 1000), (10, 0)):  # zeros are what the kernel makes of them: nothing passes
        assert decide(PromotionControl(threshold, rate, MINUTE), (MINUTE * 2, 0))[1] == [False]
        assert not PromotionControl(threshold, rate, MINUTE).admits(MINUTE * 2, 0, 1)


@dataclass
class OneByOne:
    """The kernel's steps for one fault after the other, written down from its functions."""

    threshold: int
    rate: int
    every: int
    moved: int = 0
    th_start: int = 0
    th_cand: int = 0
    rl_start: int = 0
    rl_cand: int = 0
    cand: int = 0

    def fault(self, now: int, latency: int, pages: int) -> tuple[bool, bool]:
        if now - self.th_start > self.every:
            self.th_start = now
            reference, seen = self.rate * self.every // 1000, self.cand - self.th_cand
            threshold, step = self.moved or self.threshold, self.threshold * 2 // 16
            if seen > reference * 11 // 10:
                threshold = max(threshold - step, step)
            elif seen < reference * 9 // 10:
                threshold = min(threshold + step, self.threshold * 2)
            self.th_cand, self.moved = self.cand, threshold
        if latency >= (self.moved or self.threshold):
            return False, False
        self.cand += pages
        if now - self.rl_start > 1000:
            self.rl_start, self.rl_cand = now, self.cand
        return True, self.cand - self.rl_cand < self.rate


faults = st.lists(
    st.tuples(st.integers(0, 700), st.integers(0, 60), st.sampled_from([1, 1, 8, 512])), max_size=60
)


@given(
    ticks=st.lists(faults, max_size=6),
    threshold=st.integers(1, 40),
    rate=st.integers(0, 600),
    every=st.integers(1, 3000),
)
def test_whole_ticks_are_decided_as_one_fault_after_the_other(
    ticks: list[list[tuple[int, int, int]]], threshold: int, rate: int, every: int
) -> None:
    control, kernel = PromotionControl(threshold, rate, every), OneByOne(threshold, rate, every)
    alone = PromotionControl(threshold, rate, every)
    now = 0
    for tick in ticks:
        at_ms = now + np.cumsum([pause for pause, _, _ in tick], dtype=np.int64)
        now = int(at_ms[-1]) if tick else now
        latency_ms = np.array([latency for _, latency, _ in tick], dtype=np.int64)
        n_pages = np.array([pages for _, _, pages in tick], dtype=np.int64)
        hot, within = control.decide(at_ms, latency_ms, n_pages)
        faults = list(zip(at_ms.tolist(), latency_ms.tolist(), n_pages.tolist(), strict=True))
        expected = [kernel.fault(*fault) for fault in faults]
        assert [alone.admits(*fault) for fault in faults] == within.tolist()
        assert alone.state() == control.state()
        assert list(zip(hot.tolist(), within.tolist(), strict=True)) == expected
        assert (control.threshold_ms, control.n_candidates) == (kernel.moved or threshold, kernel.cand)
