"""The back-off queue against dictionaries."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gpuscan.engine.back_off import Backoff

FLATS = st.lists(st.integers(0, 30), max_size=12, unique=True)


@given(st.lists(st.tuples(st.sampled_from(["refuse", "settle", "free"]), FLATS), max_size=30))
def test_attempts_and_waiting_match_dictionaries(steps: list[tuple[str, list[int]]]) -> None:
    backoff = Backoff()
    attempts: dict[int, int] = {}
    waiting: list[tuple[int, int]] = []  # (due tick, flat): a folio may wait for several requests
    for tick, (step, flats) in enumerate(steps):
        array = np.array(flats, dtype=np.int64)
        if step == "refuse":
            for flat in flats:
                attempts[flat] = attempts.get(flat, 0) + 1
            assert backoff.refused(array).tolist() == [attempts[flat] for flat in flats]
            backoff.wait(array, array.astype(np.uint32), tick + 3)
            waiting += [(tick + 3, flat) for flat in flats]
        elif step == "settle":
            backoff.settled(array)
            for flat in flats:
                attempts.pop(flat, None)
        else:
            assert backoff.freed(array) == sum(flat in flats for _, flat in waiting)
            for flat in flats:
                attempts.pop(flat, None)
            waiting = [(when, flat) for when, flat in waiting if flat not in flats]
        parts = backoff.due(tick)
        due = [flat for heads, _ in parts for flat in heads.tolist()]
        assert sorted(due) == sorted(flat for when, flat in waiting if when <= tick)
        assert [word for _, words in parts for word in words.tolist()] == due
        waiting = [(when, flat) for when, flat in waiting if when > tick]
        assert len(backoff) == len(waiting)


def test_what_is_due_last_comes_first() -> None:
    backoff = Backoff()
    backoff.wait(np.array([3]), np.array([2], dtype=np.uint8), 1)
    backoff.wait(np.array([5, 3]), np.array([1, 4], dtype=np.uint8), 2)
    (newer, newer_words), (older, _) = backoff.due(2)
    assert newer.tolist() == [5, 3]
    assert newer_words.tolist() == [1, 4]
    assert older.tolist() == [3]
    assert len(backoff) == 0
