"""The different values of an array, as ``np.unique`` has them."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.base.distinct import distinct


@settings(max_examples=40)
@given(st.sampled_from([np.int8, np.int32, np.int64]), st.lists(st.integers(-128, 127), max_size=30))
def test_small_values(dtype: Any, values: list[int]) -> None:
    assert distinct(np.array(values, dtype=dtype)) == sorted(set(values))


def test_values_far_apart() -> None:
    ends = np.iinfo(np.int32)
    assert distinct(np.array([5, ends.max, ends.min, 5], dtype=np.int32)) == [ends.min, 5, ends.max]
