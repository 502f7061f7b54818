"""The back-off queue against dictionaries."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpuscan.backoff import Backoff

FLATS = st.lists(st.integers(0, 30), max_size=12, unique=True)


@given(st.lists(st.tuples(st.sampled_from(["refuse", "settle", "free"]), FLATS), max_size=30))
def test_attempts_and_waiting_match_dictionaries(steps: list[tuple[str, list[int]]]) -> None:
    backoff = Backoff(np.dtype(np.uint32))
    attempts: dict[int, int] = {}
    waiting: dict[int, int] = {}
    for tick, (step, flats) in enumerate(steps):
        array = np.array(flats, dtype=np.int64)
        if step == "refuse":
            for flat in flats:
                attempts[flat] = attempts.get(flat, 0) + 1
            assert backoff.refused(array).tolist() == [attempts[flat] for flat in flats]
            fresh = np.array([flat for flat in flats if flat not in waiting], dtype=np.int64)
            backoff.wait(fresh, fresh.astype(np.uint32), tick + 3)
            waiting |= dict.fromkeys(fresh.tolist(), tick + 3)
        elif step == "settle":
            backoff.settled(array)
            for flat in flats:
                attempts.pop(flat, None)
        else:
            assert backoff.freed(array) == len(set(flats) & set(waiting))
            for flat in flats:
                attempts.pop(flat, None)
                waiting.pop(flat, None)
        due, words = backoff.due(tick)
        assert sorted(due.tolist()) == sorted(flat for flat, when in waiting.items() if when <= tick)
        assert words.tolist() == due.tolist()
        waiting = {flat: when for flat, when in waiting.items() if when > tick}
        assert len(backoff) == len(waiting)


def test_the_order_of_waiting_is_kept() -> None:
    backoff = Backoff(np.dtype(np.uint8))
    backoff.wait(np.array([5]), np.array([1], dtype=np.uint8), 2)
    backoff.wait(np.array([3]), np.array([2], dtype=np.uint8), 1)
    flats, words = backoff.due(2)
    assert flats.tolist() == [3, 5]
    assert words.dtype == np.uint8
    assert len(backoff) == 0
