"""A histogram against a plain count of what it was given."""

from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from gpuscan.base.histogram import Histogram

VALUES = st.one_of(st.sampled_from([0.1, 0.5, 2.0]), st.floats(0, 5))


@given(st.lists(st.tuples(VALUES, st.integers(1, 9))))
def test_each_bound_has_all_values_that_are_not_above_it(values):
    histogram = Histogram((0.1, 0.5, 2.0))
    for value, n in values:
        histogram.add(value, n)
    flat = [value for value, n in values for _ in range(n)]
    assert histogram.cumulative() == [
        (bound, sum(value <= bound for value in flat)) for bound in (0.1, 0.5, 2.0, math.inf)
    ]
    assert histogram.n == len(flat)
    assert math.isclose(histogram.total, sum(flat), abs_tol=1e-9)
