"""What designs reach where all of them may cost the same, see :mod:`gpuscan.compare.equal_cost`."""

from __future__ import annotations

from collections.abc import Callable

from gpuscan.compare.columns.contract import Column, Columns, Figures, Value
from gpuscan.compare.equal_cost import DELAY_NS, SHARES, EqualCost, Reached


def _of(reached: Callable[[EqualCost], Reached]) -> Callable[[Figures], Value]:
    def value(figures: Figures) -> Value:
        if figures.equal_cost is None:
            return Value(why_not="not measured")
        found = reached(figures.equal_cost)
        return Value(found.number, found.why_not, found.remark)

    return value


COLUMNS = Columns(
    25,
    (
        Column(
            key="delay_at_1_percent",
            title="found, p50, at 1% of a core",
            explain="How long half of the pages waited where the design's threads sleep so long that all of "
            "them take 1 % of one core.",
            loop="open",
            how="modelled",
            unit="ns",
            better="smaller",
            value=_of(lambda cost: cost.delay_at(SHARES[0])),
        ),
        Column(
            key="delay_at_10_percent",
            title="  at 10% of a core",
            explain="The same where they may take 10 % of one core.",
            loop="open",
            how="modelled",
            unit="ns",
            better="smaller",
            value=_of(lambda cost: cost.delay_at(SHARES[1])),
        ),
        Column(
            key="core_for_10_ms",
            title="of a core, p50 of 10 ms",
            explain="What share of one core the threads of the design take where half of the pages are found "
            "within 10 ms.",
            loop="open",
            how="modelled",
            unit="share",
            better="smaller",
            value=_of(lambda cost: cost.share_at(DELAY_NS)),
        ),
    ),
)
