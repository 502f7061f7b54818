"""What a design reaches at a given cost: the open loop again, at other intervals.

How soon a scan finds a page is a matter of how often it is asked to, and that is a matter of what one scan
costs. So each design is run at intervals by which its threads take a given share of one core, all of them
together, and at one by which the median delay is a given one. Every figure comes from runs: between two of
them it is interpolated (both axes by logarithms), and beyond the longest interval that the list has room for
only where cost times delay has come to stand still, as it does for scans that always cost the same.

A thread sleeps its whole interval after each scan here. As published those of RFC v1 do not where a page is
marked while they walk, which is nearly always: no interval would keep them from a core.

What the threads take is charged from the cost model: looks, sections that are asked, pages that are
found, and waking up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from gpuscan.base.units import format_time
from gpuscan.compare.open_loop import OpenResult

SHARES = (0.01, 0.1)
"""Of one core's time, that the threads of a design may take."""
DELAY_NS = 10_000_000
"""Median delay whose cost is asked for."""
LEAST_NS = 1_000_000
"""Intervals are whole milliseconds: a kernel's timers and settings have no shorter ones."""
MOST_REQUESTS, LEAST_REQUESTS = 200_000, 5_000
"""Of the list that a run is given, its first ones; a run has at least as many periods as it needs."""
PERIODS, LEAST_PERIODS = 10, 3
_TRIES = 2
_CLOSE = 1.1
_LAW = 0.15
"""How far from -1 the exponent of cost over period may be to go on beyond the longest."""
_LADDER_MS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)


@dataclass(frozen=True, slots=True)
class CostPoint:
    """One run.

    Attributes:
        interval_ns: that the threads waited.
        share: of one core's time, all threads.
        p50_ns, p99_ns: delay from mark to found.
        period_ns: interval and scan.
        n_found, n_scans: in the run.
    """

    interval_ns: int
    share: float
    p50_ns: float
    p99_ns: float
    period_ns: float
    n_found: int
    n_scans: int


@dataclass(frozen=True, slots=True)
class Reached:
    """What is reached at a cost (or the cost of what is to be reached): ``number``, NaN where there is none,
    and ``why_not``; ``remark`` where it is reached with less, or was no longer run."""

    number: float
    why_not: str = ""
    remark: str = ""


@dataclass(frozen=True, slots=True)
class EqualCost:
    """All runs of a design, by falling period; ``why_not`` where there are none."""

    points: tuple[CostPoint, ...]
    why_not: str = ""

    def delay_at(self, share: float) -> Reached:
        """Return the median delay (ns) where the threads may take a share of one core."""
        nan, points = float("nan"), self.points
        if not points:
            return Reached(nan, self.why_not)
        slowest, fastest = points[0], points[-1]
        if fastest.share <= share:
            return Reached(fastest.p50_ns, remark=f"(takes {fastest.share:.1%})")
        if slowest.share > share * _CLOSE:
            exponent = self._exponent
            if abs(exponent + 1) <= _LAW:
                return Reached(slowest.p50_ns * slowest.share / share, remark="(by its period)")
            if exponent > -0.5:
                return Reached(nan, f"takes {slowest.share:.1%} at least")
            return Reached(nan, f"over {format_time(slowest.p50_ns)}")
        return Reached(_between(share, [(point.share, point.p50_ns) for point in points]))

    def share_at(self, delay_ns: float) -> Reached:
        """Return the share of one core that a median delay takes."""
        nan, points = float("nan"), self.points
        if not points:
            return Reached(nan, self.why_not)
        slowest, fastest = points[0], points[-1]
        if fastest.p50_ns > delay_ns * _CLOSE:
            return Reached(nan, f"{format_time(fastest.p50_ns)} at best")
        if slowest.p50_ns < delay_ns / _CLOSE:
            return Reached(slowest.share, remark="(and sooner)")
        return Reached(_between(delay_ns, [(point.p50_ns, point.share) for point in points]))

    @property
    def _exponent(self) -> float:
        """Of the share over the period, between the longest and the next that is not about the same; NaN
        without one."""
        longest = self.points[0]
        for point in self.points[1:]:
            if longest.period_ns > point.period_ns * _CLOSE:
                return math.log(longest.share / point.share) / math.log(longest.period_ns / point.period_ns)
        return float("nan")


