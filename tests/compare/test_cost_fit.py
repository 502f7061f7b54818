"""The model of a step: what it recovers, and when it has no number."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuscan.compare.cost_fit import MOST_ERROR, Estimate, Measured, modelled, spread_of, summed
from gpuscan.compare.cost_rounds import without_pace
from gpuscan.designs.steps import ScanSize

TIB_PAGES = 1 << 28
TERMS = ("section", "marked section", "candidate")
DENSITIES = (1e-5, 3e-6, 8e-5)


def points_of(
    fixed_ns: float, each_ns: tuple[float, ...], noise: float = 0.0, seed: int = 0
) -> list[Measured]:
    """Return what a step that costs so much would be measured as."""
    rng, points = np.random.default_rng(seed), []
    for n_pages in (TIB_PAGES, 2 * TIB_PAGES, 3 * TIB_PAGES, 4 * TIB_PAGES):
        for density in DENSITIES:
            size = ScanSize.spread(n_pages, density)
            counts = (size.n_sections, size.n_marked_sections, size.n_candidates)
            ns = fixed_ns + sum(each * count for each, count in zip(each_ns, counts, strict=True))
            points.append(Measured(size, ns * (1 + noise * rng.uniform(-1, 1)), 0.0, 9))
    return points


NS = st.floats(1.0, 300.0)


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.floats(0.0, 3e5), st.tuples(NS, NS, NS), st.integers(0, 1 << 30))
def test_coefficients_are_recovered_and_what_they_say_of_larger_machines(
    fixed_ns: float, each_ns: tuple[float, ...], seed: int
) -> None:
    exact = modelled("step", TERMS, points_of(fixed_ns, each_ns))
    assert exact.fit is not None
    assert exact.fit.each_ns == pytest.approx(each_ns, rel=1e-3)
    assert exact.error < 1e-6
    largest = ScanSize.spread(64 * TIB_PAGES, 1e-5)
    (true,) = (
        fixed_ns
        + each_ns[0] * largest.n_sections
        + each_ns[1] * largest.n_marked_sections
        + each_ns[2] * largest.n_candidates,
    )
    assert exact.at(largest).ns == pytest.approx(true, rel=1e-3)
    noisy = modelled("step", TERMS, points_of(fixed_ns, each_ns, 0.03, seed))
    said = summed([noisy.at(largest)])
    # A number that is printed is right; noise may only take it away.
    assert said.why_not or said.ns == pytest.approx(true, rel=MOST_ERROR)
    assert said.why_not or said.error <= MOST_ERROR


@settings(max_examples=20, derandomize=True, deadline=None)
@given(st.floats(0.0, 0.05), st.integers(0, 1 << 30))
def test_no_flat_figure_is_said_of_a_machine_with_64_times_the_candidates(noise: float, seed: int) -> None:
    """The fixed part is nearly all that was measured, 69.8 us at 1 TiB, and noise hides the rest."""
    each_ns = (0.01, 0.2, 0.5)
    model = modelled("step", TERMS, points_of(69_800.0, each_ns, noise, seed))
    one, many = (summed([model.at(ScanSize.spread(n * TIB_PAGES, 1e-5))]) for n in (1, 64))
    if many.why_not:
        assert np.isnan(many.ns)
        assert many.why_not.startswith("no model: ")
        return
    assert many.ns > one.ns * 1.5


def test_what_does_not_grow_has_no_number_and_says_which_slope_is_none() -> None:
    flat = [Measured(point.size, 69_800.0, 0.0, 9) for point in points_of(0.0, (1.0, 1.0, 1.0))]
    model = modelled("step", TERMS, flat)
    estimate = summed([model.at(ScanSize.spread(64 * TIB_PAGES, 1e-5))])
    assert estimate.why_not == "no model: 0 ns per section"
    assert np.isnan(estimate.ns)
    falling = [Measured(point.size, 1e12 / point.size.n_pages, 0.0, 9) for point in flat]
    assert modelled("step", TERMS, falling).why_not == "no model: 0 ns per section"


def test_a_model_that_is_off_at_a_size_left_out_has_no_number() -> None:
    points = points_of(1000.0, (1.0, 2.0, 3.0))
    bent = [
        Measured(point.size, point.ns * (1.6 if point.size.n_pages == 4 * TIB_PAGES else 1.0), 0.0, 9)
        for point in points
    ]
    model = modelled("step", ("candidate",), [point for point in bent if point.size.n_candidates > 0])
    assert model.off[4 * TIB_PAGES] < -0.2
    assert summed([model.at(ScanSize.spread(TIB_PAGES, 1e-5))]).why_not.startswith("no model: off by ")


def test_a_slope_that_drowns_in_the_fixed_part_has_no_number_where_it_is_all_there_is() -> None:
    """Each size is right within 2 % without it, and 64 times the candidates are anybody's guess."""
    drowned = []
    for n_tib, noise in ((1, 0.01), (2, -0.01), (3, 0.012), (4, -0.008), (5, 0.01)):
        size = ScanSize.spread(n_tib * TIB_PAGES, 1e-5)
        drowned.append(Measured(size, (69_800.0 + 0.4 * size.n_candidates) * (1 + noise), 0.0, 9))
    model = modelled("step", ("candidate",), drowned)
    assert model.why_not == ""
    assert model.error < 0.04
    assert not summed([model.at(ScanSize.spread(2 * TIB_PAGES, 1e-5))]).why_not
    assert summed([model.at(ScanSize.spread(64 * TIB_PAGES, 1e-5))]).why_not.startswith("no model: off by ")


def test_two_sizes_are_no_model() -> None:
    two = [point for point in points_of(1.0, (1.0, 1.0, 1.0)) if point.size.n_pages < 3 * TIB_PAGES]
    assert modelled("step", TERMS, two).why_not == "no model: too little memory"
    assert modelled("step", TERMS, []).why_not == "no model: too little memory"


def test_the_error_of_a_sum_is_weighed_by_its_parts() -> None:
    nothing, most = Estimate(1.0, 0.9), Estimate(999.0, 0.05)
    assert summed([nothing, most]).error == pytest.approx(0.05, rel=0.05)
    assert summed([Estimate(500.0, 0.4), Estimate(500.0, 0.0)]).why_not == "no model: off by 20%"
    none = Estimate(float("nan"), float("nan"), "no model: 0 ns per page")
    assert summed([most, none]).why_not == "no model: 0 ns per page"


def test_a_slow_round_moves_no_median_and_widens_no_spread() -> None:
    rng = np.random.default_rng(3)
    base = np.array([100.0, 1000.0, 5000.0])
    steady = base * (1 + 0.01 * rng.standard_normal((31, 3)))
    pace = np.where(rng.random(31) < 0.4, 2.0, 1.0)[:, None]
    cleaned = without_pace(steady * pace)
    assert np.median(cleaned, axis=0) == pytest.approx(base, rel=0.02)
    assert max(map(spread_of, cleaned.T)) < 0.02 < max(map(spread_of, (steady * pace).T))
