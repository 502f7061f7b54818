"""What becomes of the open loop's requests."""

from __future__ import annotations

import math

from gpuscan.compare.columns.contract import Column, Columns, Figures, Value, ended


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
            explain="Pages handed over for another node than the one that was asked for, or for a node that "
            "is not there.",
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
            explain="Pages that should have moved and that the design has forgotten: no batch has them, and "
            "nothing looks for them any more.",
            loop="open",
            how="modelled",
            unit="count",
            better="smaller",
            value=lambda f: ended(f.endings_open.lost),
            how_on_a_store="counted",
        ),
        Column(
            key="overtaken_open",
            title="marks overtaken",
            explain="Marks of pages that were marked again for another node before they were found: the page "
            "goes where the newer mark says.",
            loop="open",
            how="modelled",
            unit="count",
            better="neither",
            value=lambda f: ended(f.endings_open.overtaken),
            how_on_a_store="counted",
        ),
        Column(
            key="without_need_open",
            title="marks without need",
            explain="Marks that ended because nothing had to be done: the page is where it was asked to go.",
            loop="open",
            how="modelled",
            unit="count",
            better="neither",
            value=lambda f: ended(f.endings_open.without_need),
            how_on_a_store="counted",
        ),
        Column(
            key="not_ready",
            title="marks without a request",
            explain="Accesses that were counted and no more, since the design wants several of them before "
            "it calls a page hot.",
            loop="open",
            how="modelled",
            unit="count",
            better="neither",
            value=_never_ready,
            how_on_a_store="counted",
        ),
        Column(
            key="false_promotions",
            title="promoted by a wrapped time",
            explain="Pages batched though their last access was long ago: the few bits of the record's clock "
            "had gone around and made it look recent.",
            loop="open",
            how="modelled",
            unit="count",
            better="smaller",
            value=_false_promotions,
        ),
        Column(
            key="no_resched",
            title="longest without resched",
            explain="The longest time that a walk kept its CPU without offering it to others "
            "(cond_resched()).",
            loop="open",
            how="modelled",
            unit="ns",
            better="smaller",
            value=_resched,
        ),
    ),
)
