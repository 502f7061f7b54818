"""What the access patterns draw."""

from __future__ import annotations

from math import gcd

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuscan.sim.address_space import Mapping
from gpuscan.sim.patterns import ListedPattern, Pattern, SyntheticPattern, coprime_multiplier, stream_key
from gpuscan.sim.spec import PatternSpec

N = 10_000
KEY = stream_key(1, 0, 0)


def drawn(pattern: Pattern, n: int = 200_000, first: int = 0, now_ns: int = 0) -> np.ndarray:
    out = np.empty(n, dtype=np.int64)
    pattern.draw(out, first, now_ns)
    return out


@pytest.mark.parametrize("scattered", [True, False])
@pytest.mark.parametrize("skew", [0.0, 0.8, 1.0, 1.3])
def test_hot_set_takes_its_share_with_zipf_inside(skew: float, scattered: bool) -> None:
    spec = PatternSpec(hot_share=0.1, hot_access_share=0.8, skew=skew, scattered=scattered)
    pattern = SyntheticPattern(spec, N, KEY)
    counts = np.bincount(drawn(pattern), minlength=N)
    hot = pattern.hot_folios(0)
    assert len(set(hot.tolist())) == N // 10
    assert counts[hot].sum() / counts.sum() == pytest.approx(0.8 + 0.2 * 0.1, abs=0.01)
    # Continuous power law on [1, 1001): the share of the first hundred ranks.
    density = np.log if skew == 1.0 else lambda x: (x ** (1 - skew) - 1) / (1 - skew)
    expected = 0.8 * density(101.0) / density(1001.0) + 0.2 * 0.01
    assert counts[hot[:100]].sum() / counts.sum() == pytest.approx(expected, abs=0.01)
    neighbours = np.isin((hot + 1) % N, hot).mean()
    assert neighbours < 0.1 if scattered else neighbours == 0.999


def test_uniform_touches_every_page_alike() -> None:
    counts = np.bincount(drawn(SyntheticPattern(PatternSpec(kind="uniform"), 100, KEY)), minlength=100)
    assert counts.min() > 1800
    assert counts.max() < 2200


def test_scan_touches_every_page_in_turn() -> None:
    assert drawn(SyntheticPattern(PatternSpec(kind="scan"), 5, KEY), 7, first=3).tolist() == [
        3,
        4,
        0,
        1,
        2,
        3,
        4,
    ]


def test_hot_set_moves_to_other_pages() -> None:
    pattern = SyntheticPattern(PatternSpec(hot_share=0.2, shift_every_ns=1000), 10_007, KEY)
    phases = [set(pattern.hot_folios(now).tolist()) for now in (0, 1000, 2000, 3000, 4000)]
    assert [len(phase) for phase in phases] == [2001] * 5
    assert len(set.union(*phases)) == 5 * 2001  # no two share a page
    assert set(pattern.hot_folios(999).tolist()) == phases[0]
    share = np.isin(drawn(pattern, now_ns=1000), list(phases[1])).mean()
    assert share == pytest.approx(0.9 + 0.1 * 0.2, abs=0.01)


def test_draws_depend_on_the_access_not_on_the_call() -> None:
    pattern = SyntheticPattern(PatternSpec(), N, KEY)
    whole = drawn(pattern, 1000)
    assert np.array_equal(whole, np.concatenate([drawn(pattern, 400), drawn(pattern, 600, first=400)]))
    assert not np.array_equal(whole, drawn(SyntheticPattern(PatternSpec(), N, stream_key(2, 0, 0)), 1000))


@given(st.integers(1, 2**33))
def test_multiplier_is_a_bijection_without_overflow(n: int) -> None:
    multiplier = coprime_multiplier(n)
    assert gcd(multiplier, n) == 1
    assert (n - 1) * multiplier + n < 2**63


def test_streams_differ() -> None:
    keys = {int(stream_key(*path)) for path in [(0,), (1,), (0, 0), (0, 1), (0, 0, 1), (0, 1, 0), (1, 0, 0)]}
    assert len(keys) == 7


def test_listed_pattern_weighs_cold_folios_by_their_pages() -> None:
    mappings = (Mapping(0, 512, 0), Mapping(512, 3, 9))
    pattern = ListedPattern(PatternSpec(hot_access_share=0.5, skew=0.0), np.array([7, 9]), mappings, KEY)
    counts = np.bincount(drawn(pattern, 80_000), minlength=515)
    assert counts[[7, 9]] == pytest.approx(20_000, rel=0.05)
    assert counts[512:] == pytest.approx(10_000, rel=0.05)
    assert counts[:512].sum() - counts[[7, 9]].sum() == pytest.approx(10_000, rel=0.05)


def test_listed_pattern_without_hot_folios_is_uniform() -> None:
    none = np.empty(0, dtype=np.int64)
    counts = np.bincount(drawn(ListedPattern(PatternSpec(), none, (Mapping(0, 10, 0),), KEY)), minlength=10)
    assert counts.min() > 19_000
