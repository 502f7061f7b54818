"""Where a walk looks: at lines that may have a READY record among them, and nowhere else."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.designs.candidates import MarkedLines, ready_in_ranges

READY = 4
N_RECORDS = 700

_places = st.lists(st.integers(0, N_RECORDS - 1), max_size=40)
_ranges = st.lists(st.integers(0, N_RECORDS), max_size=8).map(sorted)


@settings(deadline=None, max_examples=50)  # the first one compiles
@given(st.lists(st.tuples(_places, _places, _ranges), min_size=1, max_size=5))
def test_what_is_marked_is_found_as_if_all_were_looked_at(
    rounds: list[tuple[list[int], list[int], list[int]]],
) -> None:
    records, lines = np.full(N_RECORDS, 3, dtype=np.uint32), MarkedLines(N_RECORDS)
    for marked, cleared, edges in rounds:
        records[marked] |= np.uint32(READY)
        lines.note(np.array(marked, dtype=np.int64))
        records[cleared] &= ~np.uint32(READY)
        ranges = list(zip(edges[::2], edges[1::2], strict=False))
        found, ends = ready_in_ranges(records, ranges, READY, lines)
        parts = [np.flatnonzero(records[lo:hi] & READY) + lo for lo, hi in ranges]
        assert found.tolist() == [place for part in parts for place in part.tolist()]
        assert ends.tolist() == np.cumsum([len(part) for part in parts], dtype=np.int64).tolist()


def test_a_line_is_looked_at_until_nothing_is_left_in_it() -> None:
    records, lines = np.zeros(N_RECORDS, dtype=np.uint32), MarkedLines(N_RECORDS)
    records[[70, 200]] = READY
    lines.note(np.array([70, 200]))
    assert lines.marked.nonzero()[0].tolist() == [1, 3]
    records[70] = 0
    found, _ = ready_in_ranges(records, [(0, N_RECORDS)], READY, lines)
    assert found.tolist() == [200]
    assert lines.marked.nonzero()[0].tolist() == [3]
    records[70] = READY  # said by nobody: no walk looks there
    assert ready_in_ranges(records, [(0, N_RECORDS)], READY, lines)[0].tolist() == [200]
