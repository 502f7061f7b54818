"""What the open loop makes batches of."""

from __future__ import annotations

from gpuscan.compare.columns.contract import Column, Columns, Figures, Value


def _fill(figures: Figures) -> Value:
    fills = figures.opened.fills
    if not len(fills):
        return Value(why_not="no batch")
    remark = "" if figures.opened.fill_unit == "folios" else f"(by {figures.opened.fill_unit})"
    return Value(float(fills.mean()) / figures.opened.batch_limit, remark=remark)


COLUMNS = Columns(
    30,
    (
        Column(
            key="batches",
            title="batches",
            explain="How many times the design handed pages over to be moved; each time costs a round of TLB "
            "flushes.",
            loop="open",
            how="modelled",
            unit="count",
            better="neither",
            value=lambda f: Value(float(len(f.opened.fills))),
            how_on_a_store="counted",
        ),
        Column(
            key="fill",
            title="  how full, mean",
            explain="How much of what a batch may hold it held on average; emptier batches mean more rounds "
            "for the same pages.",
            loop="open",
            how="modelled",
            unit="share",
            better="larger",
            value=_fill,
            how_on_a_store="counted",
        ),
    ),
)
