"""A step's time as a fixed part and so much for each of its terms, and how far such a model may be believed.

What it is asked for is mostly larger than what was measured, so two things are looked at: how far off a model
that was made without a size is at that size, and how much such models differ from each other where they are
asked (the jackknife's standard error). A slope that drowns in the fixed part shows in the second. Where a
model may be off by more than :data:`MOST_ERROR` there is no number.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuscan.designs.steps import TERMS, ScanSize

MOST_ERROR = 0.15
"""What a model may be off."""
_DEVIATIONS = 2
"""Jackknife standard errors that a band is wide, at least: 95 %."""
LEAST_SIZES = 3
"""Numbers of pages that a model is made of, at least."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A point that was measured.

    Attributes:
        size: what was gone through.
        ns: CPU time, the median of all rounds.
        spread: half of the width of the median's confidence interval (95 %), a share of the median.
        n_rounds: how many.
    """

    size: ScanSize
    ns: float
    spread: float
    n_rounds: int


class Estimate(NamedTuple):
    """What a model says of a size: ``ns``, NaN where it has no number, and ``why_not``; ``error``, the band,
    is a share of ``ns``."""

    ns: float
    error: float
    why_not: str = ""


@dataclass(frozen=True, slots=True)
class Fit:
    """A fixed part and slopes, none of them below 0, in the order of ``terms``."""

    terms: tuple[str, ...]
    fixed_ns: float
    each_ns: tuple[float, ...]

    def ns(self, size: ScanSize) -> float:
        """Return the time of a size."""
        return self.fixed_ns + float(np.dot(self.each_ns, _counts(self.terms, size)))


@dataclass(frozen=True, slots=True)
class StepModel:
    """The model of one step.

    Attributes:
        name: of the step.
        terms: see :class:`gpuscan.designs.steps.ScanStep`.
        points: what it was made of.
        fit: all of them; None where there are too few.
        without: for each number of pages, in order, the fit of all others.
        off: for each number of pages the worst error of the fit without it, (model - measured) / measured.
        why_not: why it has no number for any size, "" where it may have one.
    """

    name: str
    terms: tuple[str, ...]
    points: tuple[Measured, ...]
    fit: Fit | None
    without: tuple[Fit, ...]
    off: dict[int, float]
    why_not: str

    @property
    def error(self) -> float:
        """The worst of ``off`` without its sign; NaN where there is none."""
        return max(map(abs, self.off.values()), default=float("nan"))

    @property
    def look_ns(self) -> float:
        """What one of its first term took, all else included, in the largest measured; NaN without any."""
        if not self.points:
            return float("nan")
        largest = max(self.points, key=lambda point: (point.size.n_pages, -point.size.n_candidates))
        return largest.ns / _counts(self.terms, largest.size)[0]

    @property
    def found_ns(self) -> float:
        """What a candidate takes beside the looks; 0 where looks are at candidates, or where none shows."""
        if self.fit is None or "candidate" not in self.terms[1:]:
            return 0.0
        return self.fit.each_ns[self.terms.index("candidate")]

    def at(self, size: ScanSize) -> Estimate:
        """Return the modelled time of a size."""
        nan = float("nan")
        if self.why_not:
            return Estimate(nan, nan, self.why_not)
        assert self.fit is not None
        ns = self.fit.ns(size)
        others = np.array([fit.ns(size) for fit in self.without]) / ns
        n = len(others)
        jackknife = ((n - 1) / n * ((others - others.mean()) ** 2).sum()) ** 0.5
        return Estimate(ns, max(self.error, _DEVIATIONS * float(jackknife)))


def modelled(name: str, terms: tuple[str, ...], points: Sequence[Measured]) -> StepModel:
    """Return the model of a step from what was measured of it."""
    pages = sorted({int(point.size.n_pages) for point in points})
    if len(pages) < LEAST_SIZES:
        why_not = "no model: too little memory"
        return StepModel(name, terms, tuple(points), None, (), {}, why_not)
    fit, without, off = fitted(terms, points), [], {}
    for n_pages in pages:
        others = [point for point in points if int(point.size.n_pages) != n_pages]
        left_out = [point for point in points if int(point.size.n_pages) == n_pages]
        without.append(fitted(terms, others))
        off[n_pages] = max((without[-1].ns(point.size) / point.ns - 1 for point in left_out), key=abs)
    return StepModel(name, terms, tuple(points), fit, tuple(without), off, _flat(fit))


def summed(estimates: Sequence[Estimate]) -> Estimate:
    """Return the time of several steps, one after the other; no number where one has none, or where the sum
    may be off by more than :data:`MOST_ERROR`."""
    nan = float("nan")
    for estimate in estimates:
        if estimate.why_not:
            return Estimate(nan, nan, estimate.why_not)
    ns = sum(estimate.ns for estimate in estimates)
    error = sum(estimate.ns * estimate.error for estimate in estimates) / ns
    if error > MOST_ERROR:
        return Estimate(nan, error, f"no model: off by {error:.0%}")
    return Estimate(ns, error)


def _flat(fit: Fit) -> str:
    """Return why a fit is no model: a slope that is 0."""
    flat = [term for term, ns in zip(fit.terms, fit.each_ns, strict=True) if not ns > 0]
    return f"no model: 0 ns per {flat[0]}" if flat else ""


def fitted(terms: tuple[str, ...], points: Sequence[Measured]) -> Fit:
    """Return the fit of least relative squares in which nothing is below 0.

    There are so few terms that each choice of those above 0 is tried.
    """
    counts = np.array([(1.0, *_counts(terms, point.size)) for point in points])
    relative = counts / np.array([point.ns for point in points])[:, None]
    best, least = np.zeros(len(terms) + 1), float("inf")
    places = range(len(terms) + 1)
    for chosen in chain.from_iterable(combinations(places, n) for n in range(1, len(terms) + 2)):
        part = relative[:, chosen]
        scale = np.linalg.norm(part, axis=0)
        if not scale.all():
            continue
        found = np.linalg.lstsq(part / scale, np.ones(len(points)), rcond=None)[0] / scale
        squares = float(((part @ found - 1) ** 2).sum())
        if (found >= 0).all() and squares < least:
            best, least = np.zeros(len(terms) + 1), squares
            best[list(chosen)] = found
    return Fit(terms, float(best[0]), tuple(best[1:].tolist()))


def spread_of(times_ns: NDArray[np.float64]) -> float:
    """Return half of the width of the 95 % confidence interval of the median of float64[n], a share of it.

    By ranks, so that no distribution is assumed.
    """
    ordered, n = np.sort(times_ns), len(times_ns)
    low = max(0, int(n / 2 - 0.98 * n**0.5))
    return float((ordered[n - 1 - low] - ordered[low]) / 2 / np.median(ordered))


def _counts(terms: tuple[str, ...], size: ScanSize) -> list[float]:
    return [float(getattr(size, TERMS[term])) for term in terms]
