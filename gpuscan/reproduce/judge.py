"""Lays ours beside what was published: difference, bar, order."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

from gpuscan.reproduce.contract import BARS, Experiment, Order, Outcome, Published

Verdict = Literal["reached", "missed", "fitted", "shown"]
_ROUNDING = 1e-9
"""Of the bar: 2.2 is within 10 % of 2.0."""
_UNEXPLAINED = "nobody knows yet what is missing"


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """A published figure with ours.

    Attributes:
        figure: as published.
        ours: None where it could not be had.
        difference: of ours, as a share of the published one; None where there is none.
        verdict: ``fitted`` and ``shown`` are in no count.
        why: of a missed one, what is missing.
    """

    figure: Published
    ours: float | None
    difference: float | None
    verdict: Verdict
    why: str


@dataclass(frozen=True, slots=True)
class JudgedOrder:
    """An order of published figures, and whether ours are in it.

    Attributes:
        order: as published.
        as_published: every two of them are.
        why: where they are not, what is missing.
    """

    order: Order
    as_published: bool
    why: str


@dataclass(frozen=True, slots=True)
class Judged:
    """An experiment with its rows."""

    name: str
    experiment: Experiment
    outcome: Outcome
    rows: tuple[JudgedRow, ...]
    orders: tuple[JudgedOrder, ...]

    @property
    def n_judged(self) -> int:
        """Rows and orders that could be reached."""
        return sum(row.verdict in ("reached", "missed") for row in self.rows) + len(self.orders)

    @property
    def n_reached(self) -> int:
        """Of them, those that were."""
        orders = sum(order.as_published for order in self.orders)
        return sum(row.verdict == "reached" for row in self.rows) + orders


def judge(name: str, experiment: Experiment, outcome: Outcome) -> Judged:
    """Return every row and order of an experiment with its verdict."""
    rows = tuple(_judge(figure, outcome.figures) for figure in experiment.published)
    orders = tuple(_judge_order(order, experiment, outcome.figures) for order in experiment.orders)
    return Judged(name, experiment, outcome, rows, orders)


def _judge(figure: Published, figures: Mapping[str, float]) -> JudgedRow:
    ours = figures.get(figure.key)
    if ours is not None and not math.isfinite(ours):
        ours = None
    difference = None
    if ours is not None and figure.value:
        difference = (ours - figure.value) / abs(figure.value)
    bar = BARS[figure.kind]
    if bar is None or figure.fitted:
        return JudgedRow(figure, ours, difference, "fitted" if figure.fitted else "shown", figure.missing)
    within = ours == figure.value if difference is None else abs(difference) <= bar * (1 + _ROUNDING)
    if within:
        return JudgedRow(figure, ours, difference, "reached", "")
    return JudgedRow(figure, ours, difference, "missed", figure.missing or _UNEXPLAINED)


def _judge_order(order: Order, experiment: Experiment, figures: Mapping[str, float]) -> JudgedOrder:
    """Compare every two: the sign of their difference is the published one's."""
    values = {figure.key: figure.value for figure in experiment.published}
    as_published = all(key in figures for key in order.keys) and all(
        _sign(values[above] - values[below]) == _sign(figures[above] - figures[below])
        for below, above in combinations(order.keys, 2)
    )
    return JudgedOrder(order, as_published, "" if as_published else order.missing or _UNEXPLAINED)


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
