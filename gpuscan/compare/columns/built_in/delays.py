"""How long the open loop's requests wait until they are found."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np

from gpuscan.compare.columns.contract import Column, Columns, Figures, Value

_EDGE = 0.1
"""Part of what was found that counts as the low end of the zones, and as the high end."""


def _delay(percent: float) -> Callable[[Figures], Value]:
    def value(figures: Figures) -> Value:
        delays = figures.opened.delays_ns
        if not len(delays):
            return Value(why_not="found none")
        return Value(float(np.percentile(delays, percent)))

    return value


def _delay_at(edge: Literal["low", "high"]) -> Callable[[Figures], Value]:
    def value(figures: Figures) -> Value:
        place = figures.opened.place_in_zone
        if not len(place):
            return Value(why_not="found none")
        low, high = np.quantile(place, (_EDGE, 1 - _EDGE))
        there = place <= low if edge == "low" else place >= high
        return Value(float(np.median(figures.opened.delays_ns[there])))

    return value


COLUMNS = Columns(
    20,
    (
        Column(
            key="delay_p50",
            title="mark to found, p50",
            explain="Half of the pages that were found waited at most this long from their first mark until "
            "the design came to them.",
            loop="open",
            how="modelled",
            unit="ns",
            better="smaller",
            value=_delay(50),
        ),
        Column(
            key="delay_p99",
            title="mark to found, p99",
            explain="Ninety-nine of a hundred pages that were found waited at most this long.",
            loop="open",
            how="modelled",
            unit="ns",
            better="smaller",
            value=_delay(99),
        ),
        Column(
            key="delay_low",
            title="  p50, lowest PFNs",
            explain="The same median for the tenth of the pages at the low end of their zone, where a walk "
            "begins.",
            loop="open",
            how="modelled",
            unit="ns",
            better="neither",
            value=_delay_at("low"),
        ),
        Column(
            key="delay_high",
            title="  p50, highest PFNs",
            explain="The same median for the tenth at the high end of their zone, where a walk ends.",
            loop="open",
            how="modelled",
            unit="ns",
            better="neither",
            value=_delay_at("high"),
        ),
    ),
)
