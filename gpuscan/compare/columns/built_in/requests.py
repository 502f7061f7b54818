"""What becomes of the open loop's requests."""

from __future__ import annotations

import math

from gpuscan.compare.columns.contract import Column, Columns, Figures, Value, lost_of


def _never_ready(figures: Figures) -> Value:
    # The list has requests, and only a producer that records makes gpuscan count accesses.
    remark = "(marked by request)" if figures.declared.runs_on_a_store else ""
    return Value(float(figures.opened.never_ready), remark=remark)


def _false_promotions(figures: Figures) -> Value:
    if not figures.declared.asks_time:
        return Value(why_not="asks no time")
    return Value(float(figures.opened.false_promotions))


def _resched(figures: Figures) -> Value:
    stretch_ns = figures.opened.no_resched_ns
    if math.isnan(stretch_ns):
        return Value(why_not="user space: preemptible")
    return Value(stretch_ns)


COLUMNS = Columns(
    40,
    (
        Column(
            key="wrong_node_open",
            title="sent to the wrong node",
            loop="open",
            how="modelled",
            unit="count",
            better="smaller",
            value=lambda f: Value(float(f.opened.wrong_node)),
            how_on_a_store="counted",
        ),
        Column(
            key="lost_open",
            title="requests lost",
            loop="open",
            how="modelled",
            unit="count",
            better="smaller",
            value=lambda f: lost_of(f.opened.lost),
            how_on_a_store="counted",
        ),
        Column(
            key="not_ready",
            title="marks that left no page READY",
            loop="open",
            how="modelled",
            unit="count",
            better="neither",
            value=_never_ready,
            how_on_a_store="counted",
        ),
        Column(
            key="false_promotions",
            title="promoted by a time that wrapped",
            loop="open",
            how="modelled",
            unit="count",
            better="smaller",
            value=_false_promotions,
        ),
        Column(
            key="no_resched",
            title="longest without cond_resched",
            loop="open",
            how="modelled",
            unit="ns",
            better="smaller",
            value=_resched,
        ),
    ),
)