def _between(at: float, points: Sequence[tuple[float, float]]) -> float:
    """Return a value between points (x, y), both by logarithms; the first or last one's beyond."""
    xs, ys = zip(*sorted(points), strict=True)
    return float(np.exp(np.interp(np.log(at), np.log(xs), np.log(ys))))


def search(
    own: OpenResult,
    list_ns: int,
    run: Callable[[int, int], OpenResult],
    spent_ns: Callable[[OpenResult], float],
    allowed: Callable[[int], bool],
    on_share: Callable[[float], None],
) -> EqualCost:
    """Run a design at the intervals that its costs ask for.

    Args:
        own: its run as published, which says what a scan is about to take.
        list_ns: length of the whole list.
        run: runs it at an interval (ns), over the first so many ns of the list.
        spent_ns: what the threads took in a run.
        allowed: whether it takes an interval.
        on_share: told of shares of 1.
    """
    if not own.found:
        on_share(1)
        return EqualCost((), "found none")
    longest_ns = max(LEAST_NS, list_ns // LEAST_PERIODS)
    periods_ns = PERIODS * _scan_ns(own)
    known, points = [_expected(own, spent_ns)], list[CostPoint]()
    targets: list[tuple[str, float]] = [("share", share) for share in SHARES]
    targets += [("delay", DELAY_NS), ("delay", 0)]
    needs_all = False
    for what, target in targets:
        for _ in range(_TRIES):
            interval_ns = _taken(_wanted(known, what, target), longest_ns, allowed)
            if interval_ns is None or any(point.interval_ns == interval_ns for point in points):
                break
            upto_ns = list_ns if needs_all else min(list_ns, PERIODS * interval_ns + periods_ns)
            result = run(interval_ns, upto_ns)
            if not result.found and upto_ns < list_ns:  # who wants a page twice finds none in so little
                needs_all = True
                result = run(interval_ns, list_ns)
            if not result.found:
                break
            points.append(_point(result, spent_ns))
            known = points
            reached = points[-1].share if what == "share" else points[-1].p50_ns
            if target and 1 / _CLOSE < reached / target < _CLOSE:
                break
        on_share(1 / len(targets))
    points.sort(key=lambda point: -point.period_ns)
    why_not = f"found none in the list's first {format_time(list_ns)}, which these runs are of"
    return EqualCost(tuple(points), "" if points else why_not)


def _point(result: OpenResult, spent_ns: Callable[[OpenResult], float]) -> CostPoint:
    p50_ns, p99_ns = np.percentile(result.delays_ns, (50, 99)).tolist()
    period_ns = result.interval_ns + _scan_ns(result)
    share = spent_ns(result) / result.end_ns
    return CostPoint(
        result.interval_ns, share, p50_ns, p99_ns, period_ns, len(result.delays_ns), result.n_scans
    )


def _expected(own: OpenResult, spent_ns: Callable[[OpenResult], float]) -> CostPoint:
    """Return about what a run at the published interval would be, its threads sleeping it out."""
    period_ns, each_ns = own.interval_ns + _scan_ns(own), spent_ns(own) / max(1, own.n_scans)
    share = own.n_threads * each_ns / period_ns
    return CostPoint(own.interval_ns, share, period_ns / 2, period_ns, period_ns, 0, 0)


def _scan_ns(result: OpenResult) -> int:
    return round(result.scan_ns / max(1, result.n_scans))


def _wanted(points: Sequence[CostPoint], what: str, target: float) -> float:
    """Return the interval by which the nearest run would come to a target, where a period costs the same."""
    if not target:
        return LEAST_NS
    got = {point: point.share if what == "share" else point.p50_ns for point in points}
    nearest = min(points, key=lambda point: abs(math.log(got[point] / target)))
    factor = got[nearest] / target
    period_ns = nearest.period_ns * (factor if what == "share" else 1 / factor)
    return period_ns - (nearest.period_ns - nearest.interval_ns)


def _taken(wanted_ns: float, longest_ns: int, allowed: Callable[[int], bool]) -> int | None:
    """Return the interval next to a wanted one that a design takes, in whole milliseconds; None for none."""
    most_ms = max(1, longest_ns // LEAST_NS)
    interval_ns = min(max(1, round(wanted_ns / LEAST_NS)), most_ms) * LEAST_NS
    if allowed(interval_ns):
        return interval_ns
    taken = [ms * LEAST_NS for ms in _LADDER_MS if ms <= most_ms and allowed(ms * LEAST_NS)]
    return min(taken, key=lambda ns: abs(math.log(ns / interval_ns)), default=None)
